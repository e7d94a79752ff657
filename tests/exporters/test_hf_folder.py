"""HF folders: read as the GGUF file of the same model is, run as HF runs them, and refused in one line where that cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.models import TOKENS, tiny_model, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import artifact_regions
from safetensors.torch import load_file, save_file

from opdiff.exporters.checkpoints import Checkpoint, open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner, run_regions

KINDS = ["qwen3", "qwen2", "llama"]
SHARDED = {"max_shard_size": "40KB"}


def saved(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **options) -> Path:
    """The tiny model of that kind as save_pretrained writes it; in bfloat16 its values are rounded."""
    tiny_model(kind).to(dtype).save_pretrained(folder, **options)
    return folder


def gguf_of(kind: str, folder: Path, dtype: torch.dtype) -> Checkpoint:
    return open_checkpoint(str(write_gguf(tiny_model(kind).to(dtype), folder / "model.gguf")))


@pytest.mark.parametrize("options", [{}, SHARDED], ids=["one file", "sharded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_folder_is_read_as_the_gguf_of_the_same_model(kind, dtype, options, tmp_path):
    folder = open_checkpoint(str(saved(kind, tmp_path / "hf", dtype, **options)))
    gguf = gguf_of(kind, tmp_path, dtype)
    assert (len(list((tmp_path / "hf").glob("*.safetensors"))) > 2) == bool(options)
    assert folder.config == gguf.config
    assert set(folder.names) == set(gguf.names)
    for name in gguf.names:
        np.testing.assert_array_equal(folder.tensor(name), gguf.tensor(name), err_msg=name)
        assert folder.tensor(name).dtype == np.float32
        assert folder.tensor(name).flags.c_contiguous
        assert folder.shape(name) == gguf.shape(name)
        assert folder.quantisation(name) == {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[str(dtype)[6:]]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_exported_from_a_folder_meets_hfs_own_logits(kind, tmp_path):
    folder = saved(kind, tmp_path / "hf", **SHARDED)
    (path,) = export(open_checkpoint(str(folder)), [parse_variant("reference")], tmp_path / "out", length=len(TOKENS))
    found = run_regions(artifact_regions(load_artifact(path)), {"tokens": np.array(TOKENS)}, Runner())["logits"]
    expected = tiny_model(kind)(input_ids=torch.tensor(TOKENS)[None]).logits[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_variant_hf_and_q8_0_weights_are_those_of_the_gguf(tmp_path):
    folder, gguf = open_checkpoint(str(saved("llama", tmp_path / "hf"))), gguf_of("llama", tmp_path, torch.float32)
    (path,) = export(folder, [parse_variant("hf")], tmp_path / "out", length=len(TOKENS))
    found = run_regions(artifact_regions(load_artifact(path)), {"tokens": np.array(TOKENS)}, Runner())["logits"]
    expected = tiny_model("llama")(input_ids=torch.tensor(TOKENS)[None]).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    for ours, theirs in zip(folder.q8_0("blk.1.attn_k.weight"), gguf.q8_0("blk.1.attn_k.weight"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_plain_tensor_is_a_view_of_the_file(tmp_path):
    folder = open_checkpoint(str(saved("qwen3", tmp_path)))
    assert np.shares_memory(folder.tensor("blk.0.attn_q.weight"), folder.tensor("blk.0.attn_q.weight"))


def test_sha256_follows_the_content_and_not_the_place(tmp_path):
    folder = saved("qwen3", tmp_path / "a", **SHARDED)
    moved = Path(shutil.copytree(folder, tmp_path / "b"))
    before = open_checkpoint(str(folder)).sha256
    assert open_checkpoint(str(moved)).sha256 == before
    edit_json(moved / "config.json", rms_norm_eps=1e-5)
    assert open_checkpoint(str(moved)).sha256 != before
    edit_weights(folder, lambda tensors: {name: value * 2 for name, value in tensors.items()})
    assert open_checkpoint(str(folder)).sha256 != before


def edit_json(path: Path, **changes: object) -> None:
    """Set fields; None takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict], dict]) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = change(load_file(path))
        path.unlink()
        save_file({name: value.clone() for name, value in tensors.items()}, path)


# The configuration


def test_rope_theta_is_found_where_transformers_4_and_5_write_it(tmp_path):
    config = saved("qwen3", tmp_path) / "config.json"
    edit_json(config, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}, rope_theta=1.0)
    assert open_checkpoint(str(tmp_path)).config.rope_base == 500_000.0
    edit_json(config, rope_parameters=None, rope_theta=250_000, rope_scaling={"type": "default"})
    assert open_checkpoint(str(tmp_path)).config.rope_base == 250_000.0
    edit_json(config, rope_parameters=None, rope_theta=None, rope_scaling=None)
    assert open_checkpoint(str(tmp_path)).config.rope_base == 10_000.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_config_json_leaves_out_is_transformers_own_default(kind, tmp_path):
    """As transformers itself reads the same file."""
    from transformers import AutoConfig

    folder = saved(kind, tmp_path)
    edit_json(folder / "config.json", hidden_act=None, attention_bias=None, rope_parameters=None, layer_types=None)
    theirs, ours = AutoConfig.from_pretrained(folder), open_checkpoint(str(folder)).config
    assert ours.rope_base == theirs.rope_parameters["rope_theta"]
    assert theirs.hidden_act == "silu"
    edit_json(folder / "config.json", head_dim=None)
    theirs = AutoConfig.from_pretrained(folder)
    if kind == "qwen3":
        assert theirs.head_dim == 128
        assert "attn_q.weight has shape (64, 48), and the configuration asks for (512, 48)" in refusal(folder)
    else:
        assert open_checkpoint(str(folder)).config.head_dim == 16


def test_tied_head_may_be_left_out_or_be_a_copy_but_not_another(tmp_path):
    folder = saved("qwen3", tmp_path)
    edit_json(folder / "config.json", tie_word_embeddings=True)
    assert "lm_head.weight differs from model.embed_tokens.weight" in refusal(folder)
    edit_weights(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"]})
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config.tied_head
    assert "output.weight" not in checkpoint
    edit_weights(folder, lambda t: {name: value for name, value in t.items() if name != "lm_head.weight"})
    assert open_checkpoint(str(folder)).config.tied_head
    edit_json(folder / "config.json", tie_word_embeddings=None)
    assert open_checkpoint(str(folder)).config.tied_head
    edit_json(folder / "config.json", tie_word_embeddings=False)
    assert "tensor output.weight is missing" in refusal(folder)


def test_tables_of_rope_in_old_checkpoints_are_left_out(tmp_path):
    folder = saved("llama", tmp_path)
    edit_weights(folder, lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert len(open_checkpoint(str(folder)).names) == 3 + 3 * 9


def test_biases_of_a_llama_are_read_in_ggufs_row_order(tmp_path):
    folder = saved("llama", tmp_path)
    rows = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}
    biases = {f"model.layers.{n}.self_attn.{key}.bias": torch.arange(rows[key] * 1.0) for n in range(3) for key in rows}
    edit_weights(folder, lambda t: t | biases)
    assert ".bias' is no part" in refusal(folder)  # HF would leave them out in silence
    edit_json(folder / "config.json", attention_bias=True)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.tensor("blk.0.attn_q.bias")[:5].tolist() == [0, 8, 1, 9, 2]
    assert checkpoint.tensor("blk.0.attn_v.bias")[:5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rope_parameters": [1]}, "rope_parameters is [1], not a table"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x', not a number"),
        ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_base is inf"),
        ({"quantization_config": {"quant_method": "fp8"}}, "a quantised HF checkpoint"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing, not a positive whole number"),
        ({"num_hidden_layers": 2}, "the configuration says 2 blocks, the tensors make 3"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers is 1099511627776, not 10000 at most"),
        ({"num_hidden_layers": 10_000}, "says 10000 blocks, the tensors make 3"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not a positive"),
        ({"hidden_size": 48.0}, "hidden_size is 48.0, not a positive whole number"),
        ({"vocab_size": 97}, "tensor token_embd.weight has shape (96, 48), and the configuration asks for (97, 48)"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing, not a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_config_that_is_not_supported_says_why_in_one_line(changes, message, tmp_path):
    folder = saved("qwen3", tmp_path)
    edit_json(folder / "config.json", **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize("model_type", [None, ["qwen3"], 3])
def test_family_without_a_name_is_one_line_when_transformers_is_to_run_it(model_type, tmp_path):
    folder = saved("qwen3", tmp_path)
    edit_json(folder / "config.json", model_type=model_type)
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(InputError, match=r"config.json: transformers cannot read it") as caught:
        export(checkpoint, [parse_variant("hf")], tmp_path / "out")
    assert "\n" not in str(caught.value)


def refusal(folder: Path) -> str:
    """The message with which a folder is refused: always one short line that names it."""
    with pytest.raises(InputError) as caught:
        open_checkpoint(str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_sliding_window_that_no_block_uses_is_no_hindrance(tmp_path):
    folder = saved("qwen2", tmp_path)
    edit_json(folder / "config.json", sliding_window=8, use_sliding_window=False, layer_types=None)
    assert open_checkpoint(str(folder)).config.architecture == "qwen2"


# The files


def test_folder_without_its_files_is_refused(tmp_path):
    assert "config.json: cannot be read (No such file or directory)" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json: not JSON" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "config.json: not JSON" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json: holds no table" in refusal(tmp_path)
    saved("qwen3", tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "holds neither model.safetensors nor model.safetensors.index.json; save the model as" in refusal(tmp_path)


def test_weights_that_are_cut_short_or_foreign_are_refused(tmp_path):
    weights = saved("qwen3", tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "reaches outside the file" in refusal(tmp_path)
    weights.write_bytes(b"no safetensors")
    assert "not a safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"extra.weight": torch.ones(2)}, "tensor 'extra.weight' is no part of the decoders"),
        (lambda t: t | {"x" * 999: torch.ones(2)}, "...' is no part of the decoders"),
        (lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up" not in k}, "tensor blk.1.ffn_up.weight is missing"),
        (lambda t: {k: v for k, v in t.items() if "layers.1." not in k}, "says 3 blocks, the tensors make 2"),
        (lambda t: t | {"model.norm.weight": torch.ones(47)}, "tensor output_norm.weight has shape (47,)"),
        (lambda t: {k.removeprefix("model."): v for k, v in t.items()} | t, "is no part of the decoders"),
    ],
)
def test_tensors_that_do_not_make_the_decoder_are_refused(change, message, tmp_path):
    folder = saved("qwen3", tmp_path)
    edit_weights(folder, change)
    assert message in refusal(folder)


def test_tensor_that_holds_no_floats_is_refused_when_it_is_read(tmp_path):
    folder = saved("qwen3", tmp_path)
    edit_weights(folder, lambda t: t | {"model.norm.weight": torch.ones(48, dtype=torch.int32)})
    with pytest.raises(InputError, match=r"tensor 'output_norm.weight' holds int32, no float"):
        open_checkpoint(str(folder)).tensor("output_norm.weight")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b", "..", "", "c:\\x", "nul\0"])
def test_shard_outside_of_the_folder_is_refused(shard, tmp_path):
    folder = saved("qwen3", tmp_path / "hf", **SHARDED)
    shutil.copy(next(folder.glob("*.safetensors")), tmp_path / "secret.safetensors")
    edit_json(folder / "model.safetensors.index.json", weight_map={"model.norm.weight": shard})
    assert "is no file name, so it may lie outside the folder" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00009.safetensors"])
def test_link_that_leads_outside_of_the_folder_is_refused(name, tmp_path):
    folder = saved("qwen3", tmp_path / "hf", **({} if name == "model.safetensors" else SHARDED))
    shutil.move(folder / name, tmp_path / "secret")
    os.symlink(tmp_path / "secret", folder / name)
    assert "leads outside its folder" in refusal(folder)


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (None, "has no weight_map"),
        ({"model.norm.weight": 3}, "has no weight_map from tensors to files"),
        ({"model.norm.weight": "model-9.safetensors"}, "no file 'model-9.safetensors'"),
        ({"model.norm.weight": "x" * 999}, "no file 'xxx"),
        ({"model.norm.weight": "\ud800"}, r"no file '\ud800'"),
        ({"no.such": "model-00001-of-00009.safetensors"}, "places tensor 'no.such' in 'model-00001-of-00009.safe"),
    ],
)
def test_index_that_does_not_fit_its_shards_is_refused(weight_map, message, tmp_path):
    folder = saved("qwen3", tmp_path, **SHARDED)
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    assert message in refusal(folder)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return saved("qwen3", tmp_path_factory.mktemp("sharded"), **SHARDED)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "model-00002-of-00009.safetensors"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_file_with_bytes_changed_is_read_or_refused_never_a_traceback(sharded, tmp_path, name, data):
    content = bytearray((sharded / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 1000) - 1))] = data.draw(st.integers(0, 255))
    for path in sharded.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / name).write_bytes(content)
    try:
        checkpoint = open_checkpoint(str(tmp_path))
        for tensor in checkpoint.names:
            assert checkpoint.tensor(tensor).shape == checkpoint.shape(tensor)
    except InputError as error:
        assert "\n" not in str(error)


def test_unknown_tensor_name_is_refused_by_name(tmp_path):
    folder = open_checkpoint(str(saved("qwen3", tmp_path)))
    for ask in (folder.tensor, folder.shape, folder.quantisation, folder.q8_0):
        with pytest.raises(InputError, match=r"no tensor 'blk.9.attn_q.weight'"):
            ask("blk.9.attn_q.weight")


# The hub

OPEN = "import sys; from opdiff.exporters.checkpoints import open_checkpoint; print(open_checkpoint('org/name').path)"


def opened_from_the_hub(home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", OPEN], env=environment, cwd=cwd, capture_output=True, text=True)


def test_hub_id_is_opened_from_the_hubs_cache_and_a_path_of_that_name_comes_first(tmp_path):
    pytest.importorskip("huggingface_hub")
    repository, commit = tmp_path / "hub" / "models--org--name", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = saved("qwen3", repository / "snapshots" / commit, **SHARDED)
    for number, path in enumerate(list(snapshot.iterdir())):  # the cache keeps links to its blobs
        shutil.move(path, repository / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    done = opened_from_the_hub(tmp_path, tmp_path)
    assert done.stdout.strip() == str(snapshot), done.stderr
    saved("qwen3", tmp_path / "org" / "name")
    assert opened_from_the_hub(tmp_path, tmp_path).stdout.strip() == "org/name"


def test_hub_that_cannot_be_reached_is_one_line(tmp_path):
    pytest.importorskip("huggingface_hub")
    last = opened_from_the_hub(tmp_path, tmp_path).stderr.splitlines()[-1]
    assert last.startswith("opdiff.graphs.errors.InputError: org/name: no such path, and the hub does not give it (")


@pytest.mark.parametrize(
    "model", ["models/tiny.gguf", "x" * 999, "nul\0", "\ud800", "a/b/c", "./org/name", "org/", "name"]
)
def test_path_that_is_not_there_and_no_hub_id_is_a_missing_file(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such file; give the path of a \.gguf .* HF folder|cannot be opened"):
        open_checkpoint(model)
