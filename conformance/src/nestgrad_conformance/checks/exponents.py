"""Lyapunov exponents of maps whose derivatives are written by hand, and of an optimizer in a game."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import assume

from nestgrad import (
    ExponentSpectrum,
    InvalidInput,
    LargestExponent,
    NonFinite,
    NotConverged,
    TunedDirection,
    tree,
)
from nestgrad_conformance.checks.momentum import PLAYED, played_matrix
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems.games import PLAYERS, linear_batch, linear_game, linear_jacobian
from nestgrad_conformance.problems.maps import (
    PARTS,
    CurvedMap,
    DescentMap,
    LinearMap,
    LogisticMap,
    coded,
    decoded,
    point_of,
    rows_of,
    trajectory,
)
from nestgrad_conformance.registry import check

_NEEDS = ("lyapunov_exponents",)
_LARGEST = LargestExponent(rtol=1e-5)
_FIRST, _EVERY = TunedDirection(at="first step", rtol=1e-5), TunedDirection(at="every step", rtol=1e-5)


def _found(ctx: Context, update: Any, point: Any, num_steps: int, method: Any, directions: Any = None) -> Any:
    backend: Any = ctx.harness.backend
    given = None if directions is None else ctx.arrays(directions)
    return backend.lyapunov_exponents(update, ctx.arrays(point), num_steps=num_steps, method=method, directions=given)


def _limit(ctx: Context) -> float:
    return 1e-3 if ctx.dtype == "float32" else 1e-9


def _close(ctx: Context, found: Any, wanted: Any, what: str = "exponents", limit: float | None = None) -> None:
    """To the limit, of 1 and not of the exponent: what is rounded is e to its power."""
    right = np.asarray(wanted, np.float64)
    ctx.close(found, right, limit or _limit(ctx), what=what, scale=np.ones(right.size))


def _drawn(ctx: Context, draw: Draw) -> tuple[np.ndarray, np.ndarray, Any]:
    """(a matrix that is not close to singular, a vector, the point of both)."""
    codes = coded(draw.normal(4, 4))
    matrix = decoded(codes)
    assume(bool(np.linalg.cond(matrix) < 30.0))
    x = ctx.seen(0.5 * draw.normal(4))
    return matrix, x, point_of(x, codes)


def _product(jacobians: list[np.ndarray]) -> np.ndarray:
    """J_{k-1} ⋯ J_0."""
    return functools.reduce(lambda done, jacobian: jacobian @ done, jacobians)


def _assume_apart(matrix: np.ndarray, count: int) -> None:
    """Draw again unless the singular values fall by a third at each of the first `count`."""
    sizes = np.linalg.svd(matrix, compute_uv=False)
    assume(bool((sizes[1 : count + 1] < 0.7 * sizes[:count]).all()))


def _directions(found: Any, ctx: Context) -> np.ndarray:
    """Q_0 as rows (m, 4)."""
    rows = ctx.numpy(found.directions)
    assert all(not leaf.any() for leaf in tree.leaves(rows["codes"])), "directions at integers, limit: zeros"
    return np.concatenate([rows[part] for part in PARTS], axis=1)


@check(*_NEEDS)
def exponents_equal_their_definition(ctx: Context, draw: Draw) -> None:
    """Given directions carried along a curved map: J_t Q_t = Q_{t+1} R_t, λ_i the mean of ln (R_t)_ii."""
    matrix, x, point = _drawn(ctx, draw)
    steps, count = 4, draw.pick((1, 3), "directions")
    rows = ctx.seen(draw.normal(count, 4))
    assume(bool(np.linalg.cond(rows) < 10.0))
    method = ExponentSpectrum(num_exponents=count)
    found = _found(ctx, CurvedMap(ctx.harness.xp), point, steps, method, rows_of(rows, point["codes"]))
    jacobians, end = trajectory(matrix, x, steps, curved=True)
    start, _ = _orthonormal(rows.T)
    q, logs = start, np.zeros(count)
    for jacobian in jacobians:
        q, sizes = _orthonormal(jacobian @ q)
        assume(float(sizes.min()) > 1e-2)
        logs += np.log(sizes)
    _close(ctx, found.exponents, logs / steps)
    _close(ctx, ctx.arrays(_directions(found, ctx)), start.T, "directions")
    _close(ctx, found.end["a"], end[:2], "end")
    assert int(found.products) == steps * count, f"{found.products} products, expected {steps * count}"


def _orthonormal(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q, r = np.linalg.qr(columns)
    signs = np.sign(np.diagonal(r))
    return q * signs, np.abs(np.diagonal(r))


@check(*_NEEDS)
def all_exponents_sum_to_the_mean_log_determinant(ctx: Context, draw: Draw) -> None:
    """Y2: for every number of steps, from the unit directions; the entropy is the sum of the positive ones."""
    (matrix, x, point), steps = _drawn(ctx, draw), draw.pick((1, 4), "steps")
    jacobians, _ = trajectory(matrix, x, steps, curved=True)
    assume(all(np.linalg.cond(jacobian) < 300.0 for jacobian in jacobians))  # rounding of a determinant grows with it
    found = _found(ctx, CurvedMap(ctx.harness.xp), point, steps, ExponentSpectrum())
    exponents = ctx.numpy(found.exponents)
    assert exponents.shape == (4,), f"{exponents.shape} exponents, expected all 4"
    wanted = sum(np.linalg.slogdet(jacobian)[1] for jacobian in jacobians) / steps
    limit = 1e-3 if ctx.dtype == "float32" else 1e-10
    assert abs(exponents.sum() - wanted) <= limit, f"sum {exponents.sum()}, expected {wanted}, limit {limit}"
    entropy, positive = float(ctx.numpy(found.entropy)), float(np.maximum(exponents, 0.0).sum())
    assert abs(entropy - positive) <= limit, f"entropy {entropy}, expected {positive}, limit {limit}"


@check(*_NEEDS)
def exponents_of_descent_tell_where_it_bifurcates(ctx: Context, draw: Draw) -> None:
    """Y1, Y7: of 1 - αH they are ln |1 - αh| for every k, the largest above 0 where an h is below 0 or above 2/α."""
    fastest = draw.pick((0.8, 1.25, -1.3), "largest")
    codes = coded(draw.symmetric(np.array([fastest, 0.45, -0.25, 0.12])))
    point = point_of(draw.normal(4), codes)
    sizes = np.sort(np.abs(np.linalg.eigvalsh(decoded(codes))))[::-1]
    method = ExponentSpectrum(num_exponents=3, refinements=20)
    found = _found(ctx, LinearMap(ctx.harness.xp), point, 2, method)
    exponents = ctx.numpy(found.exponents)
    _close(ctx, found.exponents, np.log(sizes[:3]))
    assert (exponents[0] > 0.0) == (abs(fastest) > 1.0), f"exponent {exponents[0]} where the eigenvalue is {fastest}"


@check(*_NEEDS)
def exponents_of_one_weight_are_mean_log_slopes(ctx: Context, draw: Draw) -> None:
    """Y3: of gradient descent on one weight (1/k) Σ ln |1 - αL''(w_t)|, whatever the method."""
    method = draw.pick((ExponentSpectrum(), _EVERY), "method")
    rate, steps, w = 0.3, 5, ctx.seen(draw.normal(1))
    found, logs = _found(ctx, DescentMap(rate), {"w": w}, steps, method), np.zeros(1)
    for _ in range(steps):
        slope = 1.0 - rate * (3.0 * w**2 - 1.0)
        assume(bool((np.abs(slope) > 0.05).all() and (np.abs(w) < 2.0).all()))
        logs, w = logs + np.log(np.abs(slope)), w - rate * (w**3 - w)
    _close(ctx, found.exponents, logs / steps)
    _close(ctx, found.end["w"], w, "end")


@check(*_NEEDS)
def players_of_a_rotation_part_at_half_a_logarithm(ctx: Context, draw: Draw) -> None:
    """Y4: descent at once on σxy and -σxy has ½ ln(1 + α²σ²), for every k, direction and method."""
    method = draw.pick((ExponentSpectrum(), _FIRST), "method")
    across = draw.number(0.1, 1.5, "ασ") * np.kron(np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2))
    codes = coded(np.eye(4) + across)
    found = _found(ctx, LinearMap(ctx.harness.xp), point_of(draw.normal(4), codes), 3, method)
    strength = abs(decoded(codes)[0, 2])
    count = 4 if method == ExponentSpectrum() else 1
    _close(ctx, found.exponents, np.full(count, 0.5 * math.log(1.0 + strength**2)))


@check(*_NEEDS, slow=True, dtypes=("float64",))
def the_logistic_map_has_the_logarithm_of_two(ctx: Context, draw: Draw) -> None:
    """Y5: ln 2 + ln(w_k (1 - w_k) / (w_0 (1 - w_0))) / 2k after k steps, exactly."""
    steps, w = 100, ctx.seen(np.atleast_1d(0.05 + 0.9 * draw.rng.uniform()))
    found = _found(ctx, LogisticMap(), {"w": w}, steps, ExponentSpectrum())
    end = ctx.numpy(found.end["w"])
    wanted = math.log(2.0) + np.log(end * (1.0 - end) / (w * (1.0 - w))) / (2.0 * steps)
    _close(ctx, found.exponents, wanted)


@check(*_NEEDS)
def leading_exponents_are_those_of_singular_values(ctx: Context, draw: Draw) -> None:
    """Of the steps' product: the largest, and the first two by refinements, along its right singular vectors."""
    (matrix, x, point), steps = _drawn(ctx, draw), 3
    jacobians, _ = trajectory(matrix, x, steps, curved=True)
    whole = _product(jacobians)
    method = draw.pick((_LARGEST, ExponentSpectrum(num_exponents=2, refinements=25)), "method")
    _assume_apart(whole, 2)
    found = _found(ctx, CurvedMap(ctx.harness.xp), point, steps, method)
    _, sizes, vectors = np.linalg.svd(whole)
    rows = _directions(found, ctx)
    assume(bool(sizes[len(rows) - 1] > 1e-2 * sizes[0]))
    _close(ctx, found.exponents, np.log(sizes[: len(rows)]) / steps)
    along = np.abs(np.sum(rows * vectors[: len(rows)], axis=1))
    assert np.all(np.abs(along - 1.0) <= 1e-3), f"|⟨direction, singular vector⟩| {along}, expected 1"


@check(*_NEEDS)
def tuned_directions_bound_the_largest_exponent(ctx: Context, draw: Draw) -> None:
    """Y6: tuned at every step ≥ the largest ≥ tuned at the first; the first of these is Σ ln σ_max(J_t) / k."""
    (matrix, x, point), steps = _drawn(ctx, draw), 3
    jacobians, _ = trajectory(matrix, x, steps, curved=True)
    for each in (*jacobians, _product(jacobians)):
        _assume_apart(each, 1)
    every, largest, first = (
        _found(ctx, CurvedMap(ctx.harness.xp), point, steps, method) for method in (_EVERY, _LARGEST, _FIRST)
    )
    norms = [np.linalg.norm(jacobian, 2) for jacobian in jacobians]
    _close(ctx, every.exponents, [sum(map(math.log, norms)) / steps], "tuned at every step")
    leading = np.linalg.svd(jacobians[0])[2][0]
    carried = np.log(np.linalg.norm(_product(jacobians) @ leading)) / steps
    _close(ctx, first.exponents, [carried], "tuned at the first step", limit=1e-3)
    numbers = [float(ctx.numpy(found.exponents)[0]) for found in (every, largest, first)]
    assert numbers[0] >= numbers[1] - _limit(ctx), f"every step {numbers[0]}, limit {numbers[1]} at least"
    assert numbers[1] >= numbers[2] - _limit(ctx), f"largest {numbers[1]}, limit {numbers[2]} at least"


@check(*_NEEDS, slow=True)
def a_direction_that_is_wiped_out_has_no_exponent(ctx: Context, draw: Draw) -> None:
    """-∞ where a step takes a direction to zero, finite before it; and no overflow in 60 steps of a factor 2¹⁸."""
    order = draw.rng.permutation(3)
    for sizes in (np.array([*np.array([0.5, 2.0, 1.0])[order], 0.0]), np.array([2.0**18, 1.0, 2.0**-8, 2.0**18])):
        point = point_of(np.zeros(4), coded(np.diag(sizes)))
        exponents = ctx.numpy(_found(ctx, LinearMap(ctx.harness.xp), point, 60, ExponentSpectrum()).exponents)
        finite = sizes > 0.0
        assert np.array_equal(np.isneginf(exponents), ~finite), f"{exponents}, expected ln {sizes}"
        wanted = np.log(sizes[finite])
        assert np.allclose(exponents[finite], wanted, atol=_limit(ctx)), f"{exponents}, expected {wanted}"


@check(*_NEEDS)
def exponents_are_differentiated_as_they_are_defined(ctx: Context, draw: Draw) -> None:
    """The derivative of each objective in the point: of singular values, or along directions that are given."""
    (matrix, x, point), steps = _drawn(ctx, draw), 3
    objective = draw.pick(("largest", "sum", "entropy", "smallest"), "objective")
    rows = ctx.seen(draw.normal(2, 4)) if objective == "smallest" else None
    assume(rows is None or float(np.linalg.cond(rows)) < 5.0)
    whole = _product(trajectory(matrix, x, steps, curved=True)[0])
    _assume_apart(whole, 2)

    def exponents(at: np.ndarray) -> np.ndarray:
        product = _product(trajectory(matrix, at, steps, curved=True)[0])
        if rows is None:
            return np.log(np.linalg.svd(product, compute_uv=False)[:2]) / steps
        return np.log(_orthonormal(product @ _orthonormal(rows.T)[0])[1]) / steps

    values = exponents(x)
    assume(bool((np.abs(values) > 0.01).all()) and abs(values[0] - values[1]) > 0.01)  # no kink is near
    right = _by_differences(lambda at: _OBJECTIVES[objective](exponents(at)), x)
    backend: Any = ctx.harness.backend
    found = backend.lyapunov_gradient(
        CurvedMap(ctx.harness.xp),
        ctx.arrays(point),
        num_steps=steps,
        objective=objective,
        method=ExponentSpectrum(num_exponents=2, refinements=25 if rows is None else 0),
        directions=None if rows is None else ctx.arrays(rows_of(rows, point["codes"])),
    )
    _close(ctx, found.value, _OBJECTIVES[objective](values), "value")
    slopes = ctx.numpy({part: found.gradient[part] for part in PARTS})
    limit = (1.0 + float(np.linalg.norm(right))) * (1e-2 if ctx.dtype == "float32" else 1e-4)
    error = float(np.linalg.norm(np.concatenate([slopes[part] for part in PARTS]) - right))
    assert error <= limit, f"gradient {slopes}, expected {right}: error {error}, limit {limit}"


_OBJECTIVES: dict[str, Any] = {
    "largest": np.max,
    "smallest": np.min,
    "sum": np.sum,
    "entropy": lambda exponents: np.maximum(exponents, 0.0).sum(),
}


def _by_differences(function: Any, x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Central differences of fourth order."""

    def at(k: int, s: float) -> float:
        return function(x + s * step * np.eye(x.size)[k])

    rows = [(8.0 * (at(k, 1.0) - at(k, -1.0)) - (at(k, 2.0) - at(k, -2.0))) / (12.0 * step) for k in range(x.size)]
    return np.array(rows)


@dataclass(frozen=True)
class _Played:
    """A step of play on one batch."""

    play: Any
    batch: Any

    def __call__(self, state: Any) -> Any:
        return self.play.update(state, self.batch)

    def __hash__(self) -> int:
        return id(self.batch)


@check(*_NEEDS, "Play", "game_direction", "optim", slow=True)
def exponents_of_momentum_are_those_of_its_matrix(ctx: Context, draw: Draw) -> None:
    """Y8: in a linear game, over all of the state, Σ λ = ln |det R| and the largest is ln σ_max(Rᵏ) / k."""
    batch, start = linear_batch(draw, 2), {name: {"w": draw.normal(2)} for name in PLAYERS}
    backend: Any = ctx.harness.backend
    rules = {name: ctx.harness.optim.complex_momentum(*settings) for name, settings in PLAYED.items()}
    play = backend.Play(linear_game(ctx.harness), optimizer=rules)
    update, state, steps = _Played(play, ctx.arrays(batch)), play.init(ctx.arrays(start)), 6
    matrix = played_matrix(linear_jacobian(ctx.seen(batch)))
    whole = backend.lyapunov_exponents(update, state, num_steps=1)
    _close(ctx, ctx.arrays(ctx.numpy(whole.exponents).sum()), np.linalg.slogdet(matrix)[1], "sum of the exponents")
    powers = np.linalg.matrix_power(matrix, steps)
    _assume_apart(powers, 1)
    largest = backend.lyapunov_exponents(update, state, num_steps=steps, method=_LARGEST)
    _close(ctx, largest.exponents, [math.log(np.linalg.norm(powers, 2)) / steps])


@check(*_NEEDS)
def a_search_for_an_exponent_that_does_not_end_is_named(ctx: Context, draw: Draw) -> None:
    """Singular values too near one another for the refinements: NotConverged, or the exponent itself."""
    codes, backend = coded(np.diag([1.0, 0.99, 0.5, 0.25])), ctx.harness.backend
    point, method = ctx.arrays(point_of(draw.normal(4), codes)), LargestExponent(rtol=1e-6, max_refinements=2)
    of_backend: Any = backend
    seek = functools.partial(of_backend.lyapunov_exponents, LinearMap(ctx.harness.xp), point, num_steps=1)
    number = float(ctx.numpy(seek(method=method, throw=False).exponents)[0])
    assert math.log(0.25) - 1e-5 <= number <= 1e-5, f"exponent {number}, limit ln 0.25 to ln 1"
    said = ""
    try:
        sure = float(ctx.numpy(seek(method=method).exponents)[0])
    except NotConverged as error:
        sure, said = 0.0, str(error)
    assert abs(sure) <= 1e-5, f"exponent {sure} said to be the largest, expected ln 1"
    named = "refinements" in said and "limit" in said and "Remedy:" in said
    assert named or not said, f"no refinements, limit or remedy in {said!r}"


@dataclass(frozen=True)
class _Grown:
    """x ← x with one entry more: no map."""

    xp: Any

    def __call__(self, point: Any) -> Any:
        return {**point, "a": point["a"][None, :] + 0.0 * point["b"][:, None]}


@check(*_NEEDS)
def what_is_no_map_and_no_direction_is_refused(ctx: Context, draw: Draw) -> None:
    """Another shape, no steps, no method, dependent or zero or too many directions, each by name; NaN by its step."""
    codes, x = coded(draw.normal(4, 4)), draw.normal(4)
    point, linear = point_of(x, codes), LinearMap(ctx.harness.xp)
    method: Any = "largest"
    with refused(InvalidInput, "'a'"):
        _found(ctx, _Grown(ctx.harness.xp), point, 1, ExponentSpectrum())
    with refused(InvalidInput, "num_steps"):
        _found(ctx, linear, point, 0, ExponentSpectrum())
    with refused(InvalidInput, "method"):
        _found(ctx, linear, point, 1, method)
    with refused(InvalidInput, "exponents"):
        _found(ctx, linear, point, 1, ExponentSpectrum(num_exponents=5))
    for rows in (np.stack([x, 2.0 * x]), np.zeros((2, 4)), draw.normal(5, 4)):
        with refused(InvalidInput, "directions", "exponents"):
            _found(ctx, linear, point, 1, ExponentSpectrum(num_exponents=len(rows)), rows_of(rows, codes))
    far = point_of(np.full(4, 1e25 if ctx.dtype == "float32" else 1e295), coded(1e5 * np.eye(4)))
    with np.errstate(all="ignore"), refused(NonFinite, "step 2"):
        _found(ctx, linear, far, 3, ExponentSpectrum())


@check(*_NEEDS)
def exponents_change_nothing_and_repeat_themselves(ctx: Context, draw: Draw) -> None:
    """The point passed in stays as it is, the same seed draws the same directions, and another seed others."""
    _, _, point = _drawn(ctx, draw)
    given, backend = ctx.arrays(point), ctx.harness.backend
    of_backend: Any = backend
    one, again, other = (
        of_backend.lyapunov_exponents(
            CurvedMap(ctx.harness.xp), given, num_steps=2, method=ExponentSpectrum(num_exponents=2, seed=seed)
        )
        for seed in (3, 3, 4)
    )
    for name, leaf in tree.named_leaves(ctx.numpy(given)).items():
        assert np.array_equal(leaf, tree.named_leaves(ctx.numpy(ctx.arrays(point)))[name]), f"point[{name!r}] changed"
    rows = [_directions(found, ctx) for found in (one, again, other)]
    assert np.array_equal(rows[0], rows[1]), "other directions by the same seed"
    assert float(np.abs(rows[0] - rows[2]).max()) > 1e-3, "the same directions by another seed"
    square = rows[0] @ rows[0].T
    _close(ctx, ctx.arrays(square), np.eye(2), "products of the directions", limit=1e-5)
