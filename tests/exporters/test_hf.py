"""The variant `hf`: HF's own logits, every stage tapped, HF's weights where the checkpoint has them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from corpus.models import N_BLOCKS, TOKENS, tiny_model, write_gguf
from torch import Tensor, nn

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.tapping import Tapped, collected
from opdiff.exporters.variants import hf
from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import AFTER_BLOCKS, BEFORE_BLOCKS, IN_BLOCK, tap_name

KINDS = ["qwen3", "qwen3_square", "qwen2", "llama"]
MASKED = -1e30


def checkpoint_of(model: nn.Module, folder: Path) -> BoundCheckpoint:
    checkpoint = open_checkpoint(str(write_gguf(model, folder / "model.gguf")))
    return BoundCheckpoint(checkpoint.config, shared_weights(checkpoint, folder / "weights.safetensors", False))


def stages_of(kind: str, without: tuple[str, ...] = ()) -> set[str]:
    """The taps that a model of that kind must have."""
    absent = set(without) | (set() if "qwen3" in kind else {"q_norm", "k_norm"})
    blocks = {tap_name(stage, block) for block in range(N_BLOCKS) for stage in IN_BLOCK if stage not in absent}
    return blocks | {*BEFORE_BLOCKS, *AFTER_BLOCKS}


def taps_of(module: nn.Module) -> dict[str, Tapped]:
    with collected() as taps, torch.no_grad():
        module(torch.tensor(TOKENS))
    return taps


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model_that_the_file_was_made_from(kind, tmp_path):
    model = tiny_model(kind)
    tokens = torch.tensor(TOKENS)
    expected = model(input_ids=tokens[None]).logits
    assert torch.equal(hf.build(checkpoint_of(model, tmp_path))(tokens), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_is_tapped_and_the_last_tap_is_the_logits(kind, tmp_path):
    taps = taps_of(hf.build(checkpoint_of(tiny_model(kind), tmp_path)))
    assert set(taps) == stages_of(kind)
    assert list(taps)[-1] == "logits"
    assert all(len(tap.axes) == tap.value.ndim and tap.axes[0] == "batch" for tap in taps.values())


def test_sdpa_has_every_tap_but_the_scores_and_the_probabilities(tmp_path):
    checkpoint = checkpoint_of(tiny_model("qwen3"), tmp_path)
    eager, sdpa = taps_of(hf.build(checkpoint)), taps_of(hf.build(checkpoint, attention="sdpa"))
    assert set(sdpa) == stages_of("qwen3", without=("attn_scores", "attn_probs"))
    for name, tap in sdpa.items():
        torch.testing.assert_close(tap.value, eager[name].value, rtol=1e-4, atol=1e-4)


def test_weights_are_the_checkpoints_own_memory(tmp_path):
    checkpoint = checkpoint_of(tiny_model("qwen3"), tmp_path)
    model = hf.load(checkpoint)
    assert model.lm_head.weight.data_ptr() == checkpoint["output.weight"].data_ptr()
    assert model.model.layers[2].mlp.up_proj.weight.data_ptr() == checkpoint["blk.2.ffn_up.weight"].data_ptr()


def test_taps_are_what_the_next_stages_read(tmp_path, monkeypatch):
    """Turning a tap's channels round changes the logits."""
    module = hf.build(checkpoint_of(tiny_model("qwen3"), tmp_path))
    logits = module(torch.tensor(TOKENS))
    for stage in IN_BLOCK:
        monkeypatch.setattr(hf, "tap", lambda name, value, axes, stage=stage: _spoilt(name, value, f"blk.1.{stage}"))
        assert not torch.equal(module(torch.tensor(TOKENS)), logits), stage


def _spoilt(name: str, value: Tensor, at: str) -> Tensor:
    return value.flip(-1) if name == at else value


def test_a_missing_norm_and_its_input_are_two_taps(tmp_path):
    model = tiny_model("qwen3")
    model.model.layers[1].input_layernorm = nn.Identity()
    taps = taps_of(hf.tapped(model))
    assert taps["blk.1.attn_norm"].value is not taps["blk.0.ffn_residual"].value
    assert torch.equal(taps["blk.1.attn_norm"].value, taps["blk.0.ffn_residual"].value)


def test_transformers_functions_are_put_back_after_a_failure():
    model = tiny_model("qwen3")
    functions = nn.functional.softmax, hf.modeling_module(model).apply_rotary_pos_emb
    with pytest.raises(IndexError):
        hf.tapped(model)(torch.tensor([10_000]))
    assert functions == (nn.functional.softmax, hf.modeling_module(model).apply_rotary_pos_emb)


def test_without_transformers_the_error_says_what_to_install(tmp_path, monkeypatch):
    checkpoint = checkpoint_of(tiny_model("qwen3"), tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'opdiff\[hf\]'"):
        hf.build(checkpoint)


def test_a_model_of_another_library_is_refused():
    with pytest.raises(InputError, match="Linear is not a model of transformers"):
        hf.tapped(nn.Linear(2, 2))


class AllTaps(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: Tensor) -> list[Tensor]:
        with collected() as taps:
            self.module(tokens)
        return [tap.value for tap in taps.values()]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_onnx_export_agrees_with_eager_at_any_length(attention, tmp_path):
    checkpoint = checkpoint_of(tiny_model("qwen3"), tmp_path).first_blocks(2)
    module = AllTaps(hf.build(checkpoint, attention=attention)).eval()
    shapes = ({0: torch.export.Dim("token", min=1)},)
    program = torch.export.export(module, (torch.tensor(TOKENS[:5]),), dynamic_shapes=shapes, strict=False)
    onnx_program = torch.onnx.export(program, dynamo=True, opset_version=21, verbose=False)
    onnx_program.save(tmp_path / "hf.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "hf.onnx")
    for length in (1, 9):
        tokens = torch.tensor(TOKENS[:length])
        found = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
        for value, expected in zip(found, module(tokens), strict=True):
            seen = expected.numpy() > MASKED
            np.testing.assert_allclose(value[seen], expected.numpy()[seen], rtol=1e-4, atol=1e-4)
