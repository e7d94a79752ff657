"""HF's caches of models with windows: those that forget, those that do not, and one that forgets the wrong keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.models import WINDOW, family_model, tokens
from transformers.cache_utils import DynamicSlidingWindowLayer

from opdiff.compare.diagnose import compare
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.runtimes.command import run_trace
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.errors import InputError
from opdiff.graphs.trace import load_trace

TOKENS = tuple(tokens().tolist()[:16])
KINDS = ("mistral", "gemma3")  # a window in each block, and in the first and the last of three


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind as an HF folder, and its reference without a cache."""
    made = tmp_path_factory.mktemp("windows")
    for kind in KINDS:
        family_model(kind).save_pretrained(made / kind)
        export(open_checkpoint(str(made / kind)), [parse_variant("reference")], made / f"{kind} graph")
    return made


def traced(model: Path, schedule: str, cache: str | None, out: Path) -> Path:
    return run_trace(str(model), "hf", None, ",".join(map(str, TOKENS)), out / "t.safetensors", schedule, cache)


def of_cache(trace: Path) -> set[str]:
    return {name for name in load_trace(trace).taps if name.endswith("_cache")}


@pytest.mark.parametrize("cache", ["dynamic", "static", "sliding"])
@pytest.mark.parametrize("schedule", ["each", "7+1+1+7", "batch:2,chunks:5", "pad-left:3,each"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_forgets_what_no_window_sees_is_right(folder, tmp_path, kind, schedule, cache):
    trace = traced(folder / kind, schedule, cache, tmp_path)
    result = compare(folder / f"{kind} graph" / "reference.onnx", trace, None)
    assert result.parity, [cause.text for cause in result.root_causes]
    whole = {f"blk.{n}.{what}_cache" for n in range(3) for what in "kv"}
    remembering = {name for name in whole if kind == "gemma3" and name.startswith("blk.1.")}
    assert of_cache(trace) == (whole if cache == "dynamic" else remembering)


def test_keys_have_their_own_positions_and_forgotten_ones_are_masked(folder, tmp_path):
    values = load_trace(traced(folder / "mistral", "each", "sliding", tmp_path)).values
    probs = values["blk.1.attn_probs"]
    assert probs.shape[1:] == (len(TOKENS), len(TOKENS))
    for n in range(len(TOKENS)):
        first = max(n - WINDOW + 1, 0)
        assert (probs[:, n, first : n + 1] > 0).all()
        assert not probs[:, n, :first].any()


@pytest.mark.parametrize("cache", ["static", "sliding"])
def test_a_window_that_no_step_reaches_leaves_the_cache_a_stage(folder, tmp_path, cache):
    trace = run_trace(str(folder / "mistral"), "hf", None, "1,5,3", tmp_path / "t.safetensors", "each", cache)
    assert len(of_cache(trace)) == 6


def test_a_cache_that_forgets_the_wrong_keys_is_blamed_where_they_are_read(folder, tmp_path, monkeypatch):
    update = DynamicSlidingWindowLayer.update

    def faulty(self, k, v, *args, **kwargs):
        given = update(self, k, v, *args, **kwargs)
        if self.cumulative_length == 12:  # from here on the oldest key stands where the newest should
            self.keys = self.keys.roll(1, -2)
        return given

    monkeypatch.setattr(DynamicSlidingWindowLayer, "update", faulty)
    trace = traced(folder / "gemma3", "each", "sliding", tmp_path)
    result = compare(folder / "gemma3 graph" / "reference.onnx", trace, None)
    assert {d.tap for d in result.divergences} == {"blk.0.attn_scores", "blk.2.attn_scores"}


def test_a_graph_with_a_cache_keeps_all_and_is_what_forgets(folder, tmp_path):
    (graph,) = export(open_checkpoint(str(folder / "gemma3")), [parse_variant("hf")], tmp_path / "hf", cache=True)
    for cache in ("dynamic", "sliding"):
        trace = traced(folder / "gemma3", "7+1+1+7", cache, tmp_path)
        assert compare(graph, trace, None).parity


def test_a_sliding_cache_without_a_window_is_refused(tmp_path):
    family_model("olmo2").save_pretrained(tmp_path / "olmo2")
    with pytest.raises(InputError, match=r"no layer of this olmo2 has a window; use --cache dynamic"):
        traced(tmp_path / "olmo2", "each", "sliding", tmp_path)
