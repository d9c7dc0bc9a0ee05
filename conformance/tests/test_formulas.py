"""The formulas that backends are held to, and the sizes that errors are measured against, by hand."""

import numpy as np
import pytest

from nestgrad import CG, Dense, Identity, Neumann
from nestgrad_conformance import EXPECTED, tolerances
from nestgrad_reference import Materialized

MATRIX = np.array([[2.0, 1.0], [0.0, 4.0]])
V = np.array([2.0, 8.0])


def test_dense_and_identity_are_their_formulas():
    np.testing.assert_allclose(EXPECTED[Dense](Dense(), MATRIX, V), [0.0, 2.0])
    np.testing.assert_allclose(EXPECTED[Identity](Identity(scale=0.5), MATRIX, V), [1.0, 4.0])


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_a_series_has_exactly_its_terms(terms):
    # With a = ½: I - aM = [[0, -½], [0, -1]], so the terms before the factor a are v, (-4, -8), (4, 8).
    found = EXPECTED[Neumann](Neumann(num_terms=terms, step_size=0.5), MATRIX, V)
    terms_by_hand = 0.5 * sum(np.array([[2.0, 8.0], [-4.0, -8.0], [4.0, 8.0]])[:terms])
    np.testing.assert_allclose(found, terms_by_hand)


def test_cg_is_the_krylov_iterate_and_at_last_the_solution():
    matrix = np.diag([1.0, 2.0, 5.0])
    v = np.array([1.0, -1.0, 2.0])
    first = EXPECTED[CG](CG(rtol=0.0, max_steps=1), matrix, v)
    np.testing.assert_allclose(first, (v @ v) / (v @ matrix @ v) * v)
    second = EXPECTED[CG](CG(rtol=0.0, max_steps=2), matrix, v)
    residual = v - matrix @ second
    np.testing.assert_allclose([residual @ v, residual @ matrix @ v], 0.0, atol=1e-14)
    for steps in (3, 7):
        np.testing.assert_allclose(EXPECTED[CG](CG(rtol=0.0, max_steps=steps), matrix, v), v / np.diag(matrix))
    np.testing.assert_array_equal(EXPECTED[CG](CG(rtol=0.0, max_steps=2), matrix, 0.0 * v), 0.0 * v)


def test_a_cancelled_entry_is_measured_against_its_neighbours():
    mixed = np.array([[2.0, 0.0, 7.0], [0.0, 1e-9, 7.0]])
    scale = tolerances.indirect_scale(mixed, np.array([3.0, 1e-9]), [slice(0, 2), slice(2, 3)])
    # The cancelled entries count as 0.3 of the largest, 2 in the first block of B and 3 in p; the zeros stay zero.
    np.testing.assert_allclose(scale, [2.0 * 3.0, 0.6 * 0.9, 7.0 * 3.0 + 7.0 * 0.9])


def test_solves_are_allowed_ten_times_the_error_of_a_series():
    for dtype in ("float64", "float32"):
        assert tolerances.rtol(Dense(), dtype) == 10 * tolerances.rtol(Identity(), dtype)


def test_a_cancelled_outer_loss_and_direct_term_keep_the_size_of_their_terms():
    point = Materialized(np.zeros(1), np.eye(1), np.eye(1), np.array([3.0]), np.array([1e-9, 4.0]), 1e-9)
    assert tolerances.loss_scale(point, np.array([2.0])) == 6.0
    np.testing.assert_allclose(tolerances.direct_scale(point), [1e-9, 4.0])
