"""The pytest plugin: a test that fails with the diagnosis, a trace from inside a test, and a start that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import DECODER, save_decoder

from opdiff.compare.pytest_plugin import TraceRecorder
from opdiff.compare.report.diagnosis import diagnosis
from opdiff.compare.result import Result
from opdiff.graphs.errors import InputError
from opdiff.graphs.trace import load_trace

pytest_plugins = "pytester"
NO_CACHE = ("-p", "no:cacheprovider")

PARITY = """
import opdiff

def test_port():
    opdiff.assert_parity("a.onnx", "b.onnx", tokens=[1, 5, 3])

def test_itself():
    assert opdiff.assert_parity("a.onnx", "a.onnx", tokens=[1, 5, 3]).parity
"""

RECORDED = """
import numpy as np
import onnxruntime
import opdiff

def test_port(opdiff_trace):
    session = onnxruntime.InferenceSession("b.onnx")
    names = [one.name for one in session.get_outputs()]
    opdiff_trace.record("tokens", [1, 5, 3])
    for name, value in zip(names, session.run(names, {"tokens": np.array([1, 5, 3])})):
        opdiff_trace.record(name, value)
    opdiff.assert_parity("a.onnx", opdiff_trace.save())
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder of a user's, with two graphs that part."""
    save_decoder(pytester.path / "a.onnx")
    save_decoder(pytester.path / "b.onnx", text=DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)"))
    return pytester


def test_the_assertions_message_is_the_diagnosis_and_the_users_line_is_shown(folder: pytest.Pytester):
    folder.makepyfile(PARITY)
    done = folder.runpytest(*NO_CACHE)
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        [
            '>       opdiff.assert_parity("a.onnx", "b.onnx", tokens=[[]1, 5, 3])',
            "E       AssertionError: differ: a (A: a) and b (B: b) part at blk.1.ffn_down; 1 root cause in 1 region",
            "E       1. b: abs(blk.0.ffn_down @ w1) where a has relu(blk.0.ffn_down @ w1)",
            "E          at ffn_down in block 1",
            "E          mending it moves the logits by up to *",
            "E       complete: mended by all of them, B meets A *",
        ]
    )
    assert "api.py" not in "".join(line for line in done.outlines if line.startswith(">"))


def test_a_trace_that_a_test_recorded_is_a_side(folder: pytest.Pytester):
    folder.makepyfile(RECORDED)
    done = folder.runpytest(*NO_CACHE)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E * differ: a (A: a) and test_port (B: test_port) part at blk.1.ffn_down; *"])


def test_the_fixture_says_what_it_does(folder: pytest.Pytester):
    folder.runpytest("--fixtures", *NO_CACHE).stdout.fnmatch_lines(
        ["opdiff_trace *", "*Writes down what a runtime computes*"]
    )


def test_opdiff_is_found_by_its_entry_point():
    (found,) = entry_points(group="pytest11", name="opdiff")
    assert found.load().opdiff_trace


def test_pytests_start_imports_nothing_heavy(tmp_path: Path):
    code = "import sys, opdiff.compare.pytest_plugin\nprint({'numpy', 'onnx', 'onnxruntime', 'torch', 'safetensors', 'rich', 'pydantic', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_diagnosis_has_every_cause_and_what_limits_it_and_no_table(diagnosed: Result):
    text = diagnosis(diagnosed)
    for said in (
        *(cause.what for cause in diagnosed.root_causes),
        diagnosed.closed.text,
        *(spot.text for spot in diagnosed.blind_spots),
    ):
        assert said in text
    assert "┃" not in text


@pytest.fixture
def diagnosed(seed: Path) -> Result:
    from opdiff.compare.diagnose import compare

    return compare(seed / "dsl.onnx", seed / "legacy.onnx", [1])


@pytest.fixture
def recorder(tmp_path: Path) -> TraceRecorder:
    return TraceRecorder(tmp_path / "mine.safetensors")


def test_what_is_recorded_is_read_back(recorder: TraceRecorder):
    value = np.arange(96, dtype=np.float32).reshape(3, 2, 16)
    recorder.record("tokens", [1, 5, 3])
    recorder.record("blk.0.q_proj", value)
    value += 1  # the runtime uses its memory again
    recorder.record("blk.0.k_proj", torch.ones(3, 32, dtype=torch.bfloat16, requires_grad=True))
    trace = load_trace(recorder.save())
    assert (trace.name, trace.runtime, trace.tokens) == ("mine", "mine", (1, 5, 3))
    np.testing.assert_array_equal(trace.values["blk.0.q_proj"], np.arange(96).reshape(3, 2, 16))
    np.testing.assert_array_equal(trace.values["blk.0.k_proj"], np.ones((3, 32)))


@pytest.mark.parametrize("axes", ["token head channel", "head token channel", "channel head token"])
def test_axes_in_any_order_are_the_same_value(axes: str, recorder: TraceRecorder):
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # token, head, channel
    order = [["token", "head", "channel"].index(word) for word in axes.split()]
    recorder.record("blk.0.q_rope", value.transpose(order), axes=axes)
    np.testing.assert_array_equal(load_trace(recorder.save()).values["blk.0.q_rope"], value)


def test_steps_are_put_together(recorder: TraceRecorder):
    for step, tokens in enumerate([(1, 5), (3,)]):
        recorder.record(f"step.{step}.tokens", torch.tensor(tokens))
        recorder.record(f"step.{step}.blk.0.q_rope", np.full((2, len(tokens), 4), step), axes="head token channel")
    trace = load_trace(recorder.save())
    assert (trace.tokens, trace.schedule.text) == ((1, 5, 3), "2+1")
    assert trace.values["blk.0.q_rope"][:, 0, 0].tolist() == [0, 0, 1]


def test_axes_that_a_stage_does_not_have_are_refused(recorder: TraceRecorder):
    with pytest.raises(InputError, match=r"blk.0.q_rope: axes 'token vocab' .* q_rope is token channel"):
        recorder.record("blk.0.q_rope", np.ones((3, 4)), axes="token vocab")
    with pytest.raises(InputError, match=r"mine: axes 'token channel' .* mine is no stage"):
        recorder.record("mine", np.ones((3, 4)), axes="token channel")


def test_a_name_is_recorded_once(recorder: TraceRecorder):
    recorder.record("embed", np.ones((3, 4)))
    with pytest.raises(InputError, match=r"embed: recorded twice; .* step\.1\.embed"):
        recorder.record("embed", np.ones((3, 4)))


def test_a_trace_of_nothing_or_in_no_folder_is_refused(recorder: TraceRecorder, tmp_path: Path):
    with pytest.raises(InputError, match="nothing was recorded"):
        recorder.save()
    recorder.record("embed", np.ones((3, 4)))
    with pytest.raises(InputError, match="cannot be written"):
        recorder.save(tmp_path / "none" / "mine.safetensors")
    assert not (tmp_path / "none").exists()
