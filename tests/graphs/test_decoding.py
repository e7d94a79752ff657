"""A graph as a decoder: its last logits, as onnxruntime gives them for the whole file."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx_text import DECODER, DECODER_AXES, decoder_weights, save_decoder, save_text

from opdiff.graphs.decoding import GraphDecoder
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner


@pytest.mark.parametrize("tokens", [(1,), (1, 5, 3), (7, 0, 7, 2, 2, 6)])
def test_logits_are_the_last_positions(tokens, tmp_path):
    path = save_decoder(tmp_path / "a.onnx")
    whole = ort.InferenceSession(str(path)).run(["logits"], {"tokens": np.array(tokens)})[0]
    found = GraphDecoder("a", path, Runner()).logits(tokens)
    assert found.shape == (8,)
    np.testing.assert_allclose(found, whole[-1], atol=1e-6)


def test_axes_are_read_by_their_names(tmp_path):
    text = DECODER.replace("float[T,8] logits", "float[1,8,T] logits").replace(
        'logits = MatMul("blk.1.ffn_down", head)',
        'plain = MatMul("blk.1.ffn_down", head)\n'
        "  turned = Transpose<perm = [1, 0]>(plain)\n"
        "  axis = Constant<value_ints = [0]>()\n"
        "  logits = Unsqueeze(turned, axis)",
    )
    axes = {**DECODER_AXES, "logits": ("batch", "vocab", "token")}
    turned = GraphDecoder("b", save_text(tmp_path / "b.onnx", text, axes, decoder_weights()), Runner())
    plain = GraphDecoder("a", save_decoder(tmp_path / "a.onnx"), Runner())
    np.testing.assert_allclose(turned.logits((1, 5, 3)), plain.logits((1, 5, 3)), atol=1e-6)


def test_one_run_and_one_session_do_and_equal_graphs_share_it(tmp_path):
    runner = Runner()
    for name in ("a.onnx", "b.onnx"):
        GraphDecoder(name, save_decoder(tmp_path / name, seed=len(name)), runner).logits((1, 5))
    assert (runner.n_sessions, runner.n_runs) == (1, 2)


def test_graph_without_logits_is_refused(tmp_path):
    axes = {name: words for name, words in DECODER_AXES.items() if name != "logits"}
    path = save_text(tmp_path / "a.onnx", DECODER, axes, decoder_weights())
    with pytest.raises(InputError, match=r"a\.onnx: has no tap named logits"):
        GraphDecoder("a", path, Runner())


def test_token_that_the_graph_cannot_look_up_is_refused_with_its_path(tmp_path):
    decoder = GraphDecoder("a", save_decoder(tmp_path / "a.onnx"), Runner())
    with pytest.raises(InputError, match=r"a\.onnx: .*cannot run on this input"):
        decoder.logits((1, 99))
