"""Unrolled differentiation: every mode is the one derivative, over the batches and states actually used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import Dense, Implicit, Neumann, Status, Unrolled, tree
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expected import expected_unrolled
from nestgrad_conformance.problems import Case
from nestgrad_conformance.registry import check
from nestgrad_reference import Materialized

_SERIES = Neumann(num_terms=1, step_size=1.0)


def _flat(values: Any) -> np.ndarray:
    return np.concatenate([np.reshape(np.asarray(leaf), -1) for leaf in tree.leaves(values)])


def _like(values: Any, vector: np.ndarray) -> Any:
    leaves, start = [], 0
    for leaf in tree.leaves(values):
        leaves.append(vector[start : start + np.size(leaf)].reshape(np.shape(leaf)))
        start += np.size(leaf)
    return tree.unflatten(values, leaves)


def _stepped(draw: Draw) -> Case:
    """A problem whose steps can be unrolled."""
    kind = draw.pick(["update", "fixed point", "per parameter"], "kind")
    if kind == "fixed point":
        return problems.mapped(draw, 4, 2, kind="fixed point", smooth=True)
    return problems.updated_network(draw, per_parameter=kind == "per parameter")


def _expected(
    ctx: Context, case: Case, method: Unrolled, batches: list[Any] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Materialized]:
    """By dense one-step derivatives of the reference, put together here."""
    seen = case.rounded(ctx.dtype)
    carried = case.with_(kind="update with state") if case.kind == "update" else case
    state = seen.opt_state(_reference(), lambda values: values)
    if case.kind == "update" and state is None:
        state = {"trace": tree.map(np.zeros_like, seen.params)}
    width = _flat(seen.params).size

    def at(t: int, s: np.ndarray) -> Materialized:
        params = _like(seen.params, s[:width])
        batch = None if batches is None else batches[min(t, len(batches) - 1)]
        moved = None if state is None else _like(state, s[width:])
        return ctx.materialize(carried.with_(params=params), inner_batch=batch, opt_state=moved, exact=True)

    start = _flat(seen.params) if state is None else np.concatenate([_flat(seen.params), _flat(state)])
    return expected_unrolled(at, start, method.num_steps, method.window)


def _reference() -> Any:
    from nestgrad_conformance.context import REFERENCE  # noqa: PLC0415  (a cycle at import otherwise)

    return REFERENCE


def _agree(ctx: Context, case: Case, method: Unrolled, batches: list[Any] | None = None) -> Any:
    extras: dict[str, Any] = {} if batches is None else {"inner_batches": batches}
    found = ctx.by_method(case, method, **extras)
    total, adjoint, state, end = _expected(ctx, case, method, batches)
    size = float(np.abs(total - end.direct).max() + np.abs(end.direct).max() + np.linalg.norm(end.outer_gradient))
    limit = 10 * tolerances.rtol(_SERIES, ctx.dtype)
    each = np.full(total.size, size)
    ctx.close(found.total, ctx.like(case, total), limit, what="total", scale=each)
    ctx.close(found.direct, ctx.like(case, end.direct), limit, what="direct", scale=each)
    ctx.close(found.indirect, ctx.like(case, total - end.direct), limit, what="indirect", scale=each)
    width = _flat(case.params).size
    params = _like(case.params, state[:width])
    ctx.close(found.params, params, limit, what="params", scale=np.full(width, np.abs(state[:width]).max()))
    assert Status(int(found.status)) is Status.TRUNCATED, f"status {found.status!r}"
    if method.mode == "reverse":
        start = _like(case.params, adjoint[:width])
        bound = np.linalg.norm(end.outer_gradient) + np.abs(adjoint).max()
        ctx.close(found.adjoint, start, limit, what="adjoint", scale=np.full(width, bound))
    return found


@check("Unrolled", "WeightUpdate", "FixedPoint", "sgd")
def unrolling_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """Σ_t B_tᵀ A_{t+1}ᵀ…A_{T-1}ᵀ ∂L_out/∂s_T + direct, weights and momentum buffer both carried, from any state."""
    _agree(ctx, _stepped(draw), Unrolled(num_steps=draw.pick([1, 4], "steps")))


@check("Unrolled", "WeightUpdate", "FixedPoint", "sgd")
def forward_unrolling_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """mode="forward" carries Z = ds/dλ along and gives the same number."""
    _agree(ctx, _stepped(draw), Unrolled(num_steps=4, mode="forward", lookback=draw.pick([None, 2], "lookback")))


@check("Unrolled", "WeightUpdate", "FixedPoint", "sgd")
def a_lookback_keeps_the_last_terms(ctx: Context, draw: Draw) -> None:
    """lookback=K is the sum of the last K terms; K = T is the whole."""
    _agree(ctx, _stepped(draw), Unrolled(num_steps=4, lookback=draw.pick([1, 2, 4], "lookback")))


@check("Unrolled", "WeightUpdate", "sgd")
def unrolling_uses_the_batch_of_each_step(ctx: Context, draw: Draw) -> None:
    """inner_batches[t] is what step t sees, forward and back."""
    case = problems.updated_network(draw, per_parameter=False)
    batches = [(draw.normal(6, 2), draw.normal(6)) for _ in range(3)]
    _agree(ctx, case, Unrolled(num_steps=3, mode=draw.pick(["reverse", "forward"], "mode")), batches)


@check("Unrolled", "WeightUpdate", "sgd")
def checkpoints_change_no_bit(ctx: Context, draw: Draw) -> None:
    """Storing every c-th state, or every √T-th, gives the bits of storing all."""
    case = problems.updated_network(draw, per_parameter=draw.pick([True, False], "per parameter"))
    every: Any = draw.pick([1, 2, 3, "sqrt"], "every")
    lookback = draw.pick([None, 4], "lookback")
    plain = ctx.by_method(case, Unrolled(num_steps=5, lookback=lookback))
    stored = ctx.by_method(case, Unrolled(num_steps=5, lookback=lookback, checkpoint_every=every))
    for part in ("total", "direct", "indirect", "outer_loss", "params", "adjoint"):
        one, other = (ctx.numpy(getattr(found, part)) for found in (plain, stored))
        for name, value in tree.named_leaves(one).items():
            difference = np.abs(value - tree.named_leaves(other)[name]).max()
            assert difference <= ctx.harness.recomputed * tolerances.eps(ctx.dtype) * np.abs(value).max(), (
                f"{part}[{name!r}] differs by {difference}, limit {ctx.harness.recomputed} units in the last place"
            )


@check("Unrolled", "Implicit", "FixedPoint", "Neumann")
def unrolling_from_a_fixed_point_equals_the_series(ctx: Context, draw: Draw) -> None:
    """From w* = map(w*), k unrolled steps are Neumann(k, 1) on F = w - map, whatever the map."""
    case = problems.mapped(draw, 4, 2, kind="fixed point", smooth=True)
    w = case.params["w"]
    matrix = 0.5 * case.inner_batch["M"] / np.linalg.norm(case.inner_batch["M"], 2)
    case = case.with_(inner_batch={**case.inner_batch, "M": matrix})
    seen = case.rounded(ctx.dtype)
    for _ in range(200):
        w = np.tanh(seen.inner_batch["M"] @ w + seen.inner_batch["C"] @ seen.hparams["shift"] + seen.inner_batch["c"])
    case = case.with_(params={"w": w})
    k = draw.pick([1, 4], "terms")
    unrolled = ctx.by_method(case, Unrolled(num_steps=k))
    series = ctx.hypergradient(case, Neumann(num_terms=k, step_size=1.0), throw=False)
    point = ctx.materialize(case)
    size = np.full(2, 3 * np.linalg.norm(point.mixed) * np.linalg.norm(point.outer_gradient))
    limit = tolerances.rtol(_SERIES, ctx.dtype)
    ctx.close(unrolled.total, ctx.numpy(series.total), limit, what="total", scale=size)


@check("Unrolled", "WeightUpdate", "Implicit", "Neumann", "sgd")
def unrolling_a_linear_update_equals_the_series_anywhere(ctx: Context, draw: Draw) -> None:
    """Where J and B are constant, the response of k steps is the k-term series at any point."""
    case = problems.quadratic(draw, 4, 2)
    stepped = case.with_(hparams={**case.hparams, "lr": np.asarray(0.4)}, kind="update")
    k = 4
    unrolled = ctx.by_method(stepped, Unrolled(num_steps=k))
    seen = stepped.rounded(ctx.dtype)
    w = ctx.numpy(unrolled.params)["w"]
    rate, curvature = float(seen.hparams["lr"]), seen.inner_batch["H"]
    slope = seen.outer_batch["Q"] @ (w - seen.outer_batch["t"])
    series = rate * sum(np.linalg.matrix_power(np.eye(4) - rate * curvature, j) for j in range(k)) @ slope
    right = seen.inner_batch["C"].T @ series + seen.outer_batch["rho"] * seen.hparams["shift"]
    size = np.linalg.norm(seen.inner_batch["C"]) * np.linalg.norm(slope) * k * rate
    limit = 10 * tolerances.rtol(_SERIES, ctx.dtype)
    ctx.close({"shift": unrolled.total["shift"]}, {"shift": right}, limit, what="total", scale=np.full(2, size))


@check("Unrolled", "WeightUpdate", "sgd")
def unrolled_descent_equals_its_closed_form(ctx: Context, draw: Draw) -> None:
    """½Σh w²: w_T = (1-αh)ᵀw_0, dw_T/dα = -Th(1-αh)ᵀ⁻¹w_0, dL/dw_0 = (1-αh)ᵀ ∂L_out/∂w_T."""
    h = np.exp(0.4 * draw.normal(4))
    case = problems.quadratic(draw, 4, 2, H=np.diag(h))
    zero = {**case.inner_batch, "c": np.zeros(4), "C": np.zeros((4, 2))}
    rate, steps = np.asarray(0.2 + 0.1 * draw.rng.uniform()), 5
    case = case.with_(inner_batch=zero, hparams={**case.hparams, "lr": rate}, kind="update")
    found = ctx.by_method(case, Unrolled(num_steps=steps))
    seen = case.rounded(ctx.dtype)
    a, w0, curve = float(seen.hparams["lr"]), seen.params["w"], np.diag(seen.inner_batch["H"])
    power = (1.0 - a * curve) ** steps
    slope = seen.outer_batch["Q"] @ (power * w0 - seen.outer_batch["t"])
    right = -steps * curve * (1.0 - a * curve) ** (steps - 1) * w0 @ slope
    size = steps * np.abs(curve * w0) @ np.abs(slope)
    limit = 10 * tolerances.rtol(_SERIES, ctx.dtype)
    ctx.close({"lr": found.total["lr"]}, {"lr": np.asarray(right)}, limit, what="total", scale=np.array([size]))
    ctx.close(found.adjoint, {"w": power * slope}, limit, what="adjoint", scale=np.full(4, np.linalg.norm(slope)))
    ctx.close(found.params, {"w": power * w0}, limit, what="params", scale=np.full(4, np.linalg.norm(w0)))


@dataclass(frozen=True)
class Scheduled:
    """½ Σ_i exp(λ_t) h_i w_i² with λ one entry a step, chosen by the batch's one-hot row."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        level = self.xp.sum(hparams["shift"] * batch["now"])
        return 0.5 * self.xp.exp(level) * self.xp.sum(batch["h"] * params["w"] ** 2)


@check("Unrolled", "WeightUpdate", "sgd")
def hyperparameters_of_each_step_add_up_to_the_shared_one(ctx: Context, draw: Draw) -> None:
    """One hyperparameter a step has the terms whose sum is the shared one's hypergradient."""
    steps, h = 3, np.exp(0.3 * draw.normal(4))
    base = problems.quadratic(draw, 4, steps)
    outer = {**base.outer_batch, "rho": np.asarray(0.0)}
    level = 0.3 * float(draw.normal())
    case = base.with_(
        inner_loss=Scheduled,
        hparams={"shift": np.full(steps, level), "lr": np.asarray(0.3)},
        outer_batch=outer,
        kind="update",
    )
    batches = [{"h": h, "now": np.eye(steps)[t]} for t in range(steps)]
    shared = case.with_(hparams={"shift": np.array([level]), "lr": np.asarray(0.3)}, inner_batch=batches[0])
    together = [{"h": h, "now": np.ones(1)} for _ in range(steps)]
    each = ctx.numpy(ctx.by_method(case, Unrolled(num_steps=steps), inner_batches=batches).total)["shift"]
    one = ctx.numpy(ctx.by_method(shared, Unrolled(num_steps=steps), inner_batches=together).total)["shift"]
    size = np.abs(each).sum()
    assert abs(each.sum() - one[0]) <= 10 * tolerances.rtol(_SERIES, ctx.dtype) * size, f"{each} against {one}"


@check("Unrolled", "ProximalGradient", "prox", "Dense", dtypes=("float64",), slow=True)
def unrolled_proximal_steps_tend_to_the_active_set(ctx: Context, draw: Draw) -> None:
    """Many steps of iterative soft thresholding give the derivative on the active set."""
    case = problems.sparse(draw, penalty=draw.pick(["lasso", "elastic net"], "penalty"), solved=True)
    ctx.assume_conditioned(case, 50.0)
    long = ctx.numpy(ctx.by_method(case, Unrolled(num_steps=400)).total)
    exact = ctx.numpy(ctx.by_method(case, Implicit(solver=Dense())).total)
    error = np.linalg.norm([long[name] - exact[name] for name in exact])
    size = np.linalg.norm(_flat(exact))
    assert error <= 1e-3 * size + 1e-9, f"error {error:.3g}, limit {1e-3 * size:.3g}"


@check("Unrolled", "WeightUpdate", "sgd")
def longer_unrolls_can_be_worse_before_they_are_better(ctx: Context, draw: Draw) -> None:
    """½λw² - w from afar: the error against the limit is ρᵀ/λ² - αTρᵀ⁻¹(w_0 - 1/λ), ρ = 1 - αλ, at every T."""
    level, rate, w0 = 1.0, 0.05, -10.0
    steps = draw.pick([1, 18, 60], "steps")
    found = ctx.by_method(_one_weight(w0, level, rate), Unrolled(num_steps=steps))
    w = float(np.reshape(_flat(ctx.numpy(found.params)), -1)[0])
    rho = 1.0 - rate * level
    response = -1.0 / level**2 + rho**steps / level**2 - rate * steps * rho ** (steps - 1) * (w0 - 1.0 / level)
    right = response * w
    got = float(np.reshape(ctx.numpy(found.total)["decay"], -1)[0])
    bound = (1e-3 if ctx.dtype == "float32" else 1e-10) * max(1.0, abs(right))
    assert abs(got - right) <= bound, f"{got} at T = {steps}, expected {right}"


@dataclass(frozen=True)
class Sloped:
    """½λw² - w."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * hparams["decay"] * params["w"] ** 2 - params["w"]


@dataclass(frozen=True)
class HalfSquare:
    """½w²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * params["w"] ** 2


def _one_weight(w: float, level: float, rate: float) -> Case:
    return Case(
        inner_loss=Sloped,
        outer_loss=HalfSquare,
        params={"w": np.asarray(w)},
        hparams={"decay": np.asarray(level), "lr": np.asarray(rate)},
        inner_batch=None,
        outer_batch=None,
        kind="update",
    )


@dataclass(frozen=True)
class Moments:
    """Mean and variance of SGD on ½h w² with gradient noise σ: (1-αh)E, (1-αh)²V + α²h²σ²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        shrink = 1.0 - hparams * batch["h"]
        return {"E": shrink * params["E"], "V": shrink**2 * params["V"] + (hparams * batch["h"] * batch["sigma"]) ** 2}


@dataclass(frozen=True)
class NoisyLoss:
    """½h(E² + V + σ²)."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * batch["h"] * (params["E"] ** 2 + params["V"] + batch["sigma"] ** 2)


@check("Unrolled", "FixedPoint")
def greedy_rate_of_a_noisy_quadratic_is_stationary(ctx: Context, draw: Draw) -> None:
    """The one-step derivative in the rate vanishes at α = M / (h(M + σ²)), M = E² + V."""
    h, sigma, mean, variance = np.exp(0.3 * draw.normal(4))
    batch = {"h": np.asarray(h), "sigma": np.asarray(sigma)}
    spread = mean**2 + variance
    case = Case(
        inner_loss=Moments,
        outer_loss=NoisyLoss,
        params={"E": np.asarray(mean), "V": np.asarray(variance)},
        hparams=np.asarray(spread / (h * (spread + sigma**2))),
        inner_batch=batch,
        outer_batch=batch,
        kind="fixed point",
    )
    slope = float(ctx.numpy(ctx.by_method(case, Unrolled(num_steps=1)).total))
    bound = (1e-5 if ctx.dtype == "float32" else 1e-13) * h**2 * spread
    assert abs(slope) <= bound, f"slope {slope:.3g} at the greedy rate, limit {bound:.3g}"
    higher = case.with_(hparams=1.2 * case.hparams)
    assert float(ctx.numpy(ctx.by_method(higher, Unrolled(num_steps=1)).total)) > 0.0, "no slope above the greedy rate"


@check("Unrolled", "WeightUpdate", "reversible", dtypes=("float64",))
def reversible_unrolling_equals_reverse_mode(ctx: Context, draw: Draw) -> None:
    """Undoing the steps in place of storing them gives reverse mode's number, for rate, momentum and loss alike."""
    base = problems.tanh_network(draw)
    settings = {
        "lr": np.asarray(0.05 + 0.1 * draw.rng.uniform()),
        "momentum": np.asarray(draw.rng.integers(20_000, 63_000) / 65_536),  # what the fixed point arithmetic can hold
    }
    case = base.with_(hparams={**base.hparams, **settings}, kind="reversible")
    steps = draw.pick([1, 6], "steps")
    found = ctx.by_method(case, Unrolled(num_steps=steps, mode="reversible"))
    right = Context(_reference(), "float64").by_method(case, Unrolled(num_steps=steps))
    width = sum(np.size(leaf) for leaf in tree.leaves(case.hparams))
    size = max(float(np.abs(leaf).max()) for leaf in tree.leaves(right.total)) + 0.1
    for part in ("total", "direct", "indirect"):
        ctx.close(getattr(found, part), getattr(right, part), 1e-9, what=part, scale=np.full(width, size))
    every = sum(np.size(leaf) for leaf in tree.leaves(case.params))
    ctx.close(found.params, right.params, 1e-9, what="params", scale=np.ones(every))
    stored = ctx.by_method(case, Unrolled(num_steps=steps))
    ctx.close(stored.total, right.total, 1e-9, what="reverse total", scale=np.full(width, size))
