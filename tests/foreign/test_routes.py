"""One model by several exporters and optimisers: aligned without names, nothing blamed, and faults found among it all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from corpus.exported import export_right
from corpus.linear_faults import afterwards
from corpus.models import N_BLOCKS, TOKENS, tiny_model
from foreign import models
from foreign.test_fused import MODELS

from opdiff.__main__ import main
from opdiff.compare.align.anchors import root
from opdiff.compare.align.foreign import align_foreign
from opdiff.compare.align.stages import stages_of
from opdiff.compare.diagnose import compare
from opdiff.compare.opening import open_either
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner
from opdiff.graphs.stages import IN_BLOCK

ROUTES = {
    "as it is": lambda path: path,
    "other names": models.renamed,
    "onnxruntime basic": lambda path: models.saved_by_onnxruntime(path, "basic"),
    "onnxruntime all": lambda path: models.saved_by_onnxruntime(path, "all"),
    "float16": models.in_half,
    "four bits": models.in_four_bits,
    "last position": models.at_the_last_position,
    "TorchScript": lambda path: models.by_torchscript(tiny_model("qwen3"), path.with_suffix(".script.onnx"), "sdpa"),
}


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def pair_of(a: Path, b: Path, tokens=TOKENS):
    return align_foreign(*(open_either(path, None, {}) for path in (a, b)), tokens, Runner())


@pytest.mark.parametrize("other", ["eager", "fused"])
@pytest.mark.parametrize("route", ROUTES)
def test_equal_graphs_are_aligned_and_nothing_is_blamed(route, other, exports):
    a, b = exports / "eager.onnx", ROUTES[route](exports / f"{other}.onnx")
    result = compare(a, b, TOKENS)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.closed.complete
    assert result.latent == ()
    found = {row.tap for row in result.rows}
    wanted = {f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in IN_BLOCK} | {"embed", "final_norm", "logits"}
    assert wanted <= found
    assert any("storage: " in note for note in result.notes) == (route in ("float16", "four bits"))
    assert [position.position for position in result.positions] == [*range(len(TOKENS))][
        -1 if route == "last position" else 0 :
    ]
    assert any("at the last position" in note for note in result.notes) == (route == "last position")


def test_stages_are_those_that_the_taps_of_the_variant_say(exports, tmp_path_factory):
    tapped = export_right("qwen3", tmp_path_factory.getbasetemp().parent / "corpus" / "qwen3")
    for name in ("eager", "fused"):
        pair = pair_of(tapped, exports / f"{name}.onnx")
        told = {root(pair.b, one.point.b)[0]: one.tap for one in pair.named if "." not in one.tap.split(".", 2)[-1]}
        recognised = stages_of(pair.b)
        stages = {value: tap for value, tap in told.items() if tap.rsplit(".", 1)[-1] in (*IN_BLOCK, "embed", "logits")}
        assert len(stages) >= 0.95 * (N_BLOCKS * len(IN_BLOCK) + 2)
        assert {value: recognised.get(value) for value in stages} == stages


def test_parts_of_one_product_are_stages(tmp_path):
    """GPT-2 projects q, k and v at once; each is the part that it takes."""
    a = models.by_torchscript(models.filled(MODELS["gpt2"]()), tmp_path / "a.onnx")
    pair = pair_of(a, models.saved_by_onnxruntime(a, "extended"))
    values = {one.tap: pair.a.array(one.point.a) for one in pair.named}
    parts = [values[f"blk.1.{stage}"] for stage in ("q_proj", "k_proj", "v_proj")]
    assert len({part.tobytes() for part in parts}) == 3
    assert {part.size for part in parts} == {values["blk.1.attn_norm"].size}


def test_another_input_gives_the_same_map(exports):
    other = tuple(reversed(TOKENS))
    maps = [pair_of(exports / "eager.onnx", exports / "fused.onnx", tokens).entries() for tokens in (TOKENS, other)]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("route", ["as it is", "onnxruntime all", "four bits", "last position"])
def test_faults_are_placed_said_and_closed_whatever_the_route(route, exports):
    result = compare(exports / "eager.onnx", ROUTES[route](exports / "faulty.onnx"), TOKENS)
    assert [cause.taps for cause in result.root_causes] == [("blk.1.attn_norm",), ("blk.2.ffn_act",)]
    eps, act = ("; ".join(cause.edit) for cause in result.root_causes)
    assert eps.startswith("0.0001 where A has 1e-06")
    assert "erf(ffn_gate" in act
    assert "sigmoid(ffn_gate" in act
    assert result.closed.complete


def test_what_one_side_alone_does_last_is_a_fault_of_either(exports, tmp_path):
    """The logits of one are a value on the other's way to its own."""

    def scaled(model):
        afterwards(model, "lm_head", lambda x: x * 0.0625)

    pair = exports / "eager.onnx", models.qwen3(tmp_path / "scaled.onnx", scaled, "sdpa", 23)
    for (a, b), what in ((pair, "extra"), (pair[::-1], "left out")):
        result = compare(a, b, TOKENS)
        (cause,) = result.root_causes
        assert cause.taps == ("logits",)
        assert cause.edit[0].startswith(f"x * 0.0625 is {what}, x = final_norm @ ")
        assert result.closed.complete


def test_a_module_without_a_decoder_is_compared_too(tmp_path):
    torch = pytest.importorskip("torch")
    picture = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    plain = models.filled(models.Convolutions())
    a = models.written(plain, picture, tmp_path / "a.onnx", 18, "picture")
    unfolded = models.written(plain, picture, tmp_path / "b.onnx", 20, "picture", optimize=False)
    assert compare(
        a, unfolded
    ).parity  # a batch norm that is folded into the convolution is another weight, and no fault
    plain.layers[5], plain.layers[8].bias.data[3] = torch.nn.GELU(), 7.0
    wrong = models.written(plain, picture, tmp_path / "wrong.onnx", 18, "picture")
    result = compare(a, wrong)
    assert len(result.root_causes) == 2
    assert "erf(" in result.root_causes[0].edit[0]
    assert "7 where A has" in result.root_causes[1].text.replace("wrong", "B").replace(" a has", " A has")
    assert result.closed.complete
    given = {"picture": np.ones((1, 3, 12, 12), np.float32)}
    assert compare(a, unfolded, inputs=(given, given)).parity
    with pytest.raises(InputError, match="picture is"):
        compare(a, unfolded, inputs=({"picture": np.ones((1, 3, 9, 9), np.float32)}, {}))


def test_a_state_space_model_is_compared_too(tmp_path):
    torch = pytest.importorskip("torch")
    module = models.filled(models.StateSpace())
    tokens = torch.arange(3, 9)[None]
    a = models.written(module, tokens, tmp_path / "a.onnx", 18, "input_ids")
    b = models.written(module, tokens, tmp_path / "b.onnx", 23, "input_ids")
    asked = tuple(range(3, 9))
    assert compare(a, b, asked).parity
    module.blocks[1].act, module.blocks[0].norm.eps = torch.nn.functional.gelu, 1e-2
    result = compare(a, models.written(module, tokens, tmp_path / "wrong.onnx", 23, "input_ids"), asked)
    assert len(result.root_causes) == 2, [cause.text for cause in result.root_causes]
    assert any("0.01 where" in cause.text and "1e-06" in cause.text for cause in result.root_causes)
    assert any("erf(" in cause.text for cause in result.root_causes)
    assert result.closed.complete


def test_a_map_corrects_and_is_written(exports, tmp_path):
    out, asked = tmp_path / "map.json", ",".join(map(str, TOKENS))
    eager, fused = exports / "eager.onnx", exports / "fused.onnx"
    printed = opdiff("align", eager, fused, "--tokens", asked, "--out", out, "--json", tmp_path / "all.json")
    assert printed.exit_code == 0, printed.stderr
    assert "have a partner" in printed.stdout
    told = json.loads((tmp_path / "all.json").read_text())
    assert told["schema"] == "opdiff.alignment/1"
    assert min(told["shares"].values()) > 0.8
    assert told["left"]["a"]
    assert opdiff("compare", eager, fused, "--tokens", asked, "--map", out).exit_code == 0
    written = json.loads(out.read_text())
    written["points"][0]["tap"] = "my.name"
    out.write_text(json.dumps(written))
    assert "my.name" in opdiff("align", eager, fused, "--tokens", asked, "--map", out).stdout
    written["points"][0]["a"] = "no such value"
    out.write_text(json.dumps(written))
    refused = opdiff("compare", eager, fused, "--tokens", asked, "--map", out)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("opdiff: the map names no such value as a value of A")


@pytest.mark.parametrize("text", ["{}", "[1]", "no JSON", '{"schema": "opdiff.map/0", "points": []}'])
def test_what_is_no_map_is_refused(text, exports, tmp_path):
    (tmp_path / "map.json").write_text(text)
    eager = exports / "eager.onnx"
    refused = opdiff("compare", eager, eager, "--tokens", "1,2", "--map", tmp_path / "map.json")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1


def test_graphs_of_other_models_are_refused(exports, tmp_path):
    torch = pytest.importorskip("torch")
    other = models.written(
        models.filled(models.StateSpace()), torch.arange(10)[None], tmp_path / "other.onnx", 18, "input_ids"
    )
    with pytest.raises(InputError, match="of different models: of 36 and"):
        compare(exports / "eager.onnx", other, TOKENS)
    with pytest.raises(InputError, match="no tokens"):
        compare(exports / "eager.onnx", exports / "fused.onnx")
    with pytest.raises(InputError, match="takes exactly 10 tokens, where 3 are given"):
        compare(exports / "fused.onnx", exports / "fused.onnx", (1, 2, 3))


PORTS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, act):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.inner, self.outer, self.act = nn.Linear(8, 16), nn.Linear(16, 4), act
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, x, scale):
        return self.outer(self.act(self.inner(x) * scale))


def inputs():
    return {"x": torch.linspace(-1, 1, 24).reshape(3, 8), "scale": torch.tensor([0.5])}


def first():
    return Small(nn.functional.gelu), inputs()


def second():
    return Small(lambda x: nn.functional.gelu(x).clamp(max=0.5)), inputs()


def none():
    return 3
"""


def test_two_modules_without_a_checkpoint_are_exported_and_compared(tmp_path):
    (tmp_path / "ports.py").write_text(PORTS)
    names = [f"--module={tmp_path / 'ports.py'}:{name}" for name in ("first", "second")]
    out = tmp_path / "out"
    made = opdiff("export", *names, "--out", out)
    assert made.exit_code == 0, made.stderr
    assert {path.name for path in out.iterdir()} >= {"first.onnx", "first.npz", "second.onnx", "second.npz"}
    pair = [out / f"{name}.onnx" for name in ("first", "second")]
    found = opdiff("compare", *pair, "--inputs", out / "first.npz")
    assert found.exit_code == 1, found.stderr
    assert "clip(" in found.stdout
    assert f"ports.py:{1 + PORTS[: PORTS.index('clamp')].count(chr(10))}" in found.stdout
    assert "complete: " in found.stdout
    assert opdiff("compare", pair[0], pair[0], "--optimization-b", "extended").exit_code == 0


@pytest.mark.parametrize("asked", ["ports.py", "nix.py:first", "ports.py:nix", "ports.py:none"])
def test_what_is_no_module_is_refused(asked, tmp_path):
    (tmp_path / "ports.py").write_text(PORTS)
    refused = opdiff("export", "--module", tmp_path / asked, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("opdiff: ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
