"""HF's trace: what the exported variant `hf` gives in onnxruntime, computed by HF itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from corpus.exported import export_right
from corpus.models import TOKENS, tiny_model, write_gguf

from opdiff.__main__ import main
from opdiff.compare.measure import deviation
from opdiff.exporters.checkpoints import DecoderConfig, open_checkpoint
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.axes import to_canonical
from opdiff.graphs.trace import Trace, load_trace

FLOOR = 1e-11  # NMSE; the worst that was measured is 1.2e-12


def traced(folder: Path) -> Trace:
    arguments = ["trace", folder / "model.gguf", "--runtime", "hf", "--tokens", ",".join(map(str, TOKENS))]
    done = CliRunner().invoke(main, [*map(str, arguments), "--out", str(folder / "hf.safetensors")])
    assert done.stdout.strip() == str(folder / "hf.safetensors"), done.stderr
    return load_trace(folder / "hf.safetensors")


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_the_trace_is_what_the_exported_variant_gives(kind, tmp_path):
    artifact = load_artifact(export_right(kind, tmp_path))
    trace = traced(tmp_path)
    session = onnxruntime.InferenceSession(str(artifact.path))
    names = [tap.name for tap in artifact.taps]
    run = dict(zip(names, session.run(names, {"tokens": np.array(TOKENS, np.int64)}), strict=True))
    assert set(trace.taps) == set(names)
    for tap in artifact.taps:
        theirs = to_canonical(run[tap.name], tap.axes)
        ours = to_canonical(trace.values[tap.name], trace.taps[tap.name].axes)
        found = deviation(theirs, ours, is_scores=tap.stage == "attn_scores")
        assert found.status == "compared", tap.name
        assert found.nmse is not None
        assert found.nmse < FLOOR, (tap.name, found)


def test_the_trace_says_what_it_is_of(tmp_path):
    model = write_gguf(tiny_model("qwen3"), tmp_path / "model.gguf")
    trace = traced(tmp_path)
    assert trace.runtime.startswith("hf transformers 5.")
    assert trace.tokens == TOKENS
    assert trace.unknown == ()
    assert trace.facts["checkpoint"] == open_checkpoint(str(model)).sha256
    assert DecoderConfig.from_json(trace.facts["config"]).architecture == "qwen3"
    assert json.loads(trace.facts["options"])["attention"] == "eager"
    assert {"opdiff", "transformers", "torch"} <= set(json.loads(trace.facts["versions"]))
