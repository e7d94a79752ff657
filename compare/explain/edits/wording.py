"""Two formulas told shortly: what they repeat gets a letter, and steps in another order are said to be that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

LETTERS = "yz"
_WORTH_A_LETTER = 16  # characters
_OPENING, _CLOSING = "([", ")]"
_WORD = re.compile(r"[\w.]+")


def with_letters(right: str, left: str) -> tuple[str, str, str]:
    """Two formulas with letters for the parts that stand in them more than once, and what these are: `, y = sin(q)`."""
    told: dict[str, str] = {}
    if re.search(rf"\b[{LETTERS}]\b", right + left):
        return right, left, ""
    for letter in LETTERS:
        counts = Counter(part for text in (right, left) for part in parts(text))
        repeated = [
            part for part, n in counts.items() if n > 1 and len(part) >= _WORTH_A_LETTER and part not in (right, left)
        ]
        if not repeated:
            break
        best = max(repeated, key=lambda part: ((counts[part] - 1) * len(part), len(part)))
        right, left = right.replace(best, letter), left.replace(best, letter)
        told[letter] = _bare(best)
    return _in_order(right, left, told)


def without_common_calls(right: str, left: str) -> tuple[str, str]:
    """Two formulas without the calls around both that are the same: `f(x)` and `g(x)` of `transpose(f(x), 1)` and
    `transpose(g(x), 1)`.
    """
    while True:
        calls = [_call(text) for text in (right, left)]
        if None in calls or calls[0][::2] != calls[1][::2]:  # type: ignore[index]
            return right, left
        right, left = (call[1] for call in calls)  # type: ignore[index]


def _call(text: str) -> tuple[str, str, str] | None:
    """A formula that is one call: its name, its first argument, and the rest; None where it is something else."""
    start = text.find("(") + 1
    if not start or not _WORD.fullmatch(text[: start - 1]) or _closed(text, start - 1) != len(text):
        return None
    end = next(n for n in range(start, len(text)) if text[n] in ",)" and _depth(text[start:n]) == 0)
    return text[: start - 1], text[start:end], text[end:]


def _in_order(right: str, left: str, told: dict[str, str]) -> tuple[str, str, str]:
    """The same with the letters in the order in which they stand."""
    used = dict.fromkeys(re.findall(rf"\b[{LETTERS}]\b", right + left)) if told else {}
    named = dict(zip(used, LETTERS, strict=False))
    texts = [
        re.sub(rf"\b[{LETTERS}]\b", lambda found: named.get(found[0], found[0]), text) if told else text
        for text in (right, left)
    ]
    defined = "".join(f", {named[letter]} = {told[letter]}" for letter in used)
    return texts[0], texts[1], defined


def in_another_order(right: str, left: str) -> tuple[str, str] | None:
    """Where one formula is `g(f(x))` and the other `f(g(x))`: f and g of x, f being what the first does first.

    None where they are not.
    """
    return _swapped(right, left, parts(left))


def are_reordered(right: str, left: str) -> bool:
    """Whether two formulas are the same two steps in another order, calls or not: `mean(x)^2` and `mean(x^2)`."""
    return _swapped(right, left, (*parts(left), *_first_arguments(left))) is not None


def _swapped(right: str, left: str, inside: Iterable[str]) -> tuple[str, str] | None:
    """`in_another_order`, for these parts of `left` as f(x)."""
    for inner in dict.fromkeys(inside):
        outer = left.replace(inner, "\0")
        if outer == "\0" or _WORD.fullmatch(_bare(inner)):
            continue
        for leaf in dict.fromkeys(_WORD.findall(inner)):
            if _of(inner, leaf).count("\0") == 1 and _is_swapped(right, outer, _of(_bare(inner), leaf), leaf):
                return outer.replace("\0", "x"), _of(_bare(inner), leaf).replace("\0", "x")
    return None


def _is_swapped(right: str, outer: str, inner: str, leaf: str) -> bool:
    first = outer.replace("\0", leaf)
    return first != leaf and right in (inner.replace("\0", first), inner.replace("\0", f"({first})"))


def _of(text: str, leaf: str) -> str:
    """A formula with a hole where a name stands."""
    return re.sub(rf"(?<![\w.]){re.escape(leaf)}(?![\w.(])", "\0", text)


def parts(text: str) -> Iterator[str]:
    """The parts of a formula that are one value each: calls and brackets, each as often as it stands there."""
    for start, letter in enumerate(text):
        is_word = bool(_WORD.match(letter)) and (start == 0 or not _WORD.match(text[start - 1]))
        if not is_word and letter != "(":
            continue
        if letter == "(" and start and _WORD.match(text[start - 1]):
            continue
        end = _WORD.match(text, start).end() if is_word else start  # type: ignore[union-attr]
        if text[end : end + 1] != "(":
            continue
        end = _closed(text, end)
        while end:
            yield text[start:end]
            end = _closed(text, end) if text[end : end + 1] == "[" else 0


def _first_arguments(text: str) -> Iterator[str]:
    """What calls are of: `x^2` of `mean(x^2)`."""
    for call in parts(text):
        start = call.find("(") + 1
        end = next(n for n in range(start, len(call)) if call[n] in ",)" and _depth(call[start:n]) == 0)
        yield call[start:end]
        yield from _beginnings(call[start:end])


def _beginnings(text: str) -> Iterator[str]:
    """What a chain of products begins with: `x * a` of `x * a / b`."""
    outside = [found for found in re.finditer(r" ([-+*/@]) ", text) if _depth(text[: found.start()]) == 0]
    if not any(found[1] in "-+" for found in outside):
        yield from (text[: found.start()] for found in outside[1:])


def _depth(text: str) -> int:
    """How many brackets are open behind a text."""
    return sum((letter in _OPENING) - (letter in _CLOSING) for letter in text)


def _closed(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`; 0 where none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        if not depth:
            return place + 1
    return 0


def _bare(part: str) -> str:
    """Without the brackets around it all."""
    return part[1:-1] if part.startswith("(") and _closed(part, 0) == len(part) else part
