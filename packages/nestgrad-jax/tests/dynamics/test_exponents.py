"""Lyapunov exponents against dense Jacobians, and their derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim
from nestgrad_jax._dynamics import exponents as _exponents

pytestmark = pytest.mark.usefixtures("x64")
_RNG = np.random.default_rng(103)
MATRIX = 1.8 * _RNG.normal(size=(3, 3))
STEPS = 4
START = 0.25 * _RNG.normal(size=5)


def curved(point):
    """Leaves of two kinds, one of which the other drives, and a count that both know."""
    turned = jnp.tanh(MATRIX @ point["w"]) * (1.0 + 0.1 * jnp.asarray(point["count"], jnp.float64))
    return {"b": 0.9 * point["b"] * jnp.cos(point["w"][None, :2]), "count": point["count"] + 1, "w": turned}


def point_of(vector):
    return {"b": vector[None, :2], "count": 0, "w": vector[2:]}


def vector_of(tree):
    return np.concatenate([np.ravel(tree["b"]), np.ravel(tree["w"])])


def jacobians(update=curved, point_of=point_of, start=START, steps=STEPS):
    """Each step's, dense."""
    found, at = [], point_of(jnp.asarray(start))
    for _ in range(steps):

        def moved(vector, at=at):
            after = update({**point_of(vector), **({"count": at["count"]} if "count" in at else {})})
            return jnp.concatenate([jnp.ravel(leaf) for name, leaf in sorted(after.items()) if name != "count"])

        vector = jnp.concatenate([jnp.ravel(leaf) for name, leaf in sorted(at.items()) if name != "count"])
        found.append(np.asarray(jax.jacobian(moved)(vector)))
        at = update(at)
    return found


def product(matrices):
    whole = np.eye(len(matrices[0]))
    for matrix in matrices:
        whole = matrix @ whole
    return whole


def rows_of(directions):
    return np.concatenate([np.asarray(directions[name]).reshape(len(directions[name]), -1) for name in ("b", "w")], 1)


def exponents(method, directions=None, start=START, **others):
    return ng.lyapunov_exponents(
        curved, point_of(start), num_steps=STEPS, method=method, directions=directions, **others
    )


def test_all_exponents_are_those_of_dense_qr_and_sum_to_the_determinant():
    found = exponents(ng.ExponentSpectrum())
    whole, logs = np.eye(5), np.zeros(5)
    for matrix in jacobians():
        whole, r = np.linalg.qr(matrix @ whole)
        logs += np.log(np.abs(np.diagonal(r)))
    np.testing.assert_allclose(found.exponents, logs / STEPS, rtol=1e-12)
    determinants = [np.linalg.slogdet(matrix)[1] for matrix in jacobians()]
    np.testing.assert_allclose(found.exponents.sum(), np.mean(determinants), atol=1e-10)
    np.testing.assert_allclose(found.entropy, found.exponents[found.exponents > 0].sum(), rtol=1e-14)
    np.testing.assert_array_equal(rows_of(found.directions), np.eye(5))
    assert found.directions["count"].tolist() == [0] * 5
    assert int(found.end["count"]) == STEPS
    assert found.products == 5 * STEPS
    assert isinstance(found.products, int)


def test_refined_directions_are_the_leading_singular_vectors():
    found = exponents(ng.ExponentSpectrum(num_exponents=2, refinements=40, seed=4))
    _, sizes, rows = np.linalg.svd(product(jacobians()))
    np.testing.assert_allclose(found.exponents, np.log(sizes[:2]) / STEPS, rtol=1e-9)
    np.testing.assert_allclose(np.abs(rows_of(found.directions) @ rows[:2].T), np.eye(2), atol=1e-6)
    assert found.products == 2 * STEPS * (2 * 40 + 1)
    assert float(found.exponents[0] - found.exponents[1]) > 0.01


def test_one_refinement_is_a_turn_by_the_products_transpose():
    given = _RNG.normal(size=(2, 5))
    tree = {"b": given[:, None, :2], "count": None, "w": given[:, 2:]}
    whole = product(jacobians())
    begun = np.linalg.qr(given.T)[0]
    for refinements in (0, 1):
        found = exponents(ng.ExponentSpectrum(refinements=refinements), tree)
        start, r = np.linalg.qr(begun if refinements == 0 else whole.T @ whole @ begun)
        np.testing.assert_allclose(
            np.abs(rows_of(found.directions) @ start), np.eye(2), atol=1e-8, err_msg=f"{refinements}"
        )
        _, r = np.linalg.qr(whole @ start)
        np.testing.assert_allclose(found.exponents, np.log(np.abs(np.diagonal(r))) / STEPS, rtol=1e-8)


def test_the_largest_exponent_is_the_products_norm_between_its_bounds():
    found = exponents(ng.LargestExponent(rtol=1e-7))
    each = jacobians()
    largest = np.log(np.linalg.norm(product(each), 2)) / STEPS
    np.testing.assert_allclose(found.exponents, [largest], rtol=1e-11)
    above = exponents(ng.TunedDirection(at="every step", rtol=1e-7))
    np.testing.assert_allclose(above.exponents[0], np.mean([np.log(np.linalg.norm(j, 2)) for j in each]), rtol=1e-11)
    first = exponents(ng.TunedDirection(at="first step", rtol=1e-7))
    leading = np.linalg.svd(each[0])[2][0]
    np.testing.assert_allclose(first.exponents[0], np.log(np.linalg.norm(product(each) @ leading)) / STEPS, rtol=1e-6)
    np.testing.assert_allclose(np.abs(rows_of(above.directions) @ leading), 1.0, rtol=1e-10)
    assert float(above.exponents[0]) > largest + 0.01 > largest >= float(first.exponents[0])


METHODS = {
    "all": (ng.ExponentSpectrum(), "smallest"),
    "refined": (ng.ExponentSpectrum(num_exponents=2, refinements=40, seed=4), "entropy"),
    "largest": (ng.LargestExponent(rtol=1e-9), "largest"),
    "every step": (ng.TunedDirection(at="every step", rtol=1e-9), "sum"),
}


# What nestgrad-reference finds, by dense singular values and by autograd through dense Jacobians.
REFERENCE = {
    "all": (
        [-0.1774313768140688, -0.2033205534088629, 1.0261205384211103, -0.9263347251915734, -3.919969918722999],
        [0.0, 0.0, -4.846428898361166, -14.76548108060682, -27.437537594488553],
    ),
    "largest": (
        [1.1685143776226339],
        [1.5174530672532535e-03, -2.1450285977569123e-03, 41.437928152185187, -53.019225666199659, 29.930424473227635],
    ),
    "every step": (
        [1.3487452168485694],
        [1.0416157518712502e-03, -2.8805181551363333e-03, 41.123269650336439, -52.822729551266256, 29.487544241910285],
    ),
}


@pytest.mark.parametrize("case", METHODS)
def test_derivatives_are_differences_where_directions_are_found(case):
    """Directions are held constant, and are singular vectors: that changes nothing to first order."""
    method, objective = METHODS[case]

    def found(vector):
        return ng.lyapunov_gradient(curved, point_of(vector), num_steps=STEPS, objective=objective, method=method)

    here, along = found(START), _RNG.normal(size=5)
    h = 1e-5
    difference = (found(START + h * along).value - found(START - h * along).value) / (2 * h)
    np.testing.assert_allclose(vector_of(here.gradient) @ along, difference, rtol=1e-5, atol=1e-7)
    assert np.abs(vector_of(here.gradient)).max() > 1e-2
    assert here.gradient["count"] == 0
    count = len(here.found.exponents)
    assert here.products == here.found.products + 2 * count * STEPS
    exponents = here.found.exponents
    numbers = {"smallest": exponents.min(), "entropy": here.found.entropy, "largest": exponents.max()}
    np.testing.assert_allclose(here.value, numbers.get(objective, exponents.sum()), rtol=1e-14)
    if case in REFERENCE:
        wanted, slopes = REFERENCE[case]
        np.testing.assert_allclose(exponents, wanted, rtol=1e-10)
        np.testing.assert_allclose(vector_of(here.gradient), slopes, rtol=1e-7, atol=1e-9)


def test_exponents_are_differentiable_under_a_users_own_jit():
    method = ng.ExponentSpectrum(num_exponents=2, refinements=40, seed=4)

    @jax.jit
    @jax.grad
    def slope(vector):
        found = ng.lyapunov_exponents(curved, point_of(vector), num_steps=STEPS, method=method)
        return found.exponents.max()

    expected = ng.lyapunov_gradient(curved, point_of(START), num_steps=STEPS, method=method).gradient
    np.testing.assert_allclose(slope(jnp.asarray(START)), vector_of(expected), rtol=1e-12)


def test_the_directions_are_drawn_from_the_seed_and_never_globally():
    first, again, other = (
        exponents(ng.ExponentSpectrum(num_exponents=2, seed=seed)).directions["w"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def half(state):
    """A map that wipes one direction out."""
    return {"x": jnp.stack([2.0 * state["x"][0] + jnp.sin(state["x"][0]), state["x"][0] ** 2])}


def test_a_direction_that_is_wiped_out_spoils_no_other():
    start = {"x": np.array([0.3, 0.7])}
    found = ng.lyapunov_gradient(half, start, num_steps=3, throw=False)
    assert found.found.exponents[1] == -np.inf
    alone = ng.lyapunov_exponents(
        half, start, num_steps=3, directions={"x": np.eye(2)[:1]}, method=ng.ExponentSpectrum(num_exponents=1)
    )
    np.testing.assert_allclose(found.found.exponents[:1], alone.exponents, rtol=1e-13)
    h = 1e-6
    ahead, behind = (
        ng.lyapunov_exponents(half, {"x": np.array([0.3 + t, 0.7])}, num_steps=3).exponents[0] for t in (h, -h)
    )
    np.testing.assert_allclose(found.gradient["x"], [(ahead - behind) / (2 * h), 0.0], rtol=1e-6)
    nothing = ng.lyapunov_exponents(lambda s: {"x": 0.0 * s["x"]}, start, num_steps=2, method=ng.LargestExponent())
    assert nothing.exponents[0] == -np.inf


def test_neither_long_nor_fast_runs_over_or_underflow():
    found = ng.lyapunov_exponents(
        lambda s: {"x": s["x"] * jnp.asarray([1e-200, 1e-160])}, {"x": np.array([1.0, 2.0])}, num_steps=3
    )
    np.testing.assert_allclose(found.exponents, np.log(10) * np.array([-200.0, -160.0]), rtol=1e-12)


def test_memory_grows_with_the_logarithm_of_the_steps():
    """Bytes that XLA sets aside for the derivative beside its arguments, on a network with a batch."""
    sizes = (16, 32, 4)
    weights = [0.1 * _RNG.normal(size=pair) for pair in zip(sizes, sizes[1:], strict=False)]
    batch = _RNG.normal(size=(32, 16)), _RNG.normal(size=(32, 4))

    def loss(players, batch):
        x, targets = batch
        for matrix in players["net"]:
            x = jnp.tanh(x @ matrix)
        return ((x - targets) ** 2).mean()

    play = ng.Play(ng.Game({"net": loss}), optimizer=optim.sgd(0.1, 0.9))
    state, method = play.init({"net": weights}), ng.ExponentSpectrum(num_exponents=1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    def scratch(steps):
        lowered = _exponents.compiled_gradient.lower(
            play.moves, steps, method, _exponents.place_of("largest"), state, None, jax.random.key(0), (batch,)
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = scratch(4), scratch(64)
    # From 1 level of parts to 3, at each of which 4 states with a direction each are kept.
    assert many - few <= (3 - 1) * 5 * 2 * size
    assert many < 64 * 2 * size / 2


def refused(call, message, kind=ng.InvalidInput):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "limit" in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_what_fits_no_map_is_refused_by_name():
    point = point_of(START)

    def call(update=curved, point=point, **others):
        return ng.lyapunov_exponents(update, point, **{"num_steps": STEPS, **others})

    refused(lambda: call(num_steps=0), "num_steps=0")
    refused(lambda: call(method="QR"), "method 'QR'")
    refused(lambda: ng.lyapunov_gradient(curved, point, num_steps=2, objective="mean"), "objective 'mean'")
    refused(lambda: call(update="f"), "update is str")
    refused(lambda: call(update=_Unhashable()), "update is not hashable")
    refused(lambda: call(update=lambda s: s["w"]), "update: returned structure")
    refused(lambda: call(update=lambda s: {**s, "w": s["w"][:2]}), r"update: returned point\['w'\] as float64 of shape")
    refused(lambda: call(update=lambda s: {**s, "count": 1.5}), r"point\['count'\] as float64")
    refused(lambda: call(point={**point, "count": 1j}), r"point\['count'\]: got complex128")
    refused(lambda: call(point={"count": 1}), "0 floating leaves|0 entries")
    refused(lambda: call(point={**point, "w": "x"}), r"point\['w'\]: got str")
    refused(lambda: call(method=ng.ExponentSpectrum(num_exponents=6)), "6 exponents, limit: 5")


class _Unhashable:
    __hash__ = None

    def __call__(self, point):
        return point


def test_directions_that_do_not_fit_are_refused_by_name():
    given = np.eye(5)[:2]
    tree = {"b": given[:, None, :2], "count": 0, "w": given[:, 2:]}
    plain = ng.ExponentSpectrum()
    refused(lambda: exponents(plain, {"b": tree["b"]}), "directions: structure")
    refused(
        lambda: exponents(plain, {**tree, "w": given[:1, 2:]}), r"directions\['w'\]: shape \(1, 3\), limit: \(2, 3\)"
    )
    refused(
        lambda: exponents(ng.ExponentSpectrum(num_exponents=1), tree), "directions: 2 along the first axis, limit: 1"
    )
    refused(lambda: exponents(ng.LargestExponent(), tree), "limit: 1 as LargestExponent")
    dependent = jax.tree.map(lambda leaf: np.concatenate([leaf[:1], 3 * leaf[:1]]), {**tree, "count": np.zeros(2)})
    refused(lambda: exponents(plain, dependent), "1 or more is zero or depends")
    refused(lambda: exponents(plain, jax.tree.map(np.zeros_like, dependent)), "1 or more is zero or depends")


def test_what_cannot_be_found_is_said_and_unthrown_is_what_there_is():
    short = ng.LargestExponent(rtol=1e-12, max_refinements=2)
    refused(lambda: exponents(short), "after 2 refinements, limit rtol=1e-12", ng.NotConverged)
    last = exponents(short, throw=False)
    assert np.isfinite(last.exponents).all()
    inside = jax.jit(lambda v: ng.lyapunov_exponents(curved, point_of(v), num_steps=STEPS, method=short).exponents)
    assert np.isnan(inside(jnp.asarray(START))).all()


def test_the_step_that_is_not_finite_is_named():
    def update(s):
        return {"n": s["n"] + 1, "x": jnp.where(s["n"] == 2, jnp.sqrt(s["x"] - 9.0), s["x"] * 1.1)}

    point = {"n": 0, "x": np.ones(2)}
    for method in (ng.ExponentSpectrum(num_exponents=2, refinements=1), ng.LargestExponent()):
        refused(
            lambda m=method: ng.lyapunov_exponents(update, point, num_steps=5, method=m), "step 3 of 5", ng.NonFinite
        )
    unthrown = ng.lyapunov_exponents(update, point, num_steps=5, throw=False)
    assert np.isnan(unthrown.exponents).all()
    bad = {"n": 0, "x": np.array([1.0, np.nan])}
    refused(lambda: ng.lyapunov_exponents(update, bad, num_steps=5), "step 0 of 5", ng.NonFinite)


def test_nothing_given_is_changed():
    point, given = point_of(START.copy()), np.eye(5)[:2] + 0.1
    tree = {"b": given[:, None, :2], "count": 0, "w": given[:, 2:]}
    ng.lyapunov_exponents(curved, point, num_steps=STEPS, directions=tree)
    np.testing.assert_array_equal(vector_of(point), START)
    np.testing.assert_array_equal(given, np.eye(5)[:2] + 0.1)
