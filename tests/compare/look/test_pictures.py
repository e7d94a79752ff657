"""What a result shows of values: small pictures and curves that say where the numbers are large, masked or not finite."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from opdiff.compare.look.pictures import MOST_POSITIONS, along_positions, look, picture_of_difference
from opdiff.compare.result import Picture

FLAT = ("token", "channel")


def cells(picture: Picture) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(picture.cells), np.int8)
    return flat.reshape(picture.rows, picture.columns)


def test_small_value_is_shown_entry_by_entry_with_its_signs():
    shown = look(np.array([[1.0, -2.0], [0.0, 0.5]]), FLAT, False)
    assert shown.picture.largest == 2.0
    np.testing.assert_allclose(cells(shown.picture) / 127 * 2, [[1, -2], [0, 0.5]], atol=0.02)
    assert (shown.least, shown.largest, shown.n_nonfinite) == (-2.0, 1.0, 0)


@pytest.mark.parametrize("place", [(0, 0), (40, 300), (99, 999)])
def test_one_large_entry_of_many_is_seen_in_its_own_place(place):
    value = np.zeros((100, 1000))
    value[place] = -3.0
    picture = look(value, FLAT, False).picture
    assert picture.largest == 3.0
    row, column = np.unravel_index(int(np.argmin(cells(picture))), (picture.rows, picture.columns))
    assert abs(row / picture.rows - place[0] / 100) < 1.5 / picture.rows
    assert abs(column / picture.columns - place[1] / 1000) < 1.5 / picture.columns


def test_masked_scores_and_numbers_that_are_none_are_marked_and_change_no_figure():
    scores = np.array([[[1.0, -1e30], [np.nan, 2.0]]])  # [head, token, key]
    shown = look(scores, ("head", "token", "key"), True)
    assert cells(shown.picture).tolist() == [[64, -127], [-128, 127]]
    assert (shown.least, shown.largest, shown.n_nonfinite) == (1.0, 2.0, 1)


def test_equal_infinities_are_no_difference():
    value = np.array([[np.inf, 1.0]])
    assert cells(picture_of_difference(value, value, FLAT, False)).tolist() == [[0, 0]]


def test_shapes_that_disagree_have_no_picture_and_no_curve():
    assert picture_of_difference(np.zeros((2, 3)), np.zeros((2, 5)), FLAT, False) is None
    assert along_positions(np.zeros((2, 3)), np.zeros((2, 5)), FLAT, False) == ()


def test_curve_grows_where_the_difference_does():
    a = np.ones((6, 4))
    assert along_positions(a, a * (1 + np.arange(6)[:, None]), FLAT, False) == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_curve_of_scores_is_by_the_position_that_looks_not_by_head():
    a = np.ones((3, 5, 5))
    b = a.copy()
    b[:, 4] = 2
    assert along_positions(a, b, ("head", "token", "key"), True) == (0, 0, 0, 0, 1)


def test_curve_of_many_positions_keeps_the_largest_and_its_place():
    a = np.ones((1000, 2))
    b = a.copy()
    b[777] = 9
    curve = along_positions(a, b, FLAT, False)
    assert len(curve) <= MOST_POSITIONS
    assert [n for n, one in enumerate(curve) if one] == [777 // 8]


def test_value_without_positions_has_no_curve():
    assert along_positions(np.ones((4, 4)), np.zeros((4, 4)), ("out", "in"), False) == ()


def test_nothing_at_all_has_an_empty_picture():
    assert look(np.zeros((0, 4)), FLAT, False).picture == Picture(0, 0, 0.0, "")
