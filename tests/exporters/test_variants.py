"""The variants as torch modules: each is the runtime that it says, and what it cannot run it refuses with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.models import TOKENS, tiny_model, write_gguf
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.tapping import collected
from opdiff.exporters.variants.dsl import dsl
from opdiff.exporters.variants.legacy import legacy
from opdiff.exporters.variants.reference import reference
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import STAGES, split_tap_name

KINDS = ["qwen3", "qwen3_square", "qwen2", "llama"]
SEED_TOKENS = (1, 5, 3)


def bound(model: str, folder: Path, with_q8_0: bool = False) -> BoundCheckpoint:
    checkpoint = open_checkpoint(model, folder)
    return BoundCheckpoint(checkpoint.config, shared_weights(checkpoint, folder / "weights.safetensors", with_q8_0))


@pytest.fixture(scope="session")
def seed_checkpoint(tmp_path_factory) -> BoundCheckpoint:
    return bound("seed", tmp_path_factory.mktemp("seed_checkpoint"), with_q8_0=True)


@pytest.fixture(scope="session", params=KINDS)
def tiny(request, tmp_path_factory) -> tuple[torch.nn.Module, BoundCheckpoint]:
    """A model of transformers, and the checkpoint that it comes from."""
    folder, model = tmp_path_factory.mktemp(request.param), tiny_model(request.param)
    return model, bound(str(write_gguf(model, folder / "model.gguf")), folder)


def logits(module: torch.nn.Module, tokens=SEED_TOKENS) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(tokens)).numpy()


def test_reference_is_the_model_of_transformers(tiny):
    model, checkpoint = tiny
    expected = model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits(reference(checkpoint), TOKENS), expected, atol=1e-4)


def test_dsl_at_its_best_is_the_reference(tiny):
    _, checkpoint = tiny
    pairing = "interleaved" if checkpoint.config.architecture == "llama" else "half_split"
    mended = dsl(checkpoint, rope=pairing, qk_norm_eps="metadata")
    np.testing.assert_allclose(logits(mended, TOKENS), logits(reference(checkpoint), TOKENS), atol=1e-4)


def test_legacy_with_the_converter_and_the_right_head_dim_is_the_reference(tiny):
    _, checkpoint = tiny
    mended = legacy(checkpoint, converter="on", head_dim="metadata")
    np.testing.assert_allclose(logits(mended, TOKENS), logits(reference(checkpoint), TOKENS), atol=1e-4)


def test_legacy_spoils_exactly_the_square_weights(tiny):
    """Where a weight is not square its shape test can tell, and the runtime is right."""
    _, checkpoint = tiny
    config = checkpoint.config
    square = config.n_heads * config.head_dim == config.width
    same = np.allclose(logits(legacy(checkpoint, head_dim="metadata")), logits(reference(checkpoint)), atol=1e-4)
    assert same != square


def test_legacy_refuses_a_head_dim_that_it_would_take_wrongly_and_says_why(tmp_path):
    checkpoint = bound(str(write_gguf(tiny_model("qwen3"), tmp_path / "model.gguf")), tmp_path)
    with pytest.raises(InputError, match=r"width / heads = 48/4 .* head dim is 16.*legacy:head_dim=metadata"):
        legacy(checkpoint)


def test_rope_pairing_follows_the_architecture_unless_it_is_asked_for(seed_checkpoint):
    np.testing.assert_array_equal(logits(legacy(seed_checkpoint)), logits(legacy(seed_checkpoint, rope="half_split")))
    assert np.abs(logits(legacy(seed_checkpoint)) - logits(legacy(seed_checkpoint, rope="interleaved"))).max() > 0.01


@pytest.mark.parametrize("build", [dsl, legacy, reference])
def test_q8_0_weights_are_ggufs_own_values_in_every_variant(build, seed_checkpoint):
    module = build(seed_checkpoint, weights="q8_0")
    with collected() as taps, torch.no_grad():
        module(torch.tensor(SEED_TOKENS))
    weights = {name: tap for name, tap in taps.items() if name.endswith(".weight")}
    assert len(weights) == 8
    for name, tapped in weights.items():
        stored = quantize(seed_checkpoint[name].numpy(), GGMLQuantizationType.Q8_0)
        expected = dequantize(stored, GGMLQuantizationType.Q8_0)
        assert tapped.value.numpy().tobytes() == expected.tobytes(), name
        assert tapped.axes == ("out", "in")


@pytest.mark.parametrize("build", [dsl, legacy, reference])
def test_every_stage_of_the_vocabulary_is_tapped_once_with_axes_that_fit(build, seed_checkpoint):
    with collected() as taps, torch.no_grad():
        build(seed_checkpoint)(torch.tensor(SEED_TOKENS))
    assert sorted(split_tap_name(name)[1] for name in taps) == sorted(STAGES)
    assert all(len(tap.axes) == tap.value.ndim for tap in taps.values())


@pytest.mark.parametrize("build", [dsl, legacy, reference])
def test_no_position_sees_a_later_token(build, seed_checkpoint):
    np.testing.assert_allclose(
        logits(build(seed_checkpoint), [1, 5, 3]), logits(build(seed_checkpoint), [1, 5, 3, 7, 9])[:3], atol=1e-4
    )


def test_options_are_those_of_the_builder_and_defaults_are_left_out():
    request = parse_variant("legacy:converter=on:rope=half_split")
    assert (request.name, dict(request.options)) == ("legacy", {"converter": "on", "rope": "half_split"})
    assert parse_variant("dsl").options == {}
    assert parse_variant("reference:weights=q8_0").weights == "q8_0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown; there are dsl, legacy, reference, hf"),
        ("dls", "unknown; there are dsl, legacy, reference, hf"),
        ("dsl:", "its options are: rope, qk_norm_eps, weights"),
        ("dsl:rope", "its options are: rope"),
        ("dsl:rope=", "rope is one of: interleaved, half_split"),
        ("legacy:converter=ON", "converter is one of: off, on"),
        ("reference:rope=half_split", "its options are: weights"),
        ("mine.py", "as in mine.py:MyRuntime"),
    ],
)
def test_request_that_cannot_be_read_is_answered_with_what_there_is(text, words):
    with pytest.raises(InputError) as caught:
        parse_variant(text)
    assert words in str(caught.value)


OWN = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
import torch
if TYPE_CHECKING:
    from opdiff.exporters.bound import BoundCheckpoint

class Mine(torch.nn.Module):
    def __init__(self, checkpoint{hint}, eps: float = 1e-5, mode: Literal["a", "b"] = "a") -> None:
        super().__init__()
        self.checkpoint, self.eps = checkpoint, eps

def no_module(checkpoint):
    return 7

NUMBER = 7
"""


def own(folder: Path, hint: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(OWN.replace("{hint}", hint))
    return path


def test_users_class_is_a_variant_with_its_own_options(tmp_path, seed_checkpoint):
    request = parse_variant(f"{own(tmp_path)}:Mine:mode=b")
    assert (request.name, dict(request.options)) == ("Mine", {"mode": "b"})
    assert type(request.build(seed_checkpoint)).__name__ == "Mine"


@pytest.mark.xfail(strict=True, reason="options reach a builder as text, also where its hint says float, int or bool")
def test_users_option_has_the_type_that_its_hint_says(tmp_path, seed_checkpoint):
    assert parse_variant(f"{own(tmp_path)}:Mine:eps=1e-6").build(seed_checkpoint).eps == 1e-6


@pytest.mark.xfail(
    strict=True, reason="get_type_hints raises NameError for a name that is only there for a type checker"
)
def test_users_hints_may_name_what_only_a_type_checker_imports(tmp_path, seed_checkpoint):
    parse_variant(f"{own(tmp_path, ': BoundCheckpoint')}:Mine:mode=b").build(seed_checkpoint)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Mine:mode=c", "mode is one of: a, b"),
        ("Mine:size=3", "its options are: eps, mode"),
        ("Absent", "it has"),
        ("NUMBER", "holds no NUMBER"),
    ],
)
def test_users_file_without_what_was_asked_for_says_what_it_has(name, words, tmp_path):
    with pytest.raises(InputError, match=words):
        parse_variant(f"{own(tmp_path)}:{name}")


def test_what_a_user_builds_must_be_a_torch_module(tmp_path, seed_checkpoint):
    with pytest.raises(InputError, match="no_module returned no torch module"):
        parse_variant(f"{own(tmp_path)}:no_module").build(seed_checkpoint)


@pytest.mark.parametrize("text", ["def (", "import no_such_module_at_all", "1 / 0", "raise SystemExit(3)"])
def test_users_file_that_cannot_be_imported_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.py: cannot be imported") as caught:
        parse_variant(f"{path}:Mine")
    assert "\n" not in str(caught.value)


def test_checkpoint_without_a_tensor_that_a_variant_asks_for_names_it(seed_checkpoint):
    with pytest.raises(InputError, match=r"no tensor blk\.7\.attn_q\.weight"):
        seed_checkpoint["blk.7.attn_q.weight"]
