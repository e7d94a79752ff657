"""A trace: the values of a real runtime's taps for one input, as a file.

What `save_trace` writes is a safetensors file of the taps and the `tokens`, whose metadata holds the axes and the facts.
A file by another program needs none of that: tensors named as stages, or a name map beside it, are enough.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from .errors import InputError
from .name_map import TOKENS, NameMap, read_name_map
from .schedule.dumped import read_in_steps
from .schedule.placing import by_position
from .schedule.steps import WHOLE, Schedule, parse_schedule
from .stages import SCORES, default_axes, graph_order, is_stage, split_tap_name, tap_name
from .taps import Source, Tap
from .tensor_files import TensorFile
from .weights import TensorSource, write_safetensors

FORMAT = "opdiff.trace/1"
FIRST_POSITION = "first_position"  # the fact: the position of the first token
_KEY = "opdiff."
Sizes = tuple[int, int] | None  # tokens, and keys; None: not known
_OWN_FACTS = {"format", "runtime", "taps"}


@dataclass(frozen=True, slots=True)
class Trace:
    """What a runtime let out for one input.

    runtime: its name and version; the file's stem where nothing is recorded.
    tokens: None where the file does not say.
    taps, values: by tap name, in graph order. A value has its tap's axes, and is float32 or float64.
    units: by tap name, the largest relative rounding of the type in which the file holds a value, float32's at the least; 0 for whole
        numbers.
    facts: what the tracer wrote: `config` (DecoderConfig as JSON), `checkpoint` (SHA-256), `options` (JSON), and others.
    unknown: tensors that neither the stage vocabulary nor the name map knows.
    schedule: in which steps the runtime was fed; the values are by position (`graphs/schedule/placing.py`).
    first_position: that of the first token; None where the file does not say.
    own_name: what it is called, where that is not the file's stem.
    """

    path: Path
    runtime: str
    tokens: tuple[int, ...] | None
    taps: Mapping[str, Tap] = field(repr=False)
    values: Mapping[str, np.ndarray] = field(repr=False)
    units: Mapping[str, float] = field(repr=False)
    facts: Mapping[str, str] = field(repr=False)
    unknown: tuple[str, ...]
    sha256: str
    schedule: Schedule = WHOLE
    first_position: int | None = None
    own_name: str = ""

    @property
    def name(self) -> str:
        return self.own_name or self.path.stem

    @property
    def tap_names(self) -> tuple[str, ...]:
        return tuple(self.taps)

    @property
    def n_tokens(self) -> int | None:
        """How many tokens its values are of; None where no tap says."""
        return _n_tokens(self.taps, self.values)


class _Values(Mapping[str, np.ndarray]):
    """Arrays as they stand in the file, widened to float32 when one is asked for that is narrower, or of integers."""

    def __init__(self, stored: Mapping[str, np.ndarray]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._stored[name]
        return value.astype(np.result_type(value.dtype, np.float32), copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def save_trace(
    path: Path,
    runtime: str,
    tokens: Sequence[int] | None,
    taps_and_values: Iterable[tuple[Tap, np.ndarray]],
    facts: Mapping[str, str],
) -> None:
    """Write a trace as a safetensors file, whole or not at all.

    Args:
        taps_and_values: each value in its tap's axes, of any dtype that safetensors has.
        facts: texts; `format`, `runtime` and `taps` are the file's own.
    Raises:
        InputError: a value that `load_trace` would refuse; the file cannot be written.
    """
    assert not _OWN_FACTS & set(facts)
    pairs = sorted(taps_and_values, key=lambda pair: graph_order(pair[0].name))
    for tap, value in pairs:
        _check(f"{path}: tap {tap.name}", tap, value, None if tokens is None else (len(tokens), len(tokens)))
    arrays = {tap.name: value for tap, value in pairs}
    if tokens is not None:
        arrays[TOKENS] = np.asarray(tokens, np.int64)
    taps = {tap.name: {"axes": " ".join(tap.axes), **asdict(tap.node)} for tap, _ in pairs}
    metadata = {"format": FORMAT, "runtime": runtime, "taps": json.dumps(taps), **facts}
    sources = [
        TensorSource(name, value.dtype, value.shape, partial(np.asarray, value)) for name, value in arrays.items()
    ]
    write_safetensors(path, sources, {_KEY + key: text for key, text in metadata.items()})


def load_trace(path: str | Path, names: str | Path | None = None) -> Trace:
    """Read a trace: .safetensors, .npz or .gguf, by opdiff or by anyone; or a folder of them, one a step.

    Args:
        names: a name map (`graphs/name_map.py`), for tensors that are not named as stages.
    Raises:
        InputError: a file or a name map that cannot be read, no stage in it, a tensor that is no number, has NaN or Inf
            (but for -Inf in masked scores), or whose shape is not that of its stage; steps that do not fit each other.
    """
    path, name_map = Path(path), read_name_map(Path(names)) if names is not None else NameMap()
    whole, steps = read_in_steps(path)
    facts = _facts(path, whole.texts)
    recorded = _recorded_taps(path, facts.pop("taps", "{}"))
    if steps:
        part, schedule = _put_together(path, whole, steps, name_map, recorded)
    else:
        part, schedule = _part(str(path), whole, name_map, recorded), _schedule(path, facts)
    runtime, first = facts.pop("runtime", path.stem), _first_position(path, facts)
    values = _Values(part.stored)
    return Trace(
        path, runtime, part.tokens, part.taps, values, part.units, facts, part.unknown, _sha256(path), schedule, first
    )


def checked_trace(
    path: Path,
    own_name: str,
    runtime: str,
    tokens: Sequence[int],
    taps_and_values: Sequence[tuple[Tap, np.ndarray]],
    facts: Mapping[str, str],
    first_position: int,
) -> Trace:
    """A trace of what was just run, with values in their taps' axes.

    Raises:
        InputError: a value that `load_trace` would refuse.
    """
    for tap, value in taps_and_values:
        _check(f"{own_name}: tap {tap.name}", tap, value, None)
    values = {tap.name: value for tap, value in taps_and_values}
    units = {name: _unit(value.dtype) for name, value in values.items()}
    taps = {tap.name: tap for tap, _ in taps_and_values}
    ids = tuple(map(int, tokens))
    return Trace(
        path, runtime, ids, taps, _Values(values), units, facts, (), _sha256(path), WHOLE, first_position, own_name
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The tensors of a file, or of one step: those that are taps, as they are stored."""

    tokens: tuple[int, ...] | None
    taps: Mapping[str, Tap]
    stored: Mapping[str, np.ndarray]
    units: Mapping[str, float]
    unknown: tuple[str, ...]


def _part(path: str, file: TensorFile, name_map: NameMap, recorded: Mapping[str, Tap], n_before: int = 0) -> _Part:
    """What a file, or a step, holds, checked; `n_before`: how many tokens the steps before it had."""
    tensor_of, unknown = _assigned(path, file, name_map, recorded)
    tokens = _tokens(path, file.tensors[tensor_of.pop(TOKENS)]) if TOKENS in tensor_of else None
    if not tensor_of:
        found = ", ".join(unknown[:4]) or "no tensors"
        raise InputError(
            f"{path}: no stage in it (it has {found}); name them blk.0.q_proj, logits and so on, or give a name map"
        )
    stored = {tap: file.tensors[tensor_of[tap]] for tap in sorted(tensor_of, key=graph_order)}
    taps = {name: recorded.get(name, Tap(name, (), Source(tensor_of[name], "", None, None))) for name in stored}
    taps = {name: replace(tap, axes=name_map.axes.get(tap.stage, tap.axes)) for name, tap in taps.items()}
    n_tokens = len(tokens) if tokens else _n_tokens(taps, stored)
    sizes = None if n_tokens is None else (n_tokens, n_before + n_tokens)
    for name, value in stored.items():
        where = f"{path}: tensor {tensor_of[name]}"
        taps[name] = tap = _with_axes(where, taps[name], value.shape, sizes)
        _check(where, tap, value, sizes)
    return _Part(tokens, taps, stored, {name: _unit(value.dtype) for name, value in stored.items()}, unknown)


def _put_together(
    path: Path, whole: TensorFile, steps: Sequence[TensorFile], name_map: NameMap, recorded: Mapping[str, Tap]
) -> tuple[_Part, Schedule]:
    """The values of all steps by position, and the schedule that they are of."""
    parts, sizes = list[_Part](), list[int]()
    for n, file in enumerate(steps):
        part = _part(f"{path}: step {n}", file, name_map, recorded, sum(sizes))
        size = len(part.tokens) if part.tokens else _n_tokens(part.taps, part.stored)
        if size is None:
            raise InputError(f"{path}: step {n}: of how many tokens it is cannot be told; write its tokens")
        if parts and part.stored.keys() != parts[0].stored.keys():
            name = min(part.stored.keys() ^ parts[0].stored.keys(), key=graph_order)
            raise InputError(f"{path}: {name} is not in every step; write the same stages in each")
        parts.append(part)
        sizes.append(size)
    schedule, first = parse_schedule("+".join(map(str, sizes))), parts[0]
    own = [{name: (part.taps[name].axes, value) for name, value in part.stored.items()} for part in parts]
    made = by_position(own, schedule.steps(sum(sizes)))
    stored = {name: value for name, (_, value) in made.items()}
    taps = {name: replace(tap, axes=made[name][0]) for name, tap in first.taps.items()}
    ids = [token for part in parts for token in part.tokens or ()]
    given = _tokens(str(path), whole.tensors[TOKENS]) if TOKENS in whole.tensors else None
    if given is not None and len(given) != sum(sizes):
        raise InputError(f"{path}: {len(given)} tokens, where its steps are of {sum(sizes)}")
    tokens = given or (tuple(ids) if len(ids) == sum(sizes) else None)
    unknown = tuple(name for name in (*whole.tensors, *first.unknown) if name != TOKENS)
    units = {name: max(part.units[name] for part in parts) for name in taps}
    return _Part(tokens, taps, stored, units, unknown), schedule


def _schedule(path: Path, facts: dict[str, str]) -> Schedule:
    """The schedule that a tracer wrote down."""
    try:
        return parse_schedule(facts.pop("schedule", WHOLE.text))
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def _first_position(path: Path, facts: dict[str, str]) -> int | None:
    """The position of the first token that a tracer wrote down."""
    text = facts.pop(FIRST_POSITION, None)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise InputError(f"{path}: its first position is {text!r:.40}, which is none; trace it again")
    return int(text)


def _unit(dtype: np.dtype) -> float:
    """Half of what lies between 1 and the next number; nothing for whole numbers."""
    if dtype.kind in "iu":
        return 0.0
    narrow = dtype.itemsize < 4
    return float(ml_dtypes.finfo(dtype).eps if narrow else np.finfo(np.float32).eps) / 2


def _facts(path: Path, texts: Mapping[str, str]) -> dict[str, str]:
    facts = {key.removeprefix(_KEY): text for key, text in texts.items() if key.startswith(_KEY)}
    found = facts.pop("format", FORMAT)
    if found != FORMAT:
        raise InputError(f"{path}: its format is {found!r:.40}, and this opdiff reads {FORMAT}; trace it again")
    return facts


def _recorded_taps(path: Path, text: str) -> dict[str, Tap]:
    """The taps that `save_trace` wrote down: their axes, and the nodes that they come from."""
    try:
        entries = dict(json.loads(text))
        return {name: Tap(name, tuple(entry.pop("axes").split()), Source(**entry)) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as e:
        raise InputError(f"{path}: its table of taps cannot be read ({e!s:.80}); trace it again") from e


def _assigned(
    path: str, file: TensorFile, name_map: NameMap, recorded: Mapping[str, Tap]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The tensor of each tap (and of `tokens`), and the tensors that are none."""
    tensor_of: dict[str, str] = {}
    unknown = []
    for tensor in file.tensors:
        tap = name_map.tap_of(tensor) or _own_name(tensor, recorded)
        if tap is None:
            unknown.append(tensor)
        elif tensor_of.setdefault(tap, tensor) != tensor:
            raise InputError(f"{path}: tensors {tensor_of[tap]} and {tensor} are both {tap}; name each stage once")
    return tensor_of, tuple(unknown)


def _own_name(tensor: str, recorded: Mapping[str, Tap]) -> str | None:
    if tensor == TOKENS or tensor in recorded:
        return tensor
    block, stage = split_tap_name(tensor)
    return tap_name(stage, block) if is_stage(tensor) else None


def _tokens(path: str, value: np.ndarray) -> tuple[int, ...]:
    flat = value[0] if value.ndim == 2 and value.shape[0] == 1 else value
    if flat.ndim != 1 or not flat.size or flat.dtype.kind not in "iu" or flat.min() < 0:
        raise InputError(
            f"{path}: tensor {TOKENS} is {value.dtype} of shape {list(value.shape)}; write the token ids as int32 [T]"
        )
    return tuple(int(token) for token in flat)


def _layouts(tap: Tap, n_dimensions: int) -> tuple[tuple[str, ...], ...]:
    """The axes that are known, or else those that the stage may have."""
    return (tap.axes,) if tap.axes else default_axes(tap.stage, n_dimensions)


def _n_tokens(taps: Mapping[str, Tap], values: Mapping[str, np.ndarray]) -> int | None:
    """How many tokens there are, by the first value that can be read in one way only."""
    for name, value in values.items():
        layouts = _layouts(taps[name], value.ndim)
        if len(layouts) == 1 and "token" in layouts[0] and len(layouts[0]) == value.ndim:
            return int(value.shape[layouts[0].index("token")])
    return None


def _with_axes(where: str, tap: Tap, shape: tuple[int, ...], sizes: Sizes) -> Tap:
    """The tap with the axes that fit the shape, or with the likeliest where none does, which `_check` refuses."""
    layouts = _layouts(tap, len(shape))
    if not layouts:
        usual = " or ".join(
            " ".join(words) for n in (2, 3) for words in default_axes(tap.stage, n) if "batch" not in words
        )
        raise InputError(
            f"{where} of shape {list(shape)}: {tap.stage} is {usual}; write it so, or say its axes in a name map"
        )
    return replace(tap, axes=next((words for words in layouts if not _misfit(words, shape, sizes)), layouts[0]))


def _misfit(axes: tuple[str, ...], shape: tuple[int, ...], sizes: Sizes) -> str | None:
    """Why a shape cannot have these axes; None: it can.

    sizes: how many tokens there are, and keys; keys may be more, where a cache has places that are not written.
    """
    n_tokens, n_keys = sizes or (None, None)
    if len(axes) != len(shape) or len(set(axes)) < len(axes):
        return f"it has {len(shape)} dimensions"
    wanted = {"batch": 1, "token": n_tokens, "key": n_keys}
    for word, length in zip(axes, shape, strict=True):
        if length != (wanted.get(word) or length):
            return f"{word} is {length}, where {wanted[word]} is wanted"
        if length == 0:
            return f"{word} is 0"
    return None


def _check(where: str, tap: Tap, value: np.ndarray, sizes: Sizes) -> None:
    if not (value.dtype.kind in "fiu" or value.dtype.name == "bfloat16"):
        raise InputError(f"{where}: its type {value.dtype} is no number that can be compared; write it as float32")
    misfit = _misfit(tap.axes, value.shape, sizes)
    if misfit:
        raise InputError(
            f"{where} of shape {list(value.shape)} does not fit the axes {' '.join(tap.axes)!r} ({misfit}); write it so, "
            f"or say under [axes] of a name map what {tap.stage} is"
        )
    bad = ~np.isfinite(value)
    if tap.stage == SCORES:
        bad &= value != -np.inf  # a mask
    if bad.any():
        place = [int(i) for i in np.argwhere(bad)[0]]
        raise InputError(f"{where}: {value[tuple(place)]} at {place}; a trace must be finite: see what wrote it there")


def _sha256(path: Path) -> str:
    """The hash of a file, or of a folder's files, in the order of their names."""
    digest = hashlib.sha256()
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        if one.is_file():
            with one.open("rb") as file:
                part = hashlib.file_digest(file, "sha256")
            digest = part if one is path else hashlib.sha256(digest.digest() + part.digest())
    return digest.hexdigest()
