"""Finite-difference, first-order, value-function and evolution methods: each is its own equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import autograd  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from nestgrad import BOME, DARTS, PES, SAMA, DisconnectedHyperparameter, Identity, Neumann, Penalty, Unrolled, tree
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import Case
from nestgrad_conformance.problems.quadratic import QuadraticOuter
from nestgrad_conformance.registry import check

_SERIES = Neumann(num_terms=1, step_size=1.0)
ad: Any = autograd  # it makes its names at import, out of a type checker's sight


def _gradients(ctx: Context, case: Case, level: str, params: Any) -> tuple[Any, Any]:
    """∂loss/∂params and ∂loss/∂hparams of one level at other params, by autograd, at the numbers the backend sees."""
    seen = case.rounded(ctx.dtype)
    loss = (case.inner_loss if level == "inner" else case.outer_loss)(REFERENCE.xp)
    batch = seen.inner_batch if level == "inner" else seen.outer_batch
    by_params = ad.grad(lambda p: loss(p, seen.hparams, batch))(params)
    by_hparams = ad.grad(lambda h: loss(params, h, batch) + 0.0 * sum(np.sum(x) for x in tree.leaves(seen.hparams)))
    try:
        return by_params, by_hparams(seen.hparams)
    except (TypeError, ValueError):  # the loss does not use hparams at all
        return by_params, tree.map(np.zeros_like, seen.hparams)


def _flat(values: Any) -> np.ndarray:
    return np.concatenate([np.reshape(np.asarray(leaf), -1) for leaf in tree.leaves(values)])


def _moved(params: Any, direction: Any, scale: float) -> Any:
    return tree.map(lambda p, d: p + scale * d, params, direction)


def _parts(ctx: Context, case: Case, found: Any, direct: Any, indirect: Any, limit: float, size: float) -> None:
    each = np.full(_flat(case.hparams).size, size)
    ctx.close(found.direct, direct, limit, what="direct", scale=each)
    ctx.close(found.indirect, indirect, limit, what="indirect", scale=each)
    ctx.close(found.total, tree.map(np.add, direct, indirect), limit, what="total", scale=each)


def _difference(ctx: Context, case: Case, v: Any, radius: float) -> tuple[Any, float]:
    """[∇_λL_in(w + εv) - ∇_λL_in(w - εv)] / 2ε with ε = radius / |v|, and the size of its rounding errors."""
    seen = case.rounded(ctx.dtype)
    eps = radius / float(np.linalg.norm(_flat(v)))
    _, ahead = _gradients(ctx, case, "inner", _moved(seen.params, v, eps))
    _, behind = _gradients(ctx, case, "inner", _moved(seen.params, v, -eps))
    noise = tolerances.eps(ctx.dtype) * float(np.abs(_flat(ahead)).max() + 1.0) / eps
    return tree.map(lambda a, b: (a - b) / (2.0 * eps), ahead, behind), noise


@check("DARTS", "Minimize")
def darts_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """A virtual step, the outer gradient there, and a central difference of ∇_λL_in about the old weights."""
    case, method = problems.tanh_network(draw), DARTS(step_size=0.1, radius=draw.pick([0.01, 0.1], "radius"))
    found = ctx.by_method(case, method)
    seen = case.rounded(ctx.dtype)
    slope, _ = _gradients(ctx, case, "inner", seen.params)
    ahead = _moved(seen.params, slope, -method.step_size)
    v, direct = _gradients(ctx, case, "outer", ahead)
    mixed, noise = _difference(ctx, case, v, method.radius)
    indirect = tree.map(lambda x: -method.step_size * x, mixed)
    size = float(np.linalg.norm(_flat(indirect)) + np.linalg.norm(_flat(direct)))
    _parts(ctx, case, found, direct, indirect, 1e-9 + 30 * noise / max(size, 1e-3), max(size, 1e-3))
    limit = 10 * tolerances.rtol(_SERIES, ctx.dtype)
    ctx.close(found.params, ahead, limit, what="params", scale=np.ones(_flat(ahead).size))
    ctx.close(found.adjoint, v, limit, what="adjoint", scale=np.full(_flat(v).size, np.linalg.norm(_flat(v))))


@check("DARTS", "Minimize", "Unrolled", "WeightUpdate", "sgd", dtypes=("float64",))
def darts_is_one_unrolled_step_where_it_is_exact(ctx: Context, draw: Draw) -> None:
    """With ∇_λL_in quadratic in w, as for a weight decay, DARTS is Unrolled(1) on SGD of the same rate."""
    case = problems.ridge(draw, 3, shared=draw.pick([True, False], "shared"))
    case = case.with_(params={"w": draw.normal(3)})
    rate = 0.2
    darts = ctx.numpy(ctx.by_method(case, DARTS(step_size=rate, radius=0.05)).total)["decay"]
    stepped = case.with_(hparams={**case.hparams, "lr": np.asarray(rate)}, kind="update")
    one = ctx.numpy(ctx.by_method(stepped, Unrolled(num_steps=1)).total)["decay"]
    error, size = float(np.abs(darts - one).max()), float(np.abs(one).max())
    assert error <= 1e-9 * max(size, 1e-2), f"error {error:.3g}, size {size:.3g}"


@check("SAMA", "WeightUpdate", "Implicit", "Identity", "sgd")
def sama_with_sgd_is_the_identity_inverse(ctx: Context, draw: Draw) -> None:
    """With SGD v = lr ∂L_out/∂w: where the difference is exact, it is one term of the series on F = u."""
    case = problems.ridge(draw, 3, shared=True).with_(params={"w": draw.normal(3)})
    stepped = case.with_(kind="update")
    sama = ctx.numpy(ctx.by_method(stepped, SAMA(radius=0.1)).total)["decay"]
    one = ctx.numpy(ctx.hypergradient(stepped, Identity()).total)["decay"]
    scale = max(float(np.abs(one)), 0.1 * float(np.abs(case.params["w"]).sum()))
    limit = 1e-9 if ctx.dtype == "float64" else 1e-3
    assert abs(sama - one) <= limit * scale, f"{sama}, expected {one}"


@check("SAMA", "WeightUpdate", "sgd")
def sama_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """v = (∂u/∂g)ᵀ∂L_out/∂w, then the central difference of the inner loss; direct at the params given."""
    case, method = problems.tanh_network(draw), SAMA(radius=0.05)
    found = ctx.by_method(case.with_(kind="update"), method)
    seen = case.rounded(ctx.dtype)
    slope, direct = _gradients(ctx, case, "outer", seen.params)
    v = tree.map(lambda x: problems.RATE * x, slope)
    mixed, noise = _difference(ctx, case, v, method.radius)
    indirect = tree.map(np.negative, mixed)
    size = max(float(np.linalg.norm(_flat(indirect)) + np.linalg.norm(_flat(direct))), 1e-3)
    _parts(ctx, case, found, direct, indirect, 1e-9 + 30 * noise / size, size)
    each = np.full(_flat(v).size, np.linalg.norm(_flat(v)))
    ctx.close(found.adjoint, v, 10 * tolerances.rtol(_SERIES, ctx.dtype), what="adjoint", scale=each)


@check("SAMA", "WeightUpdate", "sgd")
def settings_of_the_optimizer_are_beyond_sama(ctx: Context, draw: Draw) -> None:
    """A hyperparameter that acts through the optimizer alone raises DisconnectedHyperparameter, not a zero."""
    case = problems.ridge(draw, 3, shared=True).with_(params={"w": draw.normal(3)})
    stepped = case.with_(hparams={**case.hparams, "lr": np.asarray(0.3)}, kind="update")
    with refused(DisconnectedHyperparameter, "lr"):
        ctx.by_method(stepped, SAMA(radius=0.1))


@check("Penalty", "Minimize", slow=True)
def penalty_equals_its_closed_form(ctx: Context, draw: Draw) -> None:
    """On a quadratic from its solution: direct + Cᵀ(H + Q/σ)⁻¹Q(w* - t), which is G + O(1/σ)."""
    case = problems.quadratic(draw, 4, 2, condition=4.0)
    case = case.with_(params={"w": problems.quadratic_optimum(case)})
    sigma = draw.pick([2.0, 10.0], "sigma")
    method = Penalty(multiplier=sigma, num_steps=200, step_size=0.9 / (1.0 + sigma))
    found = ctx.by_method(case, method)
    seen = case.rounded(ctx.dtype)
    H, Q, C = seen.inner_batch["H"], seen.outer_batch["Q"], seen.inner_batch["C"]
    pull = np.linalg.solve(H + Q / sigma, Q @ (seen.params["w"] - seen.outer_batch["t"]))
    direct = seen.outer_batch["rho"] * seen.hparams["shift"]
    limit = 1e-3 if ctx.dtype == "float32" else 1e-8
    size = sigma * float(np.linalg.norm(C) * np.linalg.norm(pull)) + 1.0
    _parts(ctx, case, found, {"shift": direct}, {"shift": C.T @ pull}, limit, size)


@check("Penalty", "Minimize")
def penalty_takes_exactly_its_steps(ctx: Context, draw: Draw) -> None:
    """y after num_steps steps of descent on L_out + σ L_in, and the first-order difference between y and w."""
    case, method = problems.tanh_network(draw), Penalty(multiplier=2.0, num_steps=3, step_size=0.05)
    found = ctx.by_method(case, method)
    seen = case.rounded(ctx.dtype)
    y = seen.params
    for _ in range(method.num_steps):
        outer, _ = _gradients(ctx, case, "outer", y)
        inner, _ = _gradients(ctx, case, "inner", y)
        y = tree.map(lambda p, a, b: p - method.step_size * (a + method.multiplier * b), y, outer, inner)
    _, direct = _gradients(ctx, case, "outer", y)
    _, there = _gradients(ctx, case, "inner", y)
    _, here = _gradients(ctx, case, "inner", seen.params)
    indirect = tree.map(lambda a, b: method.multiplier * (a - b), there, here)
    size = float(np.linalg.norm(_flat(direct)) + 4.0 * np.linalg.norm(_flat(here)))
    _parts(ctx, case, found, direct, indirect, 10 * tolerances.rtol(_SERIES, ctx.dtype), size)
    ctx.close(found.params, y, 10 * tolerances.rtol(_SERIES, ctx.dtype), what="params", scale=np.ones(_flat(y).size))


@check("BOME", "Minimize")
def bome_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """∇L_out + μ∇q with μ from the dynamic barrier, inner products over params and hyperparameters together."""
    case = problems.tanh_network(draw)
    method = BOME(
        num_steps=3,
        step_size=0.05,
        control=draw.pick([0.5, 5.0], "control"),
        barrier=draw.pick(["norm", "value"], "barrier"),
    )
    found = ctx.by_method(case, method)
    seen = case.rounded(ctx.dtype)
    ahead = seen.params
    for _ in range(method.num_steps):
        ahead = _moved(ahead, _gradients(ctx, case, "inner", ahead)[0], -method.step_size)
    outer_w, outer_h = _gradients(ctx, case, "outer", seen.params)
    inner_w, here = _gradients(ctx, case, "inner", seen.params)
    _, there = _gradients(ctx, case, "inner", ahead)
    q_h = tree.map(np.subtract, here, there)
    loss = case.inner_loss(REFERENCE.xp)
    q = loss(seen.params, seen.hparams, seen.inner_batch) - loss(ahead, seen.hparams, seen.inner_batch)
    slope = np.concatenate([_flat(inner_w), _flat(q_h)])
    squared = slope @ slope
    across = np.concatenate([_flat(outer_w), _flat(outer_h)]) @ slope
    aim = squared if method.barrier == "norm" else float(q)
    mu = max(0.0, method.control * aim - across) / squared
    size = float(np.linalg.norm(_flat(outer_h)) + (mu + 1.0) * np.linalg.norm(_flat(here)))
    limit = float((1e-3 if ctx.dtype == "float32" else 1e-8) * (1.0 + abs(across) / squared))
    _parts(ctx, case, found, outer_h, tree.map(lambda x: mu * x, q_h), limit, size)
    direction = tree.map(lambda a, b: a + mu * b, outer_w, inner_w)
    each = np.full(_flat(direction).size, np.linalg.norm(_flat(outer_w)) + (mu + 1.0) * np.linalg.norm(_flat(inner_w)))
    ctx.close(found.adjoint, direction, limit, what="adjoint", scale=each)


@dataclass(frozen=True)
class Drift:
    """w + Aλ + c: an unroll whose end is affine in the hyperparameters."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return {"w": params["w"] + batch["C"] @ hparams["shift"] + batch["c"]}


@dataclass(frozen=True)
class Weighed:
    """tᵀw + ρ Σλ."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.xp.sum(batch["t"] * params["w"]) + batch["rho"] * self.xp.sum(hparams["shift"])


def _drifting(draw: Draw, outer: Any, m: int) -> Case:
    case = problems.mapped(draw, 3, m, kind="fixed point", matrix=np.eye(3))
    return case.with_(inner_loss=Drift, outer_loss=outer)


@check("PES", "FixedPoint")
def persistent_strategies_are_exact_on_affine_losses(ctx: Context, draw: Draw) -> None:
    """With as many orthogonal pairs as perturbations, Σ_k Σ_{j≤k} ∂L_k/∂λ_j: nothing of earlier windows is lost."""
    m, steps, truncation = 2, 6, draw.pick([2, 3, 6], "truncation")
    windows = steps // truncation
    case = _drifting(draw, Weighed, m)
    method = PES(num_steps=steps, truncation=truncation, sigma=0.1, num_pairs=windows * m)
    found = ctx.by_method(case, method, key=draw.pick([0, 5], "key"))
    seen = case.rounded(ctx.dtype)
    each = truncation * seen.inner_batch["C"].T @ seen.outer_batch["t"]
    right = windows * (windows + 1) / 2 * each + windows * float(seen.outer_batch["rho"])
    size = np.full(
        m, windows**2 * truncation * float(np.abs(seen.inner_batch["C"]).sum() * np.abs(seen.outer_batch["t"]).max())
    )
    noise = tolerances.eps(ctx.dtype) * 1e3 / method.sigma
    ctx.close(found.total, {"shift": right}, noise, what="total", scale=size + 10.0)
    assert not np.any(ctx.numpy(found.direct)["shift"]), f"direct {found.direct}, limit exactly 0"


@check("PES", "FixedPoint", "Unrolled")
def plain_strategies_are_exact_on_quadratics(ctx: Context, draw: Draw) -> None:
    """One window, m orthogonal antithetic pairs: the unrolled derivative of a quadratic loss at any σ."""
    m, steps = 3, 4
    case = _drifting(draw, QuadraticOuter, m)
    method = PES(num_steps=steps, truncation=steps, sigma=draw.pick([0.1, 1.0], "sigma"), num_pairs=m)
    found = ctx.by_method(case, method, key=2)
    right = ctx.by_method(case, Unrolled(num_steps=steps))
    loss = abs(float(ctx.numpy(right.outer_loss))) + 1.0
    noise = tolerances.eps(ctx.dtype) * 1e3 / method.sigma
    size = np.full(m, loss + float(np.abs(ctx.numpy(right.total)["shift"]).max()))
    ctx.close(found.total, ctx.numpy(right.total), noise, what="total", scale=20 * size)
    ctx.close(
        found.params,
        ctx.numpy(right.params),
        10 * tolerances.rtol(_SERIES, ctx.dtype),
        what="params",
        scale=np.ones(3) * 10,
    )


@check("PES", "FixedPoint")
def strategies_draw_by_their_key(ctx: Context, draw: Draw) -> None:
    """The same key gives the same bits, another key another estimate."""
    case = _drifting(draw, QuadraticOuter, 3)
    method = PES(num_steps=2, truncation=1, sigma=0.1, num_pairs=1)
    one, again, other = (ctx.numpy(ctx.by_method(case, method, key=key).total)["shift"] for key in (1, 1, 2))
    assert np.array_equal(one, again), f"{one} and {again} by the same key"
    assert not np.array_equal(one, other), f"{one} by two keys"
