"""What is masked is told by a law that is exactly the mask: each sentence is read back and must give the same entries."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from opdiff.compare.explain.masks import mask_difference, mask_law
from opdiff.compare.measure import unmasked

T = 8
TOKEN, KEY = np.arange(T)[:, None], np.arange(T)
CAUSAL = np.asarray(KEY > TOKEN)
SCORES = np.random.default_rng(0).standard_normal((2, T, T))

LAWS = {
    "nothing": CAUSAL & False,
    "every key": CAUSAL | True,
    "keys after the token": CAUSAL,
    "keys more than 1 after the token": KEY > TOKEN + 1,
    "the token itself and keys after it": KEY >= TOKEN,
    "the token itself": KEY == TOKEN,
    "keys before the token": KEY < TOKEN,
    "keys more than 3 before the token (a window of 4)": KEY <= TOKEN - 4,
    "keys after the token and keys more than 3 before the token (a window of 4)": CAUSAL | (KEY <= TOKEN - 4),
    "keys after the token and the first 2 keys": CAUSAL | (KEY < 2),
    "keys after the token and keys from 5 on (the last 3)": CAUSAL | (KEY >= 5),
    "keys from 6 on (the last 2)": (KEY >= 6) | (TOKEN < 0),
    "key 7 (the last)": (KEY >= 7) | (TOKEN < 0),
    "keys after the token and key 3 of 8": CAUSAL | (KEY == 3),
    "keys after the token and every key of token 6": CAUSAL | (TOKEN == 6),
    "keys after the token and keys before the token's own chunk of 4": CAUSAL | (KEY // 4 < TOKEN // 4),
    "keys outside of the token's own chunk of 3": KEY // 3 != TOKEN // 3,
    "keys after the token but for the first 3 keys (a prefix)": CAUSAL & (KEY >= 3),
    "keys after the token and keys more than 2 before the token (a window of 3) but for the first 2 keys": CAUSAL
    | ((KEY <= TOKEN - 3) & (KEY >= 2)),
    "keys after the token and the first 2 keys, for token 2 .. 7 of 8 only": (CAUSAL | (KEY < 2)) & (TOKEN >= 2),
}


@pytest.mark.parametrize("law", LAWS)
def test_law_is_found(law):
    assert mask_law(LAWS[law]) == law
    assert mask_law(np.stack([LAWS[law]] * 3)) == law, "the same for all heads is told once"


def indices(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(", "):
        run = re.fullmatch(r"(\d+)(?: \.\. (\d+))?", part)
        assert run, part
        found += range(int(run[1]), int(run[2] or run[1]) + 1)
    return found


def spanned(text: str, n: int) -> np.ndarray:
    every = re.fullmatch(r"every (\d+)\w\w from (\d+)", text)
    periodic = re.fullmatch(r"(.*) of each (\d+)", text)
    if every:
        return np.arange(n) % int(every[1]) == int(every[2])
    if periodic:
        return np.isin(np.arange(n) % int(periodic[2]), indices(periodic[1]))
    return np.isin(np.arange(n), indices(text))


SPAN = r"(every \d+\w\w from \d+|[\d .,]*\d(?: of each \d+)?)"
PIECES = [
    (r"keys after the token(?! but|'s)", lambda i, j, m: j > i),
    (r"keys more than (\d+) after the token", lambda i, j, m: j > i + int(m[1])),
    (r"the token itself and keys after it", lambda i, j, m: j >= i),
    (r"the token itself", lambda i, j, m: j == i),
    (
        r"keys before the token(?!'s)(?: but for the first (?:(\d+) keys|(key)))?",
        lambda i, j, m: (j < i) & (j >= sinks(m, 1)),
    ),
    (
        r"keys more than \d+ before the token \(a window of (\d+)\)(?: but for the first (?:(\d+) keys|(key)))?",
        lambda i, j, m: (j <= i - int(m[1])) & (j >= sinks(m, 2)),
    ),
    (r"the first (\d+) keys", lambda i, j, m: (j < int(m[1])) | (i < -99)),
    (r"the first key", lambda i, j, m: (j < 1) | (i < -99)),
    (r"keys from (\d+) on \(the last \d+\)", lambda i, j, m: (j >= int(m[1])) | (i < -99)),
    (r"key (\d+) \(the last\)", lambda i, j, m: (j >= int(m[1])) | (i < -99)),
    (rf"key {SPAN} of (\d+)", lambda i, j, m: spanned(m[1], len(j)) | (i < -99)),
    (r"keys outside of the token's own chunk of (\d+)", lambda i, j, m: j // int(m[1]) != i // int(m[1])),
    (r"keys before the token's own chunk of (\d+)", lambda i, j, m: j // int(m[1]) < i // int(m[1])),
    (r"keys after the token's own chunk of (\d+)", lambda i, j, m: j // int(m[1]) > i // int(m[1])),
    (r"keys after the token but for the first (\d+) keys \(a prefix\)", lambda i, j, m: (j > i) & (j >= int(m[1]))),
    (r"keys after the token's own number \(.*\)", lambda i, j, m: j > np.arange(len(i))[:, None]),
    (rf"every key of token {SPAN}", lambda i, j, m: spanned(m[1], len(i))[:, None] | (j < 0)),
]


def sinks(match: re.Match, first: int) -> int:
    return int(match[first]) if match[first] else 1 if match[first + 1] else 0


def entries(law: str, n_tokens: int, n_keys: int) -> np.ndarray:
    """The mask that a sentence describes."""
    rows = np.ones(n_tokens, bool)
    only = re.fullmatch(r"(.*), for token (.*) of \d+ only", law)
    if only:
        law, rows = only[1], spanned(only[2], n_tokens)
    if law == "nothing":
        return np.zeros((n_tokens, n_keys), bool)
    if law == "every key":
        return np.broadcast_to(rows[:, None], (n_tokens, n_keys))
    first = 0 if 1 < n_keys < n_tokens else n_keys - n_tokens  # fewer keys are those of another text
    i, j = np.arange(n_tokens)[:, None] + first, np.arange(n_keys)
    masked = np.zeros((n_tokens, n_keys), bool)
    while law:
        read = [(match, make) for pattern, make in PIECES if (match := re.match(pattern, law))]
        assert read, law
        match, make = max(read, key=lambda found: found[0].end())
        masked |= make(i, j, match)
        law = re.sub(r"^(, | and )", "", law[match.end() :])
    return masked & rows[:, None]


def read_back(masked: np.ndarray) -> None:
    law = mask_law(masked)
    if not re.match(r"\d+ of \d+ entries", law) and "..." not in law:
        assert np.array_equal(entries(law, *masked.shape), masked), law


@given(npst.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 6))))
@settings(max_examples=400, deadline=None)
def test_law_of_any_small_mask_is_exactly_that_mask(masked):
    read_back(masked)


PARTS = (
    lambda i, j, n: j > i,
    lambda i, j, n: j >= i,
    lambda i, j, n: j > i + n,
    lambda i, j, n: j <= i - n,
    lambda i, j, n: (j < n) | (i < -99),
    lambda i, j, n: (j >= n) | (i < -99),
    lambda i, j, n: (j == n) | (i < -99),
    lambda i, j, n: (i == n) | (j < 0),
    lambda i, j, n: j // (n + 1) < i // (n + 1),
    lambda i, j, n: (j > i) & (j >= n),
    lambda i, j, n: (j <= i - 3) & (j >= n),
    lambda i, j, n: j == i,
)


@given(
    st.lists(st.tuples(st.sampled_from(range(len(PARTS))), st.integers(1, 9)), min_size=1, max_size=3),
    st.integers(0, 4),
)
@settings(max_examples=400, deadline=None)
def test_union_of_laws_is_told_and_is_exactly_the_mask(parts, n_cached):
    i, j = np.arange(9)[:, None] + n_cached, np.arange(9 + n_cached)
    masked = np.zeros((9, 9 + n_cached), bool)
    for which, n in parts:
        masked |= PARTS[which](i, j, n)
    read_back(masked)


def both(masked: np.ndarray, value: float = -np.inf, other: np.ndarray = CAUSAL) -> str | None:
    a_masked, b_masked = np.stack([other] * 2), np.stack([masked] * 2)
    return mask_difference(np.where(a_masked, -np.inf, SCORES), np.where(b_masked, value, SCORES), a_masked, b_masked)


def test_equal_masks_are_no_difference_whatever_they_hold():
    assert both(CAUSAL, -1e4) is None


def test_window_is_told_beside_the_causal_mask():
    assert both(CAUSAL | (KEY <= TOKEN - 4)) == (
        "B masks keys after the token and keys more than 3 before the token (a window of 4), where A masks keys after the token"
    )


def test_missing_causal_mask_is_told_with_what_is_there_instead():
    said = both(CAUSAL & False)
    assert said is not None
    assert said.startswith(
        "B masks no key after the token (no causal mask), where A does; where A masks, B holds numbers from -"
    )


def test_softcap_after_the_mask_shows_in_the_value_that_masked_entries_hold():
    a = np.where(CAUSAL, -np.inf, SCORES)
    b = 4 * np.tanh(a / 4)
    said = mask_difference(a, b, ~unmasked(a), ~unmasked(b))
    assert said == "B masks nothing; where A masks (keys after the token), B holds -4"


def test_other_mask_value_is_told_where_the_masks_differ():
    said = both(CAUSAL | (KEY < 2), -1e4)
    assert said is not None
    assert said.endswith("; B's masked entries hold -10000, A's -inf")


def test_masks_without_a_law_are_told_by_what_differs():
    odd = CAUSAL.copy()
    odd[5, 2] = True
    said = both(odd)
    assert said is not None
    assert said.startswith("B masks key 2 of 8, for token 5 of 8 only, where A does not (A masks keys after the token)")
    odd[[4, 7, 6], [0, 3, 1]] = True
    said = both(odd)
    assert said is not None
    assert said.startswith(
        "B masks 8 of 128 entries (at [0, 4, 0], [0, 5, 2], [0, 6, 1], [0, 7, 3], ...), where A does not"
    )


def test_heads_of_other_masks_are_told_apart():
    masked = np.stack([CAUSAL, CAUSAL, CAUSAL | (KEY <= TOKEN - 2), CAUSAL])
    assert mask_law(masked) == (
        "in head 0, 1, 3 keys after the token; "
        "in head 2 keys after the token and keys more than 1 before the token (a window of 2)"
    )


def test_batch_of_one_and_more_keys_than_tokens_are_no_obstacle():
    assert mask_law(np.stack([CAUSAL] * 2)[None]) == "keys after the token"
    assert mask_law(np.arange(6) > np.arange(3)[:, None] + 3) == "keys after the token"
    assert "counted from the first key" in mask_law(np.arange(6) > np.arange(3)[:, None])
    assert mask_law(np.array([[True, True, False, False]])) == "the first 2 keys"


def test_other_number_of_keys_is_told():
    wide = np.zeros((2, T, T + 1), bool)
    masked = np.stack([CAUSAL] * 2)
    said = mask_difference(SCORES, np.zeros(wide.shape), masked, wide)
    assert said == "B masks nothing of 9 keys, where A masks keys after the token of 8 keys"
