"""The corpus as traces: what torch recorded of a patched model, against the right graph.

A trace holds float32 values, so a fault shows only where it does more than float32 kernels may differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus.benign import BENIGN
from corpus.exported import export_right
from corpus.models import TOKENS, tiny_model
from corpus.registry import Benign
from corpus.test_diagnosis import Placed, named, packed
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.tapping import collected
from opdiff.exporters.variants import hf
from opdiff.graphs.taps import Source, Tap
from opdiff.graphs.trace import save_trace

# Where what a norm reads is far above its eps, or a norm takes a factor out again, nothing that counts may be left in
# float32; that depends on the block. Such a fault may be missed, and never put elsewhere.
BELOW_FLOAT32 = {
    "attn_norm with eps 1e-5",
    "attn_norm with eps outside the root",
    "ffn_norm with eps 1e-5",
    "ffn_norm with eps outside the root",
    "qk_norm with eps outside the root",
    "final_norm with eps 1e-5",
    "final_norm with eps outside the root",
    "llama ffn_norm with eps 1e-5",
    "ffn residual times sqrt(1/2)",
}


# Faults without a name for which a change of the graph's own region is found, and proved on what was recorded.
TRIED = {
    "attention residual halved",
    "context channel 3 of each head zeroed",
    "context doubled",
    "context of heads 0 and 1 swapped",
    "context of the last position halved",
    "ffn branch subtracted",
    "ffn_down times 1.001",
    "ffn_gate under a fixed mask",
    "ffn_norm clipped",
    "ffn_up one position late",
    "final_norm gain reversed",
    "first eight activations dead",
    "k_proj offset in its last two channels",
    "probabilities rounded to bfloat16",
    "scores of head 2 too large",
    "v_proj negated",
    "v_proj one position late",
    "values read one position late",
}


def recorded(kind: str, placed: Sequence[Placed], benign: Sequence[Benign], path: Path) -> Path:
    """What torch's own float32 run of a model with these faults and changes lets out."""
    model: Any = tiny_model(kind)
    for change in benign:
        change.apply(model)
    for fault, block in placed:
        fault.apply(model, block)
    with torch.inference_mode(), collected() as taps:
        hf.tapped(model)(torch.tensor(TOKENS))
    node = Source("", "", None, None)
    save_trace(path, "torch", TOKENS, [(Tap(name, t.axes, node), t.value.numpy()) for name, t in taps.items()], {})
    return path


def diagnosed(
    kind: str, placed: Sequence[Placed], benign: Sequence[Benign], factory: pytest.TempPathFactory, tmp_path: Path
) -> Result:
    right = export_right(kind, factory.getbasetemp().parent / "corpus" / kind)
    return compare(right, recorded(kind, placed, benign, tmp_path / "t.safetensors"))


@pytest.mark.parametrize("placed", packed(), ids=named)
def test_every_fault_that_float32_shows_is_found_in_its_regions_and_named(placed, tmp_path_factory, tmp_path):
    result = diagnosed(placed[0][0].model, placed, [], tmp_path_factory, tmp_path)
    found = {d.tap for d in result.divergences}
    shown = {tap for fault, block in placed if fault.name not in BELOW_FLOAT32 for tap in fault.taps(block)}
    assert shown <= found <= {tap for fault, block in placed for tap in fault.taps(block)}
    unnamed = {tap for fault, block in placed if fault.name in TRIED for tap in fault.taps(block)}
    assert all(cause.kind != "unexplained" for cause in result.root_causes if unnamed & set(cause.taps))
    for fault, block in placed:
        causes = [cause for cause in result.root_causes if set(cause.taps) & fault.taps(block)]
        if not causes:
            continue
        possible = {str(cause.convention) for cause in causes}
        possible |= {fit.split("=")[0] for cause in causes for fit in cause.also_fits}
        assert fault.convention is None or fault.convention in possible, causes


@pytest.mark.parametrize("name", [name for name in BENIGN if name != "batch of 2"])  # a trace is of one input
def test_nothing_is_blamed_for_a_benign_change(name, tmp_path_factory, tmp_path):
    result = diagnosed(BENIGN[name].model, [], [BENIGN[name]], tmp_path_factory, tmp_path)
    assert result.parity, [cause.text for cause in result.root_causes]
