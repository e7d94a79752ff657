"""Traces: what is written comes back, three formats say the same, and what cannot be a trace is refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import IN_BLOCK, STAGES, default_axes, graph_order, tap_name
from opdiff.graphs.taps import Source, Tap
from opdiff.graphs.trace import load_trace, save_trace

KINDS = [np.float16, np.float32, np.float64, np.dtype(ml_dtypes.bfloat16)]
TOKENS = (1, 5, 3)
N_TOKENS, HEADS, HEAD_DIM = 3, 4, 2


def value(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def foreign() -> dict[str, np.ndarray]:
    """What a runtime may dump: stages under their own names, in the usual layouts, and something else."""
    return {
        "tokens": np.array(TOKENS, np.int32),
        "logits": value(1, N_TOKENS, 7),
        "blk.1.q_rope": value(N_TOKENS, HEADS, HEAD_DIM, seed=1),
        "blk.0.q_proj": value(1, N_TOKENS, HEADS * HEAD_DIM, seed=2),
        "blk.0.attn_scores": np.where(np.tri(N_TOKENS) > 0, value(HEADS, N_TOKENS, N_TOKENS, seed=3), -np.inf),
        "embed": value(N_TOKENS, 8, seed=4),
        "scratch": value(2, 2, seed=5),
    }


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    {".npz": _npz, ".safetensors": _safetensors, ".gguf": _gguf}[path.suffix](path, tensors)
    return path


def _npz(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    np.savez(path, **tensors)


def _safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    safetensors.numpy.save_file({name: np.ascontiguousarray(v) for name, v in tensors.items()}, path)


def _gguf(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    writer = GGUFWriter(path, "trace")
    for name, v in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(v))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refusal(path: Path, names: Path | None = None) -> str:
    with pytest.raises(InputError) as e:
        load_trace(path, names)
    text = str(e.value)
    assert str(names or path) in text
    assert "\n" not in text
    return text


@st.composite
def traces(draw):
    """Stages with values of any float type, no NaN or Inf, in any of the axes that a tracer may have."""
    n_tokens = draw(st.integers(1, 4))
    blocks = st.integers(0, 11)
    names = st.one_of(st.sampled_from(["embed", "final_norm"]), st.builds(tap_name, st.sampled_from(IN_BLOCK), blocks))
    pairs = []
    for name in draw(st.lists(names, unique=True, min_size=1, max_size=5)):
        axes = draw(st.permutations(["token", "head", "channel"]))
        shape = tuple(n_tokens if word == "token" else draw(st.integers(1, 3)) for word in axes)
        dtype = draw(st.sampled_from(KINDS))
        v = draw(arrays(np.float16, shape, elements=st.floats(-9, 9, width=16))).astype(dtype)
        node = Source(draw(st.text(max_size=5)), "ROPE", draw(st.none() | st.just("s")), None)
        pairs.append((Tap(name, tuple(axes), node), v))
    tokens = draw(st.none() | st.lists(st.integers(0, 2**62), min_size=n_tokens, max_size=n_tokens))
    return tokens, pairs


@given(traces(), st.text(max_size=8), st.dictionaries(st.sampled_from(["config", "options"]), st.text(max_size=8)))
@settings(max_examples=60, deadline=None)
def test_what_is_saved_comes_back_in_graph_order(made, runtime, facts):
    tokens, pairs = made
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        save_trace(path, runtime, tokens, pairs, facts)
        trace = load_trace(path)
        assert (trace.runtime, trace.facts, trace.unknown) == (runtime, facts, ())
        assert trace.tokens == (None if tokens is None else tuple(tokens))
        assert list(trace.taps) == list(trace.values) == sorted((tap.name for tap, _ in pairs), key=graph_order)
        for tap, v in pairs:
            assert trace.taps[tap.name] == tap
            wide = np.float64 if v.dtype == np.float64 else np.float32
            assert trace.values[tap.name].dtype == wide
            np.testing.assert_array_equal(trace.values[tap.name], v.astype(wide))
        assert len(list(Path(folder).iterdir())) == 1


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".gguf"])
def test_a_foreign_file_needs_nothing_but_names(tmp_path, ending):
    tensors = foreign()
    trace = load_trace(write(tmp_path / f"mine{ending}", tensors))
    assert (trace.runtime, trace.tokens, trace.unknown) == ("mine", TOKENS, ("scratch",))
    axes = {name: " ".join(tap.axes) for name, tap in trace.taps.items()}
    assert axes == {
        "embed": "token channel",
        "blk.0.q_proj": "batch token channel",
        "blk.0.attn_scores": "head token key",
        "blk.1.q_rope": "token head channel",
        "logits": "batch token vocab",
    }
    assert list(axes) == list(trace.taps)
    for name, v in trace.values.items():
        np.testing.assert_array_equal(v, tensors[name])
    assert trace.values["embed"].dtype == np.float32


def test_a_mapped_value_is_not_read_into_memory(tmp_path):
    trace = load_trace(write(tmp_path / "t.safetensors", foreign()))
    base = trace.values["embed"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


MAP = """
[names]
"layers.{N}.attn.q" = "blk.{N}.q_rope"
"input_ids" = "tokens"
"out" = "logits"
[axes]
q_rope = "head token channel"
"""


def test_a_name_map_gives_names_and_axes(tmp_path):
    (tmp_path / "names.toml").write_text(MAP)
    tensors = {
        "layers.7.attn.q": value(HEADS, N_TOKENS, HEAD_DIM),
        "layers.12.attn.q": value(HEADS, N_TOKENS, HEAD_DIM, seed=1),
        "out": value(N_TOKENS, 5),
        "input_ids": np.array([TOKENS], np.int64),
        "layers.x.attn.q": value(1),
    }
    trace = load_trace(write(tmp_path / "t.npz", tensors), tmp_path / "names.toml")
    assert list(trace.taps) == ["blk.7.q_rope", "blk.12.q_rope", "logits"]
    assert trace.taps["blk.7.q_rope"].axes == ("head", "token", "channel")
    assert trace.taps["blk.7.q_rope"].node.name == "layers.7.attn.q"
    assert (trace.tokens, trace.unknown) == (TOKENS, ("layers.x.attn.q",))
    np.testing.assert_array_equal(trace.values["blk.12.q_rope"], tensors["layers.12.attn.q"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[names", "TOML"),
        ('[names]\n"a" = "logits"\n"a" = "embed"', "TOML"),
        ('[names]\n"a" = "logits"\n"b" = "logits"', '"a" and "b" are both logits'),
        ('[names]\n"a{N}" = "logits"', "{N}"),
        ('[names]\n"a" = "blk.{N}.q_proj"', "{N}"),
        ('[names]\n"a" = "q_proj"', "no stage"),
        ('[names]\n"a" = 5', "[names]"),
        ('names = "a"', "[names]"),
        ("[name]", "[names]"),
        ('[axes]\nq_rope = "token heads channel"', "token head key"),
        ('[axes]\n"blk.0.q_rope" = "token channel"', "leave out the block"),
    ],
)
def test_a_bad_name_map_is_refused(tmp_path, text, word):
    (tmp_path / "n.toml").write_text(text)
    assert word in refusal(write(tmp_path / "t.npz", foreign()), tmp_path / "n.toml")


def test_two_tensors_of_one_stage_are_refused(tmp_path):
    (tmp_path / "n.toml").write_text('[names]\n"out" = "logits"')
    path = write(tmp_path / "t.npz", {**foreign(), "out": value(N_TOKENS, 7)})
    with pytest.raises(InputError, match="logits and out are both logits"):
        load_trace(path, tmp_path / "n.toml")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["embed", "blk.0.attn_scores"])
def test_what_is_not_finite_is_refused_but_for_a_mask(tmp_path, name, bad):
    tensors = foreign()
    tensors[name] = tensors[name].copy()
    tensors[name].flat[1] = bad
    path = write(tmp_path / "t.npz", tensors)
    if name == "blk.0.attn_scores" and bad == -np.inf:
        assert np.isneginf(load_trace(path).values[name].flat[1])
    else:
        assert f"tensor {name}" in refusal(path)


@pytest.mark.parametrize(
    ("name", "v", "word"),
    [
        ("embed", value(8), "token channel"),
        ("embed", value(2, 8), "token is 2, where 3 is wanted"),
        ("embed", value(2, 3, 8), "batch is 2"),
        ("embed", np.empty((3, 0), np.float32), "channel is 0"),
        ("blk.0.attn_scores", value(4, 3, 256), "key is 256"),
        ("embed", np.array([["a", "b"]] * 3), "no number"),
        ("embed", np.ones((3, 2), np.bool_), "no number"),
        ("embed", np.ones((3, 2), np.complex64), "no number"),
        ("tokens", np.array([1.0, 2.0, 3.0]), "int32"),
        ("tokens", np.array([-1, 2, 3]), "int32"),
        ("tokens", np.array([], np.int64), "int32"),
    ],
)
def test_a_tensor_that_cannot_be_its_stage_is_refused(tmp_path, name, v, word):
    text = refusal(write(tmp_path / "t.npz", {**foreign(), name: v}))
    assert f"tensor {name}" in text
    assert word in text


def test_shapes_must_agree_where_the_tokens_are_not_said(tmp_path):
    tensors = foreign()
    del tensors["tokens"]
    assert load_trace(write(tmp_path / "t.npz", tensors)).tokens is None
    assert "blk.0.q_proj" in refusal(write(tmp_path / "t.npz", {**tensors, "blk.0.q_proj": value(2, 8)}))


def test_a_file_without_any_stage_says_what_it_has(tmp_path):
    assert "it has scratch" in refusal(write(tmp_path / "t.npz", {"scratch": value(2, 2)}))
    assert "no tensors" in refusal(write(tmp_path / "e.npz", {}))


def test_python_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", logits=np.array([{}], dtype=object))
    assert "plain arrays" in refusal(tmp_path / "t.npz")


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".gguf"])
def test_no_damage_to_a_file_ends_in_anything_but_a_refusal(tmp_path, ending):
    data = write(tmp_path / f"whole{ending}", foreign()).read_bytes()
    path, generator = tmp_path / f"t{ending}", np.random.default_rng(0)
    for cut in (0, 4, 9, 30, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:cut])
        refusal(path)
    n_refused = 0
    for _ in range(150):
        spoiled = bytearray(data)
        for place in generator.integers(0, min(len(data), 600), 3):
            spoiled[place] = generator.integers(256)
        path.write_bytes(spoiled)
        try:
            load_trace(path)
        except InputError as e:
            assert "\n" not in str(e)
            n_refused += 1
    assert n_refused > 20


def test_a_gguf_that_promises_more_than_it_has_is_refused_at_once(tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    endless = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 60)  # an array of 2^60 numbers
    (tmp_path / "t.gguf").write_bytes(head + endless)
    assert "asks for byte" in refusal(tmp_path / "t.gguf")


def test_quantised_values_are_refused(tmp_path):
    writer = GGUFWriter(tmp_path / "t.gguf", "trace")
    writer.add_tensor("embed", np.zeros((3, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "Q8_0" in refusal(tmp_path / "t.gguf")


def test_other_paths_and_other_tables_are_refused(tmp_path):
    assert ".npz" in refusal(tmp_path / "t.txt")
    assert "no such file" in refusal(tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "a folder" in refusal(tmp_path / "folder.npz")
    for key, text in (("taps", "[1]"), ("taps", '{"embed": {}}'), ("format", "opdiff.trace/9")):
        path = tmp_path / "t.safetensors"
        safetensors.numpy.save_file({"embed": value(3, 2)}, path, {f"opdiff.{key}": text})
        refusal(path)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_trace(tmp_path / "none" / "t.safetensors", "r", None, [], {})
    assert list(tmp_path.iterdir()) == []


def test_every_stage_has_axes_of_its_own():
    for stage in STAGES:
        layouts = [words for n in (2, 3, 4) for words in default_axes(stage, n)]
        assert len(layouts) >= 2
        assert all("token" in words for words in layouts)
    assert default_axes("scratch", 2) == ()


def test_the_files_own_metadata_is_plain(tmp_path):
    """The metadata that opdiff writes is texts in the safetensors header: others can read it."""
    tap = Tap("embed", ("token", "channel"), Source("n", "ADD", None, None))
    save_trace(tmp_path / "t.safetensors", "r 1", TOKENS, [(tap, value(3, 2))], {"config": "{}"})
    with safetensors.safe_open(tmp_path / "t.safetensors", "np") as file:
        metadata = file.metadata()
        assert file.get_tensor("tokens").tolist() == list(TOKENS)
    assert metadata["opdiff.runtime"] == "r 1"
    assert json.loads(metadata["opdiff.taps"])["embed"]["axes"] == "token channel"
