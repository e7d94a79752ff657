"""Relations: each one is found where it holds, and none is invented where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdiff.compare.explain.relations import relations

AXES = ("token", "head", "channel")
A = np.random.default_rng(0).standard_normal((6, 4, 4))


def meets(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.linalg.norm(one - other) <= 1e-12 * max(1.0, float(np.linalg.norm(other))))


def said(b: np.ndarray, a: np.ndarray = A, axes=AXES) -> str:
    return " | ".join(relations(a, b, axes, meets))


def changed(index, value) -> np.ndarray:
    b = A.copy()
    b[index] = value
    return b


ORDER = [2, 0, 3, 1]
NOISE = np.random.default_rng(1).standard_normal(A.shape)
CASES = {
    "factor": (A * 0.125, "A's times a constant factor, 0.125"),
    "sign": (-A, "the sign is turned"),
    "offset": (A + 0.75, "A's plus a constant, 0.75"),
    "zero": (A * 0, "zero everywhere"),
    "permuted heads": (A[:, ORDER], "a permutation of A's along head: 2, 0, 3, 1"),
    "permuted channels": (A[..., ORDER], "a permutation of A's along channel: 2, 0, 3, 1"),
    "permuted tokens": (A[::-1], "a permutation of A's along token: 5, 4, 3, 2, 1, 0"),
    "transposed": (A.swapaxes(1, 2), "A's, transposed over head and channel"),
    "reshape without transpose": (A.swapaxes(0, 1).reshape(A.shape), "a reshape without its transpose"),
    "one position later": (
        np.concatenate([NOISE[:1], A[:-1]]),
        "a shift by one position of A's: index i holds A's i-1",
    ),
    "one position earlier": (
        np.concatenate([A[1:], NOISE[:1]]),
        "a shift by one position of A's: index i holds A's i+1",
    ),
    "rolled": (np.roll(A, 1, axis=2), "a permutation of A's along channel: 3, 0, 1, 2"),
    "clipped": (np.clip(A, -0.5, 0.5), "clipped to ±0.5"),
    "clipped at one side": (np.clip(A, -0.25, 0.5), "clipped to -0.25 .. 0.5"),
    "one row": (changed(2, NOISE[2]), "equal but for token 2 of 6"),
    "one head": (changed(np.s_[:, 1], NOISE[:, 1]), "equal but for head 1 of 4"),
    "two channels": (changed(np.s_[..., 1:3], NOISE[..., 1:3]), "equal but for channel 1, 2 of 4"),
    "one head's sign": (changed(np.s_[:, 1], -A[:, 1]), "equal but for head 1 of 4, there: the sign is turned"),
    "a NaN": (changed((1, 2, 3), np.nan), "1 NaN for 0"),
    "an Inf": (changed((1, 2, 3), np.inf), "1 Inf for 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_relation_is_found(name):
    b, words = CASES[name]
    assert words in said(b)


def test_other_shape_is_told():
    assert "another shape: [6, 4] for [6, 4, 4]" in said(A[..., 0])


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_no_relation_is_invented_between_unrelated_values(one, other):
    a, b = (np.random.default_rng([side, seed]).standard_normal(A.shape) for side, seed in enumerate((one, other)))
    assert relations(a, b, AXES, meets) == ()


def test_a_relation_that_holds_but_for_one_entry_does_not_hold():
    for name in ("factor", "sign", "offset", "permuted heads", "transposed"):
        b = CASES[name][0].copy()
        b[3, 2, 1] += 1.0
        b[0, 0, 0] += 1.0
        b[5, 3, 3] += 1.0
        assert CASES[name][1] not in said(b)


@given(st.permutations(range(8)), st.integers(0, 1))
@settings(max_examples=50, deadline=None)
def test_order_of_a_permutation_is_the_one_that_was_applied(order, axis):
    a = np.random.default_rng(0).standard_normal((8, 8))
    b = np.take(a, order, axis)
    found = relations(a, b, ("token", "channel"), meets)
    if list(order) != sorted(order):
        word = ("token", "channel")[axis]
        assert f"a permutation of A's along {word}: {', '.join(map(str, order))}" in found


def test_long_lists_are_shortened_with_their_length():
    a = np.random.default_rng(0).standard_normal((2, 40))
    b = a.copy()
    b[:, :12] += 1
    assert "channel 0, 1, 2, 3, 4, 5, 6, 7, ... (12 in all) of 40" in said(b, a, ("token", "channel"))
