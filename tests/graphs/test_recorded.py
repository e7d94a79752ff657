"""A graph on an execution provider, whole and in a process of its own: every tap, and one line where it cannot run."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_text import artifact_regions, save_decoder

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.kernels import CPU
from opdiff.graphs.recorded import recorded_on
from opdiff.graphs.run import Runner, run_regions


def test_every_tap_is_what_the_regions_give_to_rounding(tmp_path):
    artifact = load_artifact(save_decoder(tmp_path / "decoder.onnx"))
    recorded = recorded_on(CPU, artifact, [1, 5, 3])
    assert (recorded.lacking, recorded.trace.tokens, recorded.trace.name) == ((), (1, 5, 3), "decoder[CPU]")
    assert recorded.trace.tap_names == artifact.tap_names
    values = run_regions(artifact_regions(artifact), {"tokens": np.array([1, 5, 3])}, Runner())
    for tap in artifact.tap_names:
        np.testing.assert_allclose(recorded.trace.values[tap], values[tap], rtol=1e-5, atol=1e-6)


def test_what_it_cannot_run_is_one_line(tmp_path):
    artifact = load_artifact(save_decoder(tmp_path / "decoder.onnx"))
    with pytest.raises(InputError, match=rf"decoder.onnx: {CPU} cannot run it \(.*indices") as caught:
        recorded_on(CPU, artifact, [1, 99])
    assert "\n" not in str(caught.value)
