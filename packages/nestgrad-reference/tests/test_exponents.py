"""Lyapunov exponents: closed forms, determinants, singular values, and the order of their bounds."""

import math

import autograd.numpy as anp
import numpy as np
import pytest
from moved_points import POINT, along, curved, differences, linear, packed, spectrum, unpacked
from played_games import bilinear

import nestgrad_reference as ng
from nestgrad_reference import spectra

optim, tree = ng.optim, ng.tree
SYMMETRIC = np.array([[1.2, 0.3, 0.0], [0.3, -0.9, 0.2], [0.0, 0.2, 0.4]])


def jacobians(steps):
    points = along(curved, packed(POINT), steps)
    return [differences(lambda x: packed(curved(unpacked(x))), point) for point in points[:-1]]


def product(steps):
    whole = np.eye(3)
    for jacobian in jacobians(steps):
        whole = jacobian @ whole
    return whole


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_the_largest_of_a_symmetric_map_is_its_spectral_radius_at_any_number_of_steps(steps):
    radius = np.abs(np.linalg.eigvalsh(SYMMETRIC)).max()
    found = spectrum(linear(SYMMETRIC), np.ones(3), steps, method=ng.LargestExponent())
    assert found == pytest.approx([math.log(radius)], rel=1e-12)


def test_the_exponents_of_a_linear_map_go_to_its_eigenvalues():
    matrix = np.array([[1.5, 2.0, 0.3], [0.0, 0.8, -0.4], [0.0, 0.1, 0.2]])
    sizes = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]
    short, long = (spectrum(linear(matrix), np.ones(3), steps, method=ng.ExponentSpectrum()) for steps in (60, 120))
    assert 2.0 * long - short == pytest.approx(np.log(sizes), abs=1e-9)  # what is left of the start falls out


@pytest.mark.parametrize("steps", [1, 3, 25])
@pytest.mark.parametrize("refinements", [0, 2])
def test_all_of_them_add_up_to_the_mean_logarithm_of_the_determinant(steps, refinements):
    method = ng.ExponentSpectrum(num_exponents=3, refinements=refinements, seed=4)
    found = spectrum(curved, POINT, steps, method=method)
    wanted = np.mean([np.linalg.slogdet(jacobian)[1] for jacobian in jacobians(steps)])
    assert found.sum() == pytest.approx(wanted, abs=1e-10)
    assert spectrum(curved, POINT, steps).sum() == pytest.approx(wanted, abs=1e-10)


def test_descent_in_one_dimension():
    """(1/k) Σ ln |1 - α L''(w_t)|."""
    play = ng.Play(ng.Game({"w": lambda p, _: p["w"] ** 4 / 4.0 - p["w"] ** 2 / 2.0}), optimizer=optim.sgd(0.1))
    w, logs = 0.2, []
    for _ in range(9):
        logs.append(math.log(abs(1.0 - 0.1 * (3.0 * w**2 - 1.0))))
        w -= 0.1 * (w**3 - w)
    found = ng.lyapunov_exponents(play.update, play.init({"w": np.array(0.2)}), num_steps=9)
    assert found.exponents == pytest.approx([np.mean(logs)], abs=1e-13)
    assert found.end["players"]["w"] == pytest.approx(w, abs=1e-14)
    assert found.end["step"] == 9


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_a_bilinear_game_spreads_alike_in_all_directions(steps):
    step, strength = 0.3, 2.0

    def descend(players):
        return {"x": players["x"] - step * strength * players["y"], "y": players["y"] + step * strength * players["x"]}

    start = {"x": np.array(0.7), "y": np.array(-0.1)}
    wanted = 0.5 * math.log(1.0 + (step * strength) ** 2)
    assert spectrum(descend, start, steps) == pytest.approx([wanted, wanted], abs=1e-13)
    given = {"x": np.array([3.0]), "y": np.array([-4.0])}
    for method in (ng.LargestExponent(), ng.TunedDirection(), ng.TunedDirection(at="first step")):
        found = ng.lyapunov_exponents(descend, start, num_steps=steps, method=method, directions=given)
        assert found.exponents == pytest.approx([wanted], abs=1e-13)
        assert found.directions == {"x": pytest.approx([0.6]), "y": pytest.approx([-0.8])}  # no other leads


def test_the_logistic_map():
    """ln 2 at r = 4, here by the mean over 4000 steps."""
    found = ng.lyapunov_exponents(lambda x: 4.0 * x * (1.0 - x), np.array(0.3123), num_steps=4000)
    assert found.exponents == pytest.approx([math.log(2.0)], abs=1e-3)
    assert found.entropy == pytest.approx(found.exponents[0])


@pytest.mark.parametrize("steps", [1, 4, 15])
def test_the_bounds_are_in_order(steps):
    every, largest, first = (
        spectrum(curved, POINT, steps, method=method)[0]
        for method in (ng.TunedDirection(), ng.LargestExponent(), ng.TunedDirection(at="first step"))
    )
    given = [spectrum(curved, POINT, steps, method=ng.ExponentSpectrum(num_exponents=1, seed=s))[0] for s in range(5)]
    assert every >= largest - 1e-14
    assert largest >= max(first, *given) - 1e-14
    assert largest == pytest.approx(np.log(np.linalg.norm(product(steps), 2)) / steps, abs=1e-10)
    tuned = np.mean([np.log(np.linalg.norm(jacobian, 2)) for jacobian in jacobians(steps)])
    assert every == pytest.approx(tuned, abs=1e-10)


@pytest.mark.parametrize("rate", [0.1, 0.9, 1.1])
def test_at_rest_on_a_quadratic_the_sign_changes_where_descent_diverges(rate):
    curvatures = np.array([0.3, 2.0])
    found = spectrum(lambda w: w - rate * curvatures * w, np.zeros(2), 6, method=ng.LargestExponent())
    assert found == pytest.approx([np.log(np.abs(1.0 - rate * curvatures)).max()], abs=1e-13)
    assert (found[0] > 0.0) == (rate > 1.0)


def test_momentum_has_those_of_its_spectrum():
    """Six of a bilinear game's state, in pairs of conjugates: their sums by pairs are ln |z|² each."""
    play = ng.Play(bilinear(), optimizer=optim.complex_momentum(1.0, 0.7, 0.5))
    state = play.init({"x": np.array(0.4), "y": np.array(0.1)})
    short, long = (spectrum(play.update, state, steps) for steps in (60, 120))
    sizes = np.sort(np.abs(spectra.momentum_roots([1j, -1j], step_size=1.0, momentum=0.7 * np.exp(0.5j))).ravel())[::-1]
    assert sizes[0::2] == pytest.approx(sizes[1::2])
    assert (2.0 * long - short).reshape(3, 2).sum(axis=1) == pytest.approx(2.0 * np.log(sizes[::2]), abs=1e-8)


def test_refining_turns_them_to_the_singular_vectors_of_all_steps_together():
    whole = product(6)
    _, sizes, rows = np.linalg.svd(whole)
    method = ng.ExponentSpectrum(num_exponents=2, refinements=60)
    found = ng.lyapunov_exponents(curved, POINT, num_steps=6, method=method)
    assert found.exponents == pytest.approx(np.log(sizes[:2]) / 6, abs=1e-9)
    directions = np.stack([packed(tree.map(lambda leaf, i=i: leaf[i], found.directions)) for i in range(2)])
    assert np.abs(directions @ rows[:2].T) == pytest.approx(np.eye(2), abs=1e-7)
    assert found.products == 6 * 2 * (2 * 60 + 1)
    largest = ng.lyapunov_exponents(curved, POINT, num_steps=6, method=ng.LargestExponent())
    assert np.abs(packed(tree.map(lambda leaf: leaf[0], largest.directions)) @ rows[0]) == pytest.approx(1.0, abs=1e-12)
    assert largest.products == 6


def test_one_refinement_is_the_orthonormal_part_of_jt_j_q():
    given = {"w": np.array([[0.3, 0.4], [1.0, -0.2]]), "count": 0, "rest": [np.array([0.5, 0.1]), None]}
    given["rest"][1] = np.zeros((2, 2))
    start = np.linalg.qr(np.stack([[0.5, 0.3, 0.4], [0.1, 1.0, -0.2]], axis=1))[0]
    whole = product(4)
    wanted = np.linalg.qr(whole.T @ whole @ start)[0]
    method = ng.ExponentSpectrum(refinements=1)
    found = ng.lyapunov_exponents(curved, POINT, num_steps=4, method=method, directions=given).directions
    columns = np.stack([packed(tree.map(lambda leaf, i=i: leaf[i], found)) for i in range(2)], axis=1)
    assert np.abs(columns) == pytest.approx(np.abs(wanted), abs=1e-10)


def test_what_a_step_wipes_out_goes_to_minus_infinity_and_spoils_nothing():
    flat = ng.lyapunov_exponents(lambda x: anp.array([2.0, 0.0]) * x + 1.0, np.ones(2), num_steps=5)
    assert flat.exponents == pytest.approx([math.log(2.0), -np.inf])
    assert flat.entropy == pytest.approx(math.log(2.0))
    nothing = ng.lyapunov_exponents(lambda x: 0.0 * x, np.ones(2), num_steps=5, method=ng.LargestExponent())
    assert nothing.exponents == pytest.approx([-np.inf])


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("method", [ng.ExponentSpectrum(refinements=1), ng.LargestExponent()])
def test_many_steps_neither_over_nor_underflow(factor, method):
    found = spectrum(lambda x: np.array([factor, 0.5 * factor]) * x, np.zeros(2), 400, method=method)
    assert found[0] == pytest.approx(math.log(factor), abs=1e-12)


def test_leaves_that_are_no_floats_go_along():
    before = [np.array(leaf) for leaf in tree.leaves(POINT)]
    found = ng.lyapunov_exponents(curved, POINT, num_steps=3, method=ng.ExponentSpectrum(num_exponents=2))
    assert found.end["count"] == 3
    assert isinstance(found.end["count"], int)
    assert found.end["rest"][1].dtype == bool
    assert packed(found.end) == pytest.approx(along(curved, packed(POINT), 3)[-1], abs=1e-14)
    assert found.directions["count"].shape == (2,)
    assert not found.directions["rest"][1].any()
    assert found.directions["rest"][1].shape == (2, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, tree.leaves(POINT), strict=True))


def test_the_order_in_which_a_mapping_is_written_does_not_matter():
    other = {"rest": POINT["rest"], "count": 0, "w": POINT["w"]}
    assert np.array_equal(spectrum(curved, other, 5), spectrum(curved, POINT, 5))


def test_draws_are_the_seeds_own():
    methods = [ng.ExponentSpectrum(num_exponents=1, seed=seed) for seed in (7, 7, 8)]
    drawn = [spectrum(curved, POINT, 3, method=method)[0] for method in methods]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_point_that_is_not_finite_is_named_by_its_step():
    def grow(x):
        return x**2

    def shear(at):
        """Finite derivatives, of which two add up to more than there are numbers for, at the second step."""
        scale = 1.0 if at["count"] == 0 else 0.8 * np.finfo(float).max
        return {"w": anp.sum(at["w"]) * scale * np.ones(2), "count": at["count"] + 1}

    with pytest.raises(ng.NonFinite, match=r"point at step 3: 1 of 2 entries are NaN or infinite, limit 0\. Remedy"):
        ng.lyapunov_exponents(grow, np.array([1e60, 0.5]), num_steps=5)
    with pytest.raises(ng.NonFinite, match="point at step 0"):
        ng.lyapunov_exponents(grow, np.array([np.nan, 0.5]), num_steps=5)
    with pytest.raises(ng.NonFinite, match="Jacobian of step 1: 2 of 4"):
        ng.lyapunov_exponents(anp.sqrt, np.array([0.0, 0.5]), num_steps=5)
    both = {"w": np.ones((1, 2)), "count": 0}
    with pytest.raises(ng.NonFinite, match="growth along directions at step 2: 1 of 1"):
        ng.lyapunov_exponents(shear, {"w": np.zeros(2), "count": 0}, num_steps=3, directions=both)
    found = ng.lyapunov_exponents(grow, np.array([1e60, 0.5]), num_steps=5, throw=False, method=ng.LargestExponent())
    assert not np.isfinite(found.exponents).any()


def changed(**leaves):
    return lambda at: {**at, **leaves}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: spectrum(curved, POINT, 0), "lyapunov_exponents: num_steps=0, limit: an int of at least 1"),
        (lambda: spectrum(curved, POINT, 2, method="qr"), "method 'qr', limit: one of nestgrad.ExponentMethod"),
        (lambda: spectrum(curved, {"count": 1}, 2), "point has 0 floating leaves, limit: at least 1"),
        (lambda: spectrum(curved, {"w": np.ones(2) * 1j}, 2), r"point\['w'\]: got complex128, limit: a real type"),
        (
            lambda: spectrum(changed(w=np.ones(3)), POINT, 2),
            r"update's result\['w'\]: got shape \(3,\), limit: \(2,\)",
        ),
        (lambda: spectrum(lambda at: {"w": at["w"]}, POINT, 2), "update's result: tree: 3 paths are in one"),
        (lambda: spectrum(changed(count=0.5), POINT, 2), r"update's result\['count'\]: got float64, limit: int64"),
        (
            lambda: spectrum(changed(w=np.ones(2, int)), POINT, 2),
            r"update's result\['w'\]: got int64, limit: float64 as in the point",
        ),
        (
            lambda: spectrum(curved, POINT, 2, method=ng.ExponentSpectrum(num_exponents=4)),
            "num_exponents=4, limit: 3, the floating entries of the point",
        ),
        (
            lambda: spectrum(linear(SYMMETRIC), np.ones(3), 2, directions=np.ones((4, 3))),
            "directions: got 4, limit: 3, the floating entries",
        ),
        (
            lambda: spectrum(linear(SYMMETRIC), np.ones(3), 2, directions=np.ones((2, 3))),
            "directions: number 1 has length 1.73205, of which .* is not in those before it, limit: finite, above 0",
        ),
        (
            lambda: spectrum(linear(SYMMETRIC), np.ones(3), 2, directions=np.zeros((1, 3))),
            "directions: number 0 has length 0, of which nan",
        ),
        (
            lambda: spectrum(linear(SYMMETRIC), np.ones(3), 2, directions=np.ones(3)),
            r"directions\[''\]: got shape \(3,\), limit: \(3, 3\), one row for each direction",
        ),
        (
            lambda: spectrum(curved, POINT, 2, directions={"w": np.ones((1, 2))}),
            "lyapunov_exponents: directions: tree: 3 paths are in one of two trees only",
        ),
        (
            lambda: spectrum(linear(SYMMETRIC), np.ones(3), 2, directions=np.eye(3)[:2], method=ng.LargestExponent()),
            "directions: got 2, limit: 1 as LargestExponent asks for",
        ),
        (
            lambda: spectrum(
                linear(SYMMETRIC), np.ones(3), 2, directions=np.eye(3), method=ng.ExponentSpectrum(num_exponents=2)
            ),
            "directions: got 3, limit: 2 as ExponentSpectrum asks for",
        ),
    ],
)
def test_what_is_wrong_is_named(made, message):
    with pytest.raises(ng.InvalidInput, match=message) as caught:
        made()
    assert "Remedy: " in str(caught.value)
