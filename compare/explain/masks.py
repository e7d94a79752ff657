"""Where the attention scores of A and B mask other entries: what each side masks, by its law, and with what value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .arrays.digits import number, spans, told_apart

_MOST_PIECES = 3
_PLACES = 4
_MOST_LAWS = 4
_MOST_SINKS = 8
_NOTHING, _ALL = "nothing", "every key"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Entries that belong together, in words, all of which are masked. Masks are told as a union of pieces."""

    words: str
    entries: np.ndarray


def mask_difference(a: np.ndarray, b: np.ndarray, masked_a: np.ndarray, masked_b: np.ndarray) -> str | None:
    """What B masks and what A masks, where they mask different entries; None where they mask the same.

    Args:
        a, b: attention scores, or what is added to them, [..., token, key]; the leading axes end with the head's.
        masked_a, masked_b: bool, of the same shapes: which entries the softmax cannot see (see `measure.unmasked`).
    """
    if masked_a.shape != masked_b.shape:
        return (
            f"B masks {mask_law(masked_b)} of {masked_b.shape[-1]} keys, "
            f"where A masks {mask_law(masked_a)} of {masked_a.shape[-1]} keys"
        )
    if np.array_equal(masked_a, masked_b):
        return None
    a, b = np.asarray(a), np.asarray(b)
    if not masked_b.any():
        value = _one_value(b[masked_a]) if b.shape == masked_a.shape else None
        if value is not None:
            return f"B masks nothing; where A masks ({mask_law(masked_a)}), B holds {_short(value)}"
    return "; ".join([_both_laws(masked_a, masked_b), *_values(a, b, masked_a, masked_b)])


def mask_law(masked: np.ndarray) -> str:
    """Which entries are masked, in words that follow "masks": by a law if there is one, else how many and the first.

    Args:
        masked: bool, [..., token, key]. With more keys than tokens, the tokens are the last of the keys;
            fewer keys are those of another text, and both are counted from the first.
    """
    law = _law(masked)
    return law if law is not None else _counted(masked)


def _both_laws(masked_a: np.ndarray, masked_b: np.ndarray) -> str:
    ours, theirs = _law(masked_a), _law(masked_b)
    if theirs == _NOTHING and ours == _after_words(0):
        return "B masks no key after the token (no causal mask), where A does"
    if ours == _NOTHING and theirs == _after_words(0):
        return "B masks keys after the token (a causal mask), where A masks nothing"
    if ours is not None and theirs is not None and ours != theirs:
        return f"B masks {theirs}, where A masks {ours}"
    more, fewer = masked_b & ~masked_a, masked_a & ~masked_b
    said = [f"B masks {mask_law(more)}, where A does not"] * bool(more.any())
    said += [f"B does not mask {mask_law(fewer)}, where A does"] * bool(fewer.any())
    known = f" (A masks {ours})" if ours is not None else f" (B masks {theirs})" if theirs is not None else ""
    return "; ".join(said) + known


def _values(a: np.ndarray, b: np.ndarray, masked_a: np.ndarray, masked_b: np.ndarray) -> Iterator[str]:
    """What entries hold that only one side masks, and what the masked ones hold."""
    if a.shape != masked_a.shape or b.shape != masked_b.shape:
        return
    alone = "only " if masked_a.any() and masked_b.any() else ""
    in_b, in_a = b[masked_a & ~masked_b], a[masked_b & ~masked_a]
    if in_b.size:
        yield f"where {alone}A masks, B holds {_held(in_b)}"
    if in_a.size and _one_value(in_a) is not None:
        yield f"where {alone}B masks, A holds {_held(in_a)}"
    if masked_a.any() and masked_b.any():
        ours, theirs = _one_value(a[masked_a]), _one_value(b[masked_b])
        if ours is not None and theirs is not None and ours != theirs:
            left, right = told_apart(ours, theirs)
            yield f"B's masked entries hold {right}, A's {left}"


def _one_value(values: np.ndarray) -> float | None:
    """The value that all are, but for rounding."""
    low, high = float(values.min()), float(values.max())
    return low if low == high or high - low <= 1e-6 * max(abs(low), abs(high)) < np.inf else None


def _short(value: float) -> str:
    return number(float(f"{value:.5g}"), 5)


def _held(values: np.ndarray) -> str:
    values = values.astype(np.float64)
    one = _one_value(values)
    if one is not None:
        return _short(one)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "no finite numbers"
    less = "" if len(finite) == len(values) else f" and {len(values) - len(finite)} that are not finite"
    return f"numbers from {number(finite.min())} to {number(finite.max())}{less}"


def _law(masked: np.ndarray) -> str | None:
    """The law of a mask of any rank: one for all heads, or one for each set of heads."""
    if masked.ndim < 2:
        masked = masked.reshape(1, -1)
    planes = masked.reshape(-1, *masked.shape[-2:])
    if not len(planes) or planes[0].size == 0:
        return _NOTHING
    if (planes == planes[0]).all():
        return _law_of_a_plane(planes[0])
    for axis in range(masked.ndim - 2):
        if masked.shape[axis] > 1 and (masked == np.take(masked, [0], axis)).all():
            return _law(np.take(masked, [0], axis))
    leading = [n for n in masked.shape[:-2] if n > 1]
    return _law_by_head(planes, "head" if len(leading) == 1 else "batch and head")


def _law_by_head(planes: np.ndarray, word: str) -> str | None:
    heads: dict[str, list[int]] = {}
    for head, plane in enumerate(planes):
        law = _law_of_a_plane(plane)
        if law is None:
            return None
        heads.setdefault(law, []).append(head)
    if len(heads) > _MOST_LAWS:
        return None
    return "; ".join(f"in {word} {spans(which, len(planes))} {law}" for law, which in heads.items())


def _counted(masked: np.ndarray) -> str:
    places = np.argwhere(masked)
    first = ", ".join(str([int(i) for i in place]) for place in places[:_PLACES])
    more = ", ..." if len(places) > _PLACES else ""
    return f"{len(places)} of {masked.size} entries (at {first}{more})"


def _law_of_a_plane(masked: np.ndarray) -> str | None:
    """The law of [token, key]; if there is none for all tokens, of the tokens for which anything is masked."""
    if not masked.any():
        return _NOTHING
    if masked.all():
        return _ALL
    n_tokens, n_keys = masked.shape
    is_of_others = 1 < n_keys < n_tokens  # keys of another text, counted from the first
    tokens = np.arange(n_tokens) + (0 if is_of_others else n_keys - n_tokens)
    rows = np.arange(n_tokens)
    whole = _union(masked, tokens, rows)
    if whole is not None:
        return whole
    some = np.flatnonzero(masked.any(axis=1))
    if len(some) == n_tokens:
        return None
    law = _union(masked[some], tokens[some], some)
    return None if law is None else f"{law}, for token {spans(some, n_tokens)} of {n_tokens} only"


def _union(masked: np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> str | None:
    """The fewest pieces that are together what is masked; of as many, the simplest."""
    if masked.all():
        return _ALL
    pieces = [piece for piece in _pieces(masked, tokens, rows) if piece.entries.any()]
    packed = [np.packbits(piece.entries) for piece in pieces]
    wanted = np.packbits(masked)
    if not pieces or not np.array_equal(np.bitwise_or.reduce(packed), wanted):
        return None
    for n in range(1, _MOST_PIECES + 1):
        for chosen in combinations(range(len(pieces)), n):
            if np.array_equal(np.bitwise_or.reduce([packed[i] for i in chosen]), wanted):
                return _joined([pieces[i].words for i in chosen])
    return None


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _pieces(masked: np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> Iterator[_Piece]:
    """For each kind of mask the largest of it that is within what is masked, the simplest kinds first."""
    keys = np.arange(masked.shape[1])
    before = tokens[:, None] - keys  # [token, key]: how many places the key is before the token
    if len(tokens) > 1:
        yield from _diagonal(masked, before, tokens)
    yield from _columns(masked)
    yield from _rows(masked, rows)
    if len(tokens) > 1:
        yield from _chunks(masked, tokens, keys)
        yield from _prefix(masked, before, keys)
        yield from _sinks(masked, before, tokens, keys)
        yield from _diagonal_itself(masked, before)
        yield from _from_key_zero(masked, tokens, keys)


def _within(entries: np.ndarray, masked: np.ndarray) -> bool:
    return not np.any(entries & ~masked)


def _n_leading(masked: np.ndarray) -> np.ndarray:
    """For each token, how many keys from the first on are masked without a gap."""
    return np.where(np.all(masked, axis=1), masked.shape[1], np.argmin(masked, axis=1))


def _first_trailing(masked: np.ndarray) -> np.ndarray:
    """For each token, the key from which on all are masked."""
    return masked.shape[1] - _n_leading(masked[:, ::-1])


def _diagonal(masked: np.ndarray, before: np.ndarray, tokens: np.ndarray) -> Iterator[_Piece]:
    """Keys after the token, and keys too far before it."""
    after = int((_first_trailing(masked) - 1 - tokens).max())
    if after >= 0:
        yield _Piece(_after_words(after), before < -after)
    else:
        yield _Piece("the token itself and keys after it", before < 1)
    window = max(1, int((tokens + 1 - _n_leading(masked)).max()))
    yield _Piece(_window_words(window), before >= window)


def _after_words(n: int) -> str:
    return "keys after the token" if n == 0 else f"keys more than {n} after the token"


def _window_words(window: int) -> str:
    if window == 1:
        return "keys before the token"
    return f"keys more than {window - 1} before the token (a window of {window})"


def _columns(masked: np.ndarray) -> Iterator[_Piece]:
    """Keys that no token sees: the first, the last, or any others."""
    hidden = np.all(masked, axis=0)
    n = len(hidden)
    if not hidden.any():
        return
    keys = np.arange(n)
    n_first, n_last = int(np.argmin(hidden)), int(np.argmin(hidden[::-1]))
    if n_first:
        yield _Piece("the first key" if n_first == 1 else f"the first {n_first} keys", _rows_of(keys < n_first, masked))
    if n_last:
        words = f"key {n - 1} (the last)" if n_last == 1 else f"keys from {n - n_last} on (the last {n_last})"
        yield _Piece(words, _rows_of(keys >= n - n_last, masked))
    inner = hidden & (keys >= n_first) & (keys < n - n_last)
    if inner.any():
        yield _Piece(f"key {spans(np.flatnonzero(inner), n)} of {n}", _rows_of(inner, masked))


def _rows_of(row: np.ndarray, masked: np.ndarray) -> np.ndarray:
    return np.broadcast_to(row, masked.shape)


def _rows(masked: np.ndarray, rows: np.ndarray) -> Iterator[_Piece]:
    """Tokens that see nothing."""
    blind = np.all(masked, axis=1)
    if blind.any():
        words = f"every key of token {spans(rows[blind], int(rows[-1]) + 1)}"
        yield _Piece(words, np.broadcast_to(blind[:, None], masked.shape))


def _chunks(masked: np.ndarray, tokens: np.ndarray, keys: np.ndarray) -> Iterator[_Piece]:
    """Keys of other chunks than the token's own (chunked local attention), of those before it, and of those after it."""
    sizes = np.arange(2, len(keys))[:, None]
    starts = tokens // sizes * sizes  # [size, token]: where the token's own chunk begins
    found = {}
    for where, fits in (("before", starts <= _n_leading(masked)), ("after", starts + sizes >= _first_trailing(masked))):
        sizes_that_fit = sizes[np.all(fits, axis=1), 0]
        if len(sizes_that_fit):
            own, of_key = tokens[:, None] // sizes_that_fit[0], keys // sizes_that_fit[0]
            entries = of_key < own if where == "before" else of_key > own
            found[where] = _Piece(f"keys {where} the token's own chunk of {sizes_that_fit[0]}", entries)
    yield from found.values()
    if len(found) == 2 and np.array_equal(found["before"].entries | found["after"].entries, masked):
        words = found["before"].words.replace("before", "outside of")
        yield _Piece(words, masked)


def _prefix(masked: np.ndarray, before: np.ndarray, keys: np.ndarray) -> Iterator[_Piece]:
    """Keys after the token but for a prefix that all see."""
    seen_after = np.flatnonzero(np.any((before < 0) & ~masked, axis=0))
    size = int(seen_after[-1]) + 1 if len(seen_after) else 0
    if size > 1:
        words = f"keys after the token but for the first {size} keys (a prefix)"
        yield _Piece(words, (before < 0) & (keys >= size))


def _sinks(masked: np.ndarray, before: np.ndarray, tokens: np.ndarray, keys: np.ndarray) -> Iterator[_Piece]:
    """A window beside which the first keys are seen by all (attention sinks)."""
    best = None
    for n_sinks in range(1, min(_MOST_SINKS, len(keys) - 1) + 1):
        inner = keys >= n_sinks
        window = max(1, int((tokens + 1 - _n_leading(masked | ~inner)).max()))
        entries = (before >= window) & inner
        if best is None or np.count_nonzero(entries) > np.count_nonzero(best.entries):
            first = "key" if n_sinks == 1 else f"{n_sinks} keys"
            best = _Piece(f"{_window_words(window)} but for the first {first}", entries)
    if best is not None:
        yield best


def _diagonal_itself(masked: np.ndarray, before: np.ndarray) -> Iterator[_Piece]:
    itself = before == 0
    if itself.any() and _within(itself, masked):
        yield _Piece("the token itself", itself)


def _from_key_zero(masked: np.ndarray, tokens: np.ndarray, keys: np.ndarray) -> Iterator[_Piece]:
    """A causal mask that counts tokens from key 0, though there are more keys than tokens."""
    offset = len(keys) - len(tokens)
    if offset > 0 and tokens[0] == offset:
        entries = keys > (tokens - offset)[:, None]
        if _within(entries, masked):
            yield _Piece(
                "keys after the token's own number (token i sees keys 0 .. i: counted from the first key)", entries
            )
