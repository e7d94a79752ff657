"""Values found by their numbers, in whatever layout."""

from __future__ import annotations

import numpy as np
import pytest

from opdiff.compare.align.arrangement import arranged, arrangement
from opdiff.compare.align.values import ValueIndex

RANDOM = np.random.default_rng(0)


def probabilities(n_heads: int, n: int) -> np.ndarray:
    """Of causal attention that looks at the first token before all: most entries are 0, or near it."""
    scores = np.where(np.tri(n, dtype=bool), RANDOM.standard_normal((n_heads, n, n)) - 6, -np.inf)
    scores[..., 0] = 0
    exps = np.exp(scores)
    return exps / exps.sum(-1, keepdims=True)


VALUES = {
    "many numbers": RANDOM.standard_normal((7, 40, 300)),
    "probabilities": probabilities(6, 50),
    "a mask": np.where(np.tri(30, dtype=bool), 1.0 + np.arange(5)[:, None, None], -np.inf),
    "large entries": np.concatenate([RANDOM.standard_normal((4, 3, 50)), RANDOM.normal(0, 1e5, (1, 3, 50))]),
}
ORDERS = {"as it lies": None, "turned": (1, 0, 2), "turned about": (1, 2, 0)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_found_in_another_layout_and_off_by_rounding(name, order):
    ours = VALUES[name]
    turned = ours if ORDERS[order] is None else ours.transpose(ORDERS[order])
    with np.errstate(invalid="ignore"):
        theirs = turned[:, None] * (1 + 1e-9 * RANDOM.standard_normal(turned[:, None].shape))
    plan = arrangement(ours, theirs, 1e-6)
    assert plan is not None
    np.testing.assert_allclose(arranged(ours, plan), theirs, rtol=1e-6)


@pytest.mark.parametrize("name", VALUES)
def test_the_same_numbers_in_another_order_are_another_value(name):
    ours = VALUES[name]
    moved = ours.copy()
    moved[:, [1, 2]] = ours[:, [2, 1]]
    assert arrangement(ours, moved, 1e-6) is None
    assert arrangement(ours, moved[None], 1e-6) is None
    assert arrangement(ours, 1.00001 * ours[None], 1e-6) is None


def test_of_one_value_in_several_layouts_the_one_that_lies_as_wanted_is_enough():
    x = RANDOM.standard_normal((4, 5))
    among = [("x", x), ("x with a batch", x[None]), ("another", 2 * x), ("another one like it", x[None].copy())]
    index = ValueIndex(among, lambda name: name.removesuffix(" with a batch"))
    assert [match.name for match in index.find(x)] == ["x", "another one like it"]
    assert [match.name for match in index.find(x.T)] == ["x", "x with a batch", "another one like it"]
