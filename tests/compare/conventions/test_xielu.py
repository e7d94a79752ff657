"""xIELU and its numbers: every way to mistake them is named, from formulas written out here."""

import numpy as np
import pytest

from opdiff.graphs.decoder_config import Xielu

NUMBERS = (Xielu(0.3, -0.7, 0.5, -1e-6), Xielu(-0.2, 0.4, 0.5, -1e-6), Xielu(0.9, 0.1, 0.5, -1e-6))


def softplus(x):
    return np.log(1 + np.exp(x))


def xielu(x, a, b):
    return np.where(x > 0, a * x**2, b * (np.expm1(np.minimum(x, -1e-6)) - x)) + 0.5 * x


@pytest.fixture(scope="module")
def apertus(made):
    return made(gated=False, activation="xielu", xielu=NUMBERS)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_each_block_has_its_own_numbers(block, apertus, names):
    x, of = apertus.values[f"blk.{block}.ffn_up"], NUMBERS[block]
    right = xielu(x, softplus(of.alpha_p), 0.5 + softplus(of.alpha_n))
    assert names(apertus, "ffn_act", right, block=block) == [{}]
    other = NUMBERS[(block + 1) % 3]
    wrong = xielu(x, softplus(other.alpha_p), 0.5 + softplus(other.alpha_n))
    assert names(apertus, "ffn_act", wrong, block=block) == ([{"ffn.xielu": "of_first_block"}] if block == 2 else [])


@pytest.mark.parametrize(
    "kind, a, b",
    [
        ("without_softplus", -0.2, 0.5 + 0.4),
        ("without_beta", softplus(-0.2), softplus(0.4)),
        ("swapped", softplus(0.4), 0.5 + softplus(-0.2)),
        ("untrained", 0.8, 0.8),
    ],
)
def test_mistaken_numbers_are_named(kind, a, b, apertus, names):
    output = xielu(apertus.values["blk.1.ffn_up"], a, b)
    assert names(apertus, "ffn_act", output) == [{"ffn.xielu": kind}]


def test_another_activation_in_its_place_is_named(apertus, names):
    x = apertus.values["blk.1.ffn_up"]
    assert names(apertus, "ffn_act", x / (1 + np.exp(-x))) == [{"ffn.activation": "silu"}]
    assert names(apertus, "ffn_act", np.maximum(x, 0) ** 2) == [{"ffn.activation": "relu2"}]
