"""The result of a comparison: one typed object, and its JSON, whose schema is in docs/schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np

from ..graphs.taps import Source
from .measure import Deviation

SCHEMA = "opdiff.result/3"


@dataclass(frozen=True, slots=True)
class SideInfo:
    """Where a side comes from. `tokenizer` is the file of its model's tokenizer, where that stands beside it."""

    name: str
    path: str
    runtime: str
    sha256: str
    checkpoint: str | None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """The logits of both sides at one position: the first of them, and the five largest as (token, logit)."""

    position: int
    token: int
    a_first: float
    b_first: float
    a_top: tuple[tuple[int, float], ...]
    b_top: tuple[tuple[int, float], ...]
    max_abs: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A value, or a difference, as a small picture: a row for each position, or for so many of them.

    cells: base64 of int8, row by row: 127 stands for `largest`, -126 for nearly `-largest`; each is the entry farthest
        from 0 of those that it stands for. -127 is masked, -128 not finite.
    """

    rows: int
    columns: int
    largest: float
    cells: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one side's value of a tap looks like; figures are of its finite entries, None where there are none."""

    shape: tuple[int, ...]
    least: float | None
    largest: float | None
    mean: float | None
    std: float | None
    n_nonfinite: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Row:
    """One tap in the table: what came through (propagated), and what its own region adds (`local` verdict).

    Args:
        axes: a word for each dimension, in the order of `shape`.
        error, floor, threshold: what the local verdict rests on, Euclidean: the difference in double precision on A's
            values, float32's rounding in this region, and what counts as a difference.
        by_position: the relative distance |B - A| / |A| at each position; of more than 128, the largest of so many in a
            row that there are no more. None where a side is not finite; empty where the tap has no positions.
        a_nodes, b_nodes: each side's nodes of the region, the tap's own last; none of a trace.
        a_look, b_look, difference: what the values and their difference look like; None where shapes disagree.
    """

    tap: str
    stage: str
    block: int | None
    axes: tuple[str, ...]
    propagated: Deviation
    verdict: str
    reason: str
    error: float
    floor: float
    threshold: float
    by_position: tuple[float | None, ...]
    a_nodes: tuple[Source, ...]
    b_nodes: tuple[Source, ...]
    a_look: Look | None
    b_look: Look | None
    difference: Picture | None


@dataclass(frozen=True, slots=True)
class Effect:
    """How much of the logits' difference goes when a region, or a cause, is mended.

    `alone` and `in_order` give a share for each position at which it was measured, the first ones: 1 is all of it, 0 nothing, None where there was no difference.
    `max_change` and `max_change_in_order` are the largest changes of a logit. `changes_logits` is False where mending it
    alone leaves the logits as they were. Where logits are NaN or Inf, `finite` and `finite_in_order` say whether they are
    that before or after (`made`: finite by mending; `lost`; `neither`: before and after; `unlike_a`: A's own are not), and
    the changes are of those that are finite both times; `kept` is said where all of them are.
    """

    alone: tuple[float | None, ...]
    in_order: tuple[float | None, ...]
    changes_logits: bool
    max_change: float
    max_change_in_order: float
    finite: str = "kept"
    finite_in_order: str = "kept"


@dataclass(frozen=True, slots=True)
class Divergence:
    """A region at fault. `floor` and `threshold` are what the verdict rests on, Euclidean like `error`.

    Args:
        by_position: the local difference, |B - A| / |A| on A's values in double precision, as in `Row.by_position`.
        cause: the number of its root cause, from 1.
        residual: how far what explains it is from B's output here, relative to the difference: A's own is 1. None where
            nothing explains it.
    """

    tap: str
    stage: str
    block: int | None
    kind: str
    propagated: Deviation
    local: Deviation
    error: float
    floor: float
    threshold: float
    effect: Effect | None
    a_node: Source | None
    b_node: Source | None
    difference: str
    relations: tuple[str, ...]
    by_position: tuple[float | None, ...]
    cause: int | None
    residual: float | None


@dataclass(frozen=True, slots=True)
class RootCause:
    """One cause, in however many places.

    `kind` says how it is known: `convention`, where the catalogue has a name for it; `edit`, where a small change of A's
    region was proved to give what B's gives; `rewrite`, where such a change was found, but takes so many steps that it
    explains nothing; `unexplained`, where none was.
    `edit` is the change in words, each line needed, as it reads at the first of the taps; `steps` how many steps it changes.
    `harmless_at` are regions that are computed the same two ways, where this checkpoint's weights make no difference.
    `residual` is how far, at most, the explanation is from B's float64 output, relative to the difference that it explains.
    `source` and `a_source` are B's and A's line. `what` says what differs, `text` also where, and whom the reference agrees with.
    """

    kind: str
    convention: str | None
    a_value: str | None
    b_value: str | None
    edit: tuple[str, ...]
    steps: int | None
    taps: tuple[str, ...]
    harmless_at: tuple[str, ...]
    residual: float | None
    also_fits: tuple[str, ...]
    reference_agrees_with: str | None
    effect: Effect | None
    source: str | None
    a_source: str | None
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Latent:
    """A difference that changes no number of this input, and so is no fault: a window longer than the prompt, a bias of zeros.

    `taps` are those whose regions have it, `source` and `a_source` B's and A's line.
    shown_by: an input of these regions on which the two were run and differ; None where none of those tried shows it.
    """

    taps: tuple[str, ...]
    text: str
    source: str | None
    a_source: str | None
    shown_by: str | None


@dataclass(frozen=True, slots=True)
class FirstStep:
    """Where sides that are fed in steps part first: the position, counted from 0, and the step of each side, from 1."""

    tap: str
    position: int
    a_step: int
    b_step: int
    text: str


@dataclass(frozen=True, slots=True)
class BlindSpot:
    """Stages that cannot reach the logits for this input, and the tokens for which they were measured to, or the schedule."""

    stages: tuple[str, ...]
    text: str
    proposal: tuple[int, ...] | None
    schedule: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """Whether the causes are all there is.

    `complete`: every region at fault is explained, by a name or a proved edit, and B mended by all of them meets A.
    `all_found`: B mended in every region at fault meets A, explained or not. `residual` is what is then left: the logits'
    relative distance.
    """

    complete: bool | None
    all_found: bool | None
    residual: float | None
    text: str


@dataclass(frozen=True, slots=True)
class NonFinite:
    """Where a side first makes NaN or Inf of finite numbers: the tap, and in its region the node.

    Args:
        kind: `NaN` or `Inf`.
        position: of the largest, or the first: the tap's axes in their canonical order, each with its index.
        n: how many entries of the tap are not finite.
        largest_input: the magnitude of the largest finite number that the region reads.
        exact: what the number would be in double precision; None where it is none there either.
        element_type: what it is too large for, or is NaN in.
    """

    side: str
    tap: str
    node: Source | None
    kind: str
    position: tuple[tuple[str, int], ...]
    n: int
    largest_input: float
    exact: float | None
    element_type: str
    text: str


@dataclass(frozen=True, slots=True)
class NextCapture:
    """The one further thing that would settle what is left open.

    kind: `taps` to expose or record on `side`; `tokens` to run; a `schedule` of B; or a `reference`.
    """

    kind: str
    side: str | None
    taps: tuple[str, ...]
    tokens: tuple[int, ...] | None
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """All that a comparison found.

    Args:
        first_position: that of the first token, where the graphs are fed positions; elsewhere positions count the tokens from 0.
        pieces: the text of tokens, where a tokenizer is known.
        next_capture: None where nothing is open.
        latent: what differs without effect on this input, which is no fault.
    """

    a: SideInfo
    b: SideInfo
    reference: SideInfo | None
    tokens: tuple[int, ...]
    parity: bool
    first_divergence: str | None
    positions: tuple[Position, ...]
    rows: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    matched_by: str
    divergences: tuple[Divergence, ...]
    root_causes: tuple[RootCause, ...]
    cancelling: tuple[str, ...]
    blind_spots: tuple[BlindSpot, ...]
    closed: Closed
    verdict: str | None
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    nonfinite: tuple[NonFinite, ...] = ()
    schedules: tuple[str, str] = ("whole", "whole")
    first_step: FirstStep | None = None
    next_capture: NextCapture | None = None
    pieces: Mapping[int, str] = field(default_factory=dict)
    first_position: int = 0
    latent: tuple[Latent, ...] = ()

    def to_json(self) -> str:
        """The result as JSON; numbers that JSON cannot hold (NaN, Inf) become text."""
        return json.dumps(to_plain(self), indent=1)

    def _repr_html_(self) -> str:
        """The report, in a notebook."""
        from .report.html import fragment

        return fragment(self)


def as_plain(value: object) -> object:
    """A record as plain dicts, lists, numbers and text; numbers that JSON cannot hold become text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    if isinstance(value, np.generic):
        return as_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def to_plain(result: Result) -> dict:
    """The result as plain dicts, lists, numbers and text."""
    plain = as_plain(result)
    assert isinstance(plain, dict)
    return {"schema": SCHEMA, **plain}
