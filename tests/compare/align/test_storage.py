"""What counts as a number in fewer bits."""

import numpy as np
import pytest

from opdiff.compare.align.storage import is_stored_as


@pytest.mark.parametrize(
    ("stored", "exact", "step", "is_one"),
    [
        (0.1001, 0.1, 1e-4, True),
        (0.1001, 0.1, 1e-5, False),
        (-np.inf, -3.4e38, np.inf, True),
        (-np.inf, 16.0, np.inf, False),
        (-np.inf, 1e6, np.inf, False),
        (65504.0, 7e4, np.inf, True),
        (65504.0, 100.0, np.inf, False),
    ],
)
def test_a_number_is_stored_as_the_nearest_that_its_storage_has(stored, exact, step, is_one):
    assert is_stored_as(*(np.full(3, number) for number in (stored, exact, step))) == is_one
