"""onnxruntime-genai's builder on a model's HF folder, against torch's export of the same weights, right and with two faults in it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from conftest import made_once
from corpus.models import TOKENS, tiny_model
from foreign.matrix import built_by_genai

from opdiff.compare.diagnose import compare

pytestmark = pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="wants onnxruntime-genai==0.18.0")
PRECISIONS = ("fp32", "fp16", "int4")


@pytest.fixture(scope="module")
def built(tmp_path_factory, worker_id) -> Path:
    """A folder for each precision, with model.onnx."""

    def make(folder: Path) -> None:
        tiny_model("qwen3").save_pretrained(folder / "hf")
        for precision in PRECISIONS:
            assert built_by_genai(folder, precision) is not None

    return made_once(tmp_path_factory, worker_id, "genai", make)


def with_faults(path: Path) -> Path:
    """The file with another scale in the attention of block 1, and another eps in the first norm of block 2."""
    model = onnx.load(path, load_external_data=False)
    attentions = [node for node in model.graph.node if node.op_type in ("GroupQueryAttention", "MultiHeadAttention")]
    norms = [node for node in model.graph.node if node.op_type == "SkipSimplifiedLayerNormalization"]
    for node, name, number in ((attentions[1], "scale", 0.375), (norms[3], "epsilon", 1e-3)):
        next(attribute for attribute in node.attribute if attribute.name == name).f = number
    made = path.with_name("wrong.onnx")
    onnx.save(model, made)
    return made


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_builder_computes_what_torch_exports(precision, built, exports):
    result = compare(exports / "eager.onnx", built / precision / "model.onnx", TOKENS)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.closed.complete
    assert any("storage: " in note for note in result.notes) is (precision != "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_faults_in_what_the_builder_writes_are_placed_said_and_closed(precision, built, exports):
    result = compare(exports / "eager.onnx", with_faults(built / precision / "model.onnx"), TOKENS)
    assert [cause.taps for cause in result.root_causes] == [("blk.1.attn_scores",), ("blk.2.attn_norm",)]
    scale, eps = ("; ".join(cause.edit) for cause in result.root_causes)
    assert scale.startswith("0.375 where A has 0.25")
    assert "0.001 where A has y + 1e-06" in eps
    assert result.closed.complete
