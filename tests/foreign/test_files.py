"""ONNX files that packages of other people carry: equal to what optimisers make of them, and told where their weights are others."""

from __future__ import annotations

from itertools import combinations

import pytest
from foreign.files import OF_OTHER_WEIGHTS, OPTIMISERS, WITHOUT_OTHERS, files, optimised, spoken

from opdiff.compare.diagnose import compare

FILES = {path.stem: path for path in files()}
VOICES = [name for name in FILES if "silero" in name and name not in WITHOUT_OTHERS]
needs_files = pytest.mark.skipif(
    not FILES, reason="wants silero-vad, magika, nudenet or rapidocr-onnxruntime: foreign/files.py"
)


@needs_files
@pytest.mark.parametrize("by", OPTIMISERS)
@pytest.mark.parametrize("name", FILES or ["none"])
def test_a_file_is_the_same_as_an_optimiser_writes_it(name, by, tmp_path):
    made = optimised(FILES[name], by, tmp_path)
    if isinstance(made, str):
        pytest.skip(made)
    result = compare(FILES[name], made)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.closed.complete


@needs_files
@pytest.mark.parametrize(("a", "b"), combinations(VOICES, 2))
def test_files_of_one_model_are_the_same_and_one_of_other_weights_is_said_to_be(a, b):
    result = compare(FILES[a], FILES[b], inputs=(spoken(FILES[a]), spoken(FILES[b])))
    others = [note for note in result.notes if "of B's weights are other numbers than A's" in note]
    assert result.parity is (OF_OTHER_WEIGHTS not in (a, b))
    assert bool(others) is not result.parity
    for note in others:
        assert all(f"encoder.{n}.reparam_conv.{kind}" in note for n in range(4) for kind in ("weight", "bias"))
