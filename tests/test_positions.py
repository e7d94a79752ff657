"""Positions from an offset on: what RoPE does behind a long context shows with a few tokens, in graphs and in traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import made_once
from families.models import family_model

from opdiff.__main__ import main
from opdiff.api import compare, export, trace
from opdiff.compare.report.sentences import coverage
from opdiff.compare.saved import read_result
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.trace import load_trace

TOKENS = (1, 5, 3, 9, 40, 77, 200, 13)
FAR = 100_000
SHORT, LONG = [1.1, 1.2, 1.3, 1.4], [2.0, 3.0, 4.0, 5.0]
PORT = '''
import torch

from opdiff.exporters.variants.reference import Reference


class Port(Reference):
    """Turns q as if it stood three positions further."""

    def forward(self, tokens, positions):
        ahead = self.rotary(positions + 3)
        for block in self.blocks:
            block.rotated = lambda x, cos, sin, b=block: b.rotate(x, *(ahead if x.shape[1] == b.n_heads else (cos, sin)))
        return super().forward(tokens, positions)


class NextRow(Reference):
    """Reads the table of positions one row further."""

    def forward(self, tokens, positions):
        return super().forward(tokens, positions + 1)


def port(checkpoint):
    return Port(checkpoint, "as_stored")


def next_row(checkpoint):
    return NextRow(checkpoint, "as_stored")
'''


def longrope(long: list[float]) -> dict[str, Any]:
    """Of an original context of 8 tokens."""
    rope = dict(rope_type="longrope", rope_theta=1e3, partial_rotary_factor=0.5, short_factor=SHORT, long_factor=long)
    return {"rope_parameters": rope}


MODELS: dict[str, Callable[[], Any]] = {
    "longrope": lambda: family_model("phi3", num_hidden_layers=1),
    "faulty": lambda: family_model("phi3", num_hidden_layers=1, **longrope(SHORT)),  # always the short list
    "llama3": lambda: family_model("llama with llama3 scaling", num_hidden_layers=1, max_position_embeddings=131072),
    "dynamic": lambda: family_model("llama with dynamic scaling", num_hidden_layers=1),
    "learned": lambda: family_model("gpt2", n_layer=1),
}


@pytest.fixture(scope="session")
def placed(tmp_path_factory, worker_id) -> Path:
    """A folder for each model: it as an HF folder, `hf`, and its graphs that take positions; plain: one that takes none."""

    def make(folder: Path) -> None:
        for name, model in MODELS.items():
            model().save_pretrained(folder / name / "hf")
        (folder / "port.py").write_text(PORT)
        export(folder / "longrope" / "hf", "reference", "hf", out=folder / "longrope", positions=True)
        export(folder / "faulty" / "hf", "hf", out=folder / "faulty", positions=True)
        export(
            folder / "llama3" / "hf", "reference", "hf", f"{folder}/port.py:port", out=folder / "llama3", positions=True
        )
        export(folder / "dynamic" / "hf", "reference", out=folder / "dynamic", positions=True)
        own = f"{folder}/port.py:next_row"
        export(folder / "learned" / "hf", "reference", "hf", own, out=folder / "learned", positions=True)
        export(folder / "longrope" / "hf", "reference", out=folder / "plain")

    return made_once(tmp_path_factory, worker_id, "positions", make)


def test_a_fault_behind_the_original_context_shows_with_an_offset_only(placed: Path):
    a, b = placed / "longrope" / "reference.onnx", placed / "faulty" / "hf.onnx"
    near = compare(a, b, tokens=TOKENS)
    assert near.parity
    (spot,) = (spot for spot in near.blind_spots if "q_rope" in spot.stages)
    assert "--position-offset 8 would show it." in spot.text
    for offset in (1, 8, FAR):
        far = compare(a, b, tokens=TOKENS, position_offset=offset)
        assert {one.tap for one in far.divergences} == {"blk.0.q_rope", "blk.0.k_rope"}
        assert [(cause.convention, cause.b_value) for cause in far.root_causes] == [("rope.scaling", "longrope_short")]
        assert far.closed.complete
        assert not any("q_rope" in spot.stages for spot in far.blind_spots)


@pytest.mark.parametrize(("model", "offset"), [("llama3", 0), ("llama3", FAR), ("longrope", FAR), ("learned", 50)])
def test_reference_and_hf_compute_the_same_at_any_positions(placed: Path, model: str, offset: int):
    result = compare(
        placed / model / "reference.onnx", placed / model / "hf.onnx", tokens=TOKENS, position_offset=offset
    )
    assert result.parity
    assert result.first_position == offset


def test_graphs_that_take_positions_are_those_that_count_them_at_0(placed: Path):
    result = compare(placed / "plain" / "reference.onnx", placed / "longrope" / "reference.onnx", tokens=TOKENS)
    assert result.parity
    assert all(row.propagated.max_abs == 0 for row in result.rows)


@pytest.mark.parametrize(
    ("model", "port", "offset", "named"),
    [
        ("llama3", "port", 1000, ("rope.offset", "3", ("blk.0.q_rope",))),
        ("learned", "next_row", 40, ("embedding.position_offset", "1", ("position_embed",))),
    ],
)
def test_conventions_are_named_at_an_offset(placed: Path, model: str, port: str, offset: int, named: tuple):
    a, b = placed / model / "reference.onnx", placed / model / f"{port}.onnx"
    (cause,) = compare(a, b, tokens=TOKENS, position_offset=offset).root_causes
    assert (cause.convention, cause.b_value, cause.taps) == named


@pytest.mark.parametrize("schedule", ["whole", "3+4+1"])
def test_a_trace_brings_its_offset(placed: Path, tmp_path: Path, schedule: str):
    path = trace(
        placed / "llama3" / "hf",
        "hf",
        out=tmp_path / "t.safetensors",
        tokens=TOKENS,
        schedule=schedule,
        position_offset=FAR,
    )
    assert load_trace(path).first_position == FAR
    result = compare(placed / "llama3" / "reference.onnx", path)
    assert result.parity
    assert result.first_position == FAR


def test_hf_scales_by_the_greatest_position(placed: Path, tmp_path: Path):
    path = trace(placed / "dynamic" / "hf", "hf", out=tmp_path / "t.safetensors", tokens=TOKENS, position_offset=90)
    assert compare(placed / "dynamic" / "reference.onnx", path).parity
    near = trace(placed / "dynamic" / "hf", "hf", out=tmp_path / "near.safetensors", tokens=TOKENS)
    keys = [load_trace(one).values["blk.0.attn_scores"] for one in (path, near)]
    assert not np.allclose(*(np.where(np.isfinite(key), key, 0) for key in keys), atol=1e-3)


@pytest.mark.parametrize("schedule", ["whole", "each"])
def test_llama_cpp_runs_from_an_offset_on(tmp_path: Path, schedule: str):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is compiled, so it is an extra")
    from families.converter import family_gguf

    model = family_gguf(family_model("phi3", num_hidden_layers=1, sliding_window=None), tmp_path / "model.gguf")
    (graph,) = export(model, "reference", out=tmp_path, positions=True)
    path = trace(
        model, "llama.cpp", out=tmp_path / "t.safetensors", tokens=TOKENS, schedule=schedule, position_offset=1000
    )
    result = compare(graph, path)
    assert result.parity
    assert result.first_position == 1000


def test_values_that_are_kept_bring_their_offset(placed: Path, tmp_path: Path):
    graph = placed / "llama3" / "reference.onnx"
    compare(graph, graph, tokens=TOKENS, position_offset=7, values=tmp_path)
    assert load_trace(tmp_path / "a.safetensors").first_position == 7


def test_a_dump_that_says_nothing_of_positions_is_where_the_user_says(placed: Path, tmp_path: Path):
    graph = placed / "longrope" / "reference.onnx"
    compare(graph, graph, tokens=TOKENS, position_offset=20, values=tmp_path)
    values = load_trace(tmp_path / "a.safetensors").values
    np.savez(tmp_path / "dump.npz", **{name: values[name] for name in values})
    at_20 = compare(graph, tmp_path / "dump.npz", tokens=TOKENS, position_offset=20)
    at_0 = compare(graph, tmp_path / "dump.npz", tokens=TOKENS)
    assert (at_20.parity, at_0.parity) == (True, False)


def test_result_and_report_say_the_positions(placed: Path, tmp_path: Path):
    graph, saved = str(placed / "llama3" / "reference.onnx"), tmp_path / "r.json"
    words = ["compare", graph, graph, "--tokens", "1,5,3", "--position-offset", "4090", "--json", str(saved)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0
    assert "taps compared at positions 4090 to 4092, " in done.stdout
    assert read_result(saved).first_position == 4090
    assert "position" not in coverage(compare(graph, graph, tokens=TOKENS))


def refused(*words: object) -> str:
    """What a command says in one line, with status 2."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("opdiff: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("offset", [-1, 2**31 - 1, 10**30])
def test_positions_that_are_none_are_refused(placed: Path, tmp_path: Path, offset: int):
    graph = placed / "llama3" / "reference.onnx"
    words = ("--tokens", "1,5,3", "--position-offset", offset)
    assert "positions are 0 to 2147483647" in refused("compare", graph, graph, *words)
    out = tmp_path / "t.safetensors"
    said = refused("trace", placed / "llama3" / "hf", "--runtime", "hf", "--out", out, *words)
    assert "positions are 0 to 2147483647" in said
    assert not out.exists()


def test_a_graph_without_positions_is_refused_by_name(placed: Path):
    plain, other = placed / "plain" / "reference.onnx", placed / "longrope" / "hf.onnx"
    said = refused("compare", other, plain, "--tokens", "1,5,3", "--position-offset", 7)
    assert f"{plain}: takes no positions" in said
    assert "opdiff export --positions" in said


def test_a_trace_of_other_positions_is_refused(placed: Path, tmp_path: Path):
    traced = trace(placed / "longrope" / "hf", "hf", out=tmp_path / "t.safetensors", tokens=TOKENS, position_offset=9)
    said = refused("compare", placed / "longrope" / "reference.onnx", traced, "--position-offset", 7)
    assert f"{traced}: recorded at positions from 9 on, where --position-offset is 7" in said
    said = refused("compare", placed / "plain" / "reference.onnx", traced)
    assert f"at which {traced} was recorded" in said


def test_a_table_of_positions_ends(placed: Path, tmp_path: Path):
    folder, words = placed / "learned", ("--tokens", "1,5,3", "--position-offset", 62)
    said = refused("compare", folder / "reference.onnx", folder / "hf.onnx", *words)
    assert "has the positions 0 to 63, where positions 62 to 64 are asked for" in said
    out = tmp_path / "t.safetensors"
    assert "the positions 0 to 63" in refused("trace", folder / "hf", "--runtime", "hf", "--out", out, *words)


@pytest.mark.parametrize("variant", ["dsl", "legacy"])
def test_variants_that_count_positions_themselves_are_refused(variant: str, tmp_path: Path):
    said = refused("export", "seed", "--variant", variant, "--positions", "--out", tmp_path)
    assert f"variant {variant}: takes no positions; --positions is for reference, hf" in said


def test_a_cache_together_with_positions_is_refused(tmp_path: Path):
    said = refused("export", "seed", "--variant", "reference", "--positions", "--cache", "--out", tmp_path / "out")
    assert "leave --cache or --positions out" in said
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_families_without_position_ids_are_refused(tmp_path: Path):
    import transformers

    tiny = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(tiny).save_pretrained(tmp_path / "hf")
    words = (tmp_path / "hf", "--out", tmp_path / "t.safetensors")
    said = refused("export", *words[:2], tmp_path / "out", "--variant", "hf", "--positions", "--length", 4)
    assert "variant hf: takes no positions" in said
    said = refused("trace", *words, "--runtime", "hf", "--tokens", "1,5,3", "--position-offset", 4)
    assert "MambaForCausalLM takes no position_ids" in said


def test_a_module_that_reads_no_positions_is_refused(tmp_path: Path):
    (tmp_path / "own.py").write_text(PORT.replace("self.rotary(positions + 3)", "self.rotary(tokens)"))
    source = (tmp_path / "own.py").read_text().replace("super().forward(tokens, positions)", "super().forward(tokens)")
    (tmp_path / "own.py").write_text(source)
    said = refused("export", "seed", "--variant", f"{tmp_path}/own.py:port", "--positions", "--out", tmp_path / "out")
    assert "reads no positions" in said


def test_a_trace_whose_offset_is_damaged_is_refused(placed: Path, tmp_path: Path):
    from safetensors.numpy import save_file

    path = tmp_path / "t.safetensors"
    save_file({"logits": np.zeros((3, 8), np.float32)}, path, {"opdiff.first_position": "-4"})
    with pytest.raises(InputError, match="its first position is '-4', which is none"):
        load_trace(path)


def test_an_exported_graph_takes_as_many_positions_as_tokens(placed: Path):
    model = load_artifact(placed / "llama3" / "hf.onnx").model
    tokens, positions = model.graph.input
    assert (tokens.name, positions.name) == ("tokens", "position_ids")
    assert tokens.type == positions.type
