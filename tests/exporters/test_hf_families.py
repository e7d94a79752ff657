"""HF as the source of truth for every family: its export and its own trace are the same, and every module is a boundary.

The families that differ most are exported here; `OPDIFF_ALL_FAMILIES=1` exports them all.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hf_families import FAMILIES, TOKENS, saved, tiny_hf
from safetensors.torch import load_file, save_file

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import Checkpoint, open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, canonical_names, export, shared_weights, write_graph
from opdiff.exporters.runtimes.hf import write_trace
from opdiff.exporters.tapping import Tapped, collected
from opdiff.exporters.to_onnx import to_onnx
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import split_tap_name

DIFFER_MOST = ("gemma2", "gpt2", "gpt_oss", "deepseek_v3", "mamba")
FEW = TOKENS[:5]  # a scan is exported token by token
BY_HAND = pytest.mark.skipif("OPDIFF_ALL_FAMILIES" not in os.environ, reason="takes minutes: OPDIFF_ALL_FAMILIES=1")
EXPORTED = [name if name in DIFFER_MOST else pytest.param(name, marks=BY_HAND) for name in FAMILIES]


def taps_of(module: torch.nn.Module) -> dict[str, Tapped]:
    with collected() as taps, torch.no_grad():
        module(torch.tensor(TOKENS))
    return taps


@pytest.mark.parametrize("name", EXPORTED)
def test_export_and_hfs_own_trace_are_the_same(name, tmp_path):
    checkpoint = open_checkpoint(str(saved(name, tmp_path / "hf")))
    write_trace(checkpoint, TOKENS, tmp_path / "trace.safetensors")
    (path,) = export(checkpoint, [parse_variant("hf")], tmp_path, length=len(TOKENS))
    result = compare(path, tmp_path / "trace.safetensors", TOKENS)
    assert result.parity, result.divergences
    assert result.only_a == result.only_b == ()


def test_folder_of_any_family_is_exported_for_any_length_traced_and_compared_by_the_commands(tmp_path):
    folder, tokens = saved("mistral", tmp_path / "hf"), ",".join(map(str, TOKENS))
    graph, trace = str(tmp_path / "out" / "hf.onnx"), str(tmp_path / "trace.safetensors")
    for arguments in (
        ["export", str(folder), "--variant", "hf", "--out", str(tmp_path / "out")],
        ["trace", str(folder), "--runtime", "hf", "--tokens", tokens, "--out", trace],
        ["compare", graph, trace, "--tokens", tokens],
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    assert load_artifact(Path(graph)).lengths.most is None
    assert not (tmp_path / "out" / "hf.weights.safetensors").exists(), "every parameter is the checkpoint's tensor"


@pytest.mark.parametrize("name", FAMILIES)
def test_taps_leave_the_logits_as_they_are_and_none_is_another_ones_tensor(name):
    model = tiny_hf(name)
    taps = taps_of(hf.tapped(model))
    logits = model(input_ids=torch.tensor(TOKENS)[None]).logits
    assert torch.equal(taps["logits"].value, logits)
    stages = {tap: split_tap_name(tap)[1] for tap in taps}
    by_path = [tap for tap in taps if "." in stages[tap] or stages[tap] in ("output", "mixer", "norm")]
    values = {tap: (taps[tap].value.data_ptr(), taps[tap].value.numel()) for tap in taps}
    assert len({values[tap] for tap in by_path}) == len(by_path)
    assert all(len(tap.axes) == tap.value.ndim and len(set(tap.axes)) == len(tap.axes) for tap in taps.values())
    assert all(torch.isfinite(tap.value).all() for tap in taps.values() if "mamba" not in name)


STAGES = {
    "gemma2": "attn_post_norm ffn_post_norm attn_residual ffn_norm",
    "olmo2": "attn_post_norm ffn_post_norm q_norm k_norm attn_residual",
    "phi3": "q_proj k_proj v_proj q_rope k_rope self_attn.qkv_proj mlp.gate_up_proj ffn_act ffn_down",
    "gpt2": "q_proj k_proj v_proj attn.c_attn ffn_up ffn_act ffn_down",
    "falcon": "q_proj k_proj q_rope attn_scores attn_probs attn_context o_proj",
    "mixtral": "router_logits router_weights expert_choice expert_out",
    "deepseek_v3": "router_logits expert_out shared_out mlp.shared_experts.gate_proj mlp self_attn.kv_b_proj k_rope",
    "gpt_oss": "attn_probs router_weights expert_choice",
    "mamba": "norm mixer.in_proj mixer.causal_conv1d_fn mixer.x_proj mixer.mamba_selective_scan mixer.out_proj output",
    "falcon_h1": "mamba.in_proj mamba.causal_conv1d_fn q_rope attn_context ffn_down feed_forward",
    "rwkv": "ln1 attention.key attention.receptance attention.output feed_forward.value output",
}


@pytest.mark.parametrize("name", STAGES)
def test_what_has_a_stage_is_called_so_and_all_else_by_its_module(name):
    taps = taps_of(hf.tapped(tiny_hf(name)))
    assert set(STAGES[name].split()) <= {split_tap_name(tap)[1] for tap in taps if tap.startswith("blk.1.")}


def test_choice_of_experts_is_whole_numbers_by_token_and_choice():
    taps = taps_of(hf.tapped(tiny_hf("mixtral")))
    choice, weights = taps["blk.1.expert_choice"], taps["blk.1.router_weights"]
    assert choice.value.dtype == torch.int64
    assert choice.axes == weights.axes == ("token", "choice")
    chosen = taps["blk.1.router_logits"].value.topk(2).indices
    assert torch.equal(choice.value.sort().values, chosen.sort().values)


# A fault where no stage is


def bound_to(checkpoint: Checkpoint, folder: Path) -> BoundCheckpoint:
    return BoundCheckpoint(checkpoint.config, shared_weights(checkpoint, folder / WEIGHT_FILE, False), checkpoint.hf)


def exported_with(patch: Any, checkpoint: Checkpoint, folder: Path, name: str) -> Path:
    """The graph of a family that nothing is known of, with its modules patched."""
    bound = bound_to(checkpoint, folder)
    model = hf.load(bound)
    patch(model)
    graph = to_onnx(hf.tapped(model), canonical_names(bound), n_tokens=len(FEW))
    return write_graph(graph, bound, shared_weights(checkpoint, folder / WEIGHT_FILE, False), folder / name, {})


def gelu_in_the_convolution(model: Any) -> None:
    model.backbone.layers[1].mixer.activation = "gelu"


def test_fault_in_a_mamba_layers_convolution_is_placed_at_its_module_and_node_and_closed(tmp_path):
    checkpoint = open_checkpoint(str(saved("mamba", tmp_path / "hf")))
    right = exported_with(lambda model: None, checkpoint, tmp_path, "right.onnx")
    wrong = exported_with(gelu_in_the_convolution, checkpoint, tmp_path, "wrong.onnx")
    result = compare(right, wrong, FEW)
    assert [one.tap for one in result.divergences] == ["blk.1.mixer.causal_conv1d_fn"]
    node = result.divergences[0].b_node
    assert node is not None
    assert node.source is not None
    assert result.closed.all_found


# What is refused, in one line


def refusal(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()[-1:]
    return line


def test_variants_of_opdiffs_own_decoder_name_the_family_and_say_that_hf_works(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    line = refusal("export", folder, "--variant", "reference", "--out", tmp_path / "out")
    assert "variant reference: not for this mamba" in line
    assert "--variant hf takes it as it is" in line


def test_pickled_weights_are_never_opened(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "save the model as safetensors" in refusal("export", folder, "--variant", "hf", "--out", tmp_path / "out")


def test_code_that_the_folder_brings_along_is_never_run(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    fields = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "transformers cannot read it" in refusal("export", folder, "--variant", "hf", "--out", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


OWN = """
import opdiff, torch

class Own(torch.nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        self.table = torch.nn.Parameter(checkpoint["backbone.embeddings.weight"])

    def forward(self, tokens):
        return opdiff.tap("logits", self.table[tokens] @ self.table.T, axes="token vocab")
"""


def test_module_of_ones_own_runs_a_family_that_transformers_does_not_know(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "of_my_own"}))
    (tmp_path / "own.py").write_text(OWN)
    (path,) = export(open_checkpoint(str(folder)), [parse_variant(f"{tmp_path}/own.py:Own")], tmp_path / "out")
    assert [tap.name for tap in load_artifact(path).taps] == ["logits"]


def test_tensor_that_transformers_would_make_up_is_named(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    del tensors["backbone.layers.1.mixer.x_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    line = refusal("export", folder, "--variant", "hf", "--out", tmp_path / "out")
    assert "holds no tensor for backbone.layers.1.mixer.x_proj.weight" in line


def test_damaged_configuration_is_one_line(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    fields = json.loads((folder / "config.json").read_text())
    for n, damage in enumerate(({"model_type": "no such"}, {"hidden_size": "wide"}, {"hidden_size": 33})):
        (folder / "config.json").write_text(json.dumps(fields | damage))
        assert str(folder) in refusal("export", folder, "--variant", "hf", "--out", tmp_path / f"out{n}")


def test_cache_of_other_states_than_keys_and_values_is_refused(tmp_path):
    folder = saved("mamba", tmp_path / "hf")
    out = tmp_path / "t.safetensors"
    arguments = ("trace", folder, "--runtime", "hf", "--tokens", "1,5,3", "--schedule", "each", "--out", out)
    assert "not the keys and values of all tokens" in refusal(*arguments)


def test_same_folder_moved_gives_the_same_checkpoint(tmp_path):
    folder = saved("mamba", tmp_path / "a")
    moved = Path(shutil.copytree(folder, tmp_path / "b"))
    assert open_checkpoint(str(folder)).sha256 == open_checkpoint(str(moved)).sha256
    with pytest.raises(InputError, match="no tensor 'x'"):
        open_checkpoint(str(moved)).stored("x")
