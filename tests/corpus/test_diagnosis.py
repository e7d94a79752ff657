"""The diagnosis on the corpus: every fault at its place and by its name, no benign change blamed, and both at once.

An export of transformers' model takes longer than all of a diagnosis, so each exported model holds a fault in its first, one in a
middle and one in its last block; every fault is so found among others, and none may be blamed on another's regions.
"""

from __future__ import annotations

import json
import linecache
from collections.abc import Sequence
from pathlib import Path

import pytest
from foreign.models import without_taps

from corpus.benign import BENIGN
from corpus.exported import export_patched, export_right
from corpus.faults import FAULTS, pairs
from corpus.models import N_BLOCKS, TOKENS
from corpus.registry import Fault
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.graphs.taps import Source

BLOCKS = (0, 1, N_BLOCKS - 1)
Placed = tuple[Fault, int]


def packed() -> list[list[Placed]]:
    """All faults, three to a model of their kind, in blocks that change from model to model."""
    packs: list[list[Placed]] = []
    for kind in dict.fromkeys(fault.model for fault in FAULTS.values()):
        faults = [fault for fault in FAULTS.values() if fault.model == kind]
        third = -(-len(faults) // 3)
        columns = [faults[:third], faults[third : 2 * third], faults[2 * third :]]
        for row in range(third):
            together = [column[row] for column in columns if row < len(column)]
            packs.append([(fault, BLOCKS[(row + i) % 3]) for i, fault in enumerate(together)])
    return packs


def named(placed: Sequence[Placed]) -> str:
    return " + ".join(f"{fault.name} in {block}" for fault, block in placed)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder that all workers share."""
    return tmp_path_factory.getbasetemp().parent / "corpus"


def exported(folder: Path, placed: Sequence[Placed], benign: Sequence[str] = (), kind: str = "") -> tuple[Path, Path]:
    """The right model's graph, and that of the one with faults and benign changes."""
    kind = kind or placed[0][0].model
    right = export_right(kind, folder / kind)
    name = f"patched-{abs(hash((named(placed), *benign)))}"
    return right, export_patched(kind, placed, [BENIGN[name] for name in benign], right.parent, name)


def diagnosed(
    folder: Path, tmp_path: Path, placed: Sequence[Placed], benign: Sequence[str] = (), kind: str = ""
) -> Result:
    return compare(*exported(folder, placed, benign, kind), TOKENS)


def assert_found(result: Result, placed: Sequence[Placed]) -> None:
    """Exactly the regions of these faults, each under the name that the corpus has for it, if it has one."""
    assert {d.tap for d in result.divergences} == {tap for fault, block in placed for tap in fault.taps(block)}
    for fault, block in placed:
        causes = [cause for cause in result.root_causes if set(cause.taps) & fault.taps(block)]
        if fault.convention is not None:
            named_ones = {str(cause.convention) for cause in causes}
            possible = named_ones | {fit.split("=")[0] for cause in causes for fit in cause.also_fits}
            assert fault.convention in possible, causes
        else:
            assert all(cause.kind in ("convention", "edit") for cause in causes), causes
    for divergence in result.divergences:
        assert divergence.b_node is not None
        assert divergence.b_node.source is not None
        assert Path(divergence.b_node.source.rsplit(":", 1)[0]).is_file()


# What is told of each fault: the operator and the line on both sides and, where no convention has a name for it, the change.
# Read over by eye when it was made; a line is told by its text, for that is what stays where a file is edited above it.
TOLD = json.loads((Path(__file__).parent / "told.json").read_text())


def line_of(node: Source | None) -> list[str]:
    assert node is not None
    assert node.source is not None
    file, _, number = node.source.rpartition(":")
    return [node.op_type, linecache.getline(file, int(number)).strip()]


def assert_told(result: Result, fault: Fault, block: int) -> None:
    """The fault's operator and line are those of TOLD, and what is said where it has no name."""
    divergence = next(d for d in result.divergences if d.tap in fault.taps(block))
    cause = next(c for c in result.root_causes if divergence.tap in c.taps)
    told = TOLD[fault.name]
    for node, (operators, line) in ((divergence.a_node, told["a"]), (divergence.b_node, told["b"])):
        operator, found = line_of(node)
        assert found == line
        assert operator in operators.split("|")  # the first of two steps that are one line, in whichever order
    assert cause.kind != "edit" or cause.edit[0] == told["says"]


def assert_found_without_taps(result: Result, placed: Sequence[Placed]) -> None:
    """The same of two graphs that share no names. Where a step is missing, or is extra behind what both have, its value is
    nowhere on the other side, and what reads it is blamed: in the same block, or as the next one begins.
    """
    blocks = {block if fault.in_block else None for fault, block in placed}
    for divergence in result.divergences:
        is_near = divergence.block in blocks or (divergence.block or 0) - 1 in blocks
        assert is_near or (None in blocks and divergence.block in (None, 0)), divergence.tap
    assert len(result.root_causes) <= len(placed) + 1, [cause.text for cause in result.root_causes]
    told = [cause for cause in result.root_causes if cause.kind != "unexplained"]
    assert len(told) >= len(placed) - 1, [cause.text for cause in result.root_causes]
    assert result.closed.all_found


@pytest.mark.parametrize("placed", packed(), ids=named)
def test_every_fault_is_found_in_its_regions_and_named(placed, folder, tmp_path):
    pair = exported(folder, placed)
    result = compare(*pair, TOKENS)
    assert_found(result, placed)
    assert result.closed.complete
    for fault, block in placed:
        assert_told(result, fault, block)
    if placed in packed()[1::4]:
        assert_found_without_taps(compare(*map(without_taps, pair), TOKENS), placed)


@pytest.mark.parametrize("pair", pairs(5), ids=lambda pair: f"{pair[0].name} + {pair[1].name}")
def test_two_faults_in_one_block_are_told_apart(pair, folder, tmp_path):
    placed = [(fault, 1) for fault in pair]
    assert_found(diagnosed(folder, tmp_path, placed), placed)


@pytest.mark.parametrize("name", BENIGN)
def test_nothing_is_blamed_for_a_benign_change(name, folder, tmp_path):
    result = diagnosed(folder, tmp_path, [], [name], BENIGN[name].model)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.root_causes == ()
    assert result.latent == ()


BOTH = [
    ("rope pairs neighbours", ("sdpa attention", "opset 23")),
    ("qk_norm with eps 1e-5", ("unoptimised export", "sdpa attention")),
    ("gelu for silu", ("fused rms_norm", "opset 18")),
    ("scale missing", ("positions of q and k one later",)),
    ("rope base 10000", ("positions of q and k one later",)),
    ("ffn_norm with eps 1e-5", ("interleaved pairing on permuted rows and gains",)),
    ("qk_norm with eps 1e-5", ("interleaved pairing on permuted rows and gains",)),
    ("mask missing", ("batch of 2",)),
]


@pytest.mark.parametrize(
    ("name", "changes"), BOTH, ids=lambda value: value if isinstance(value, str) else " + ".join(value)
)
def test_a_fault_among_benign_changes_is_named_and_nothing_else(name, changes, folder, tmp_path):
    fault = FAULTS[name]
    result = diagnosed(folder, tmp_path, [(fault, 1)], changes)
    missing = {"attn_scores", "attn_probs"} if "sdpa attention" in changes else set()
    assert {d.tap for d in result.divergences} == {t for t in fault.taps(1) if t.split(".")[-1] not in missing}
    assert [cause.convention for cause in result.root_causes] == [fault.convention]
    assert result.closed.complete
