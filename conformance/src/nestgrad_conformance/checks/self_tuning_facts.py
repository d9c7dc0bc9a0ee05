"""What is known of self-tuning in closed form: scales, fixed points, bias, centring, and the run's own noise."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import (
    BilevelProblem,
    Dense,
    GatedResponse,
    Log,
    Minimize,
    PredictionLoss,
    Real,
    Softplus,
    softplus_inverse,
    tree,
)
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.learned import drawn_response
from nestgrad_conformance.problems import gated_batch, gated_leaves, gated_params, gated_problem
from nestgrad_conformance.problems.quadratic import QuadraticInner, QuadraticOuter
from nestgrad_conformance.registry import check

_NEEDS = ("SelfTuning", "gated", "GatedResponse", "Minimize", "optim", "adam")
_KINDS = ("sampled", "centred", "linearised")
_RATE = 0.5


@dataclass(frozen=True)
class _Weight:
    """The prediction w."""

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return params["w"]


@dataclass(frozen=True)
class _Following:
    """Mean over rows of ½ (w - slope λ)², or of ½ (w - λ²)² where the batch has no slope."""

    xp: Any

    def __call__(self, found: Any, hparams: Any, batch: Any) -> Any:
        lam = hparams["lam"]
        target = lam * batch["slope"] if "slope" in batch else lam**2
        return 0.5 * self.xp.sum((found - target) ** 2) / found.shape[0]


@dataclass(frozen=True)
class _Itself:
    """The mean of w, or of ½ curvature w² where the batch has it."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        w = params["w"]
        return self.xp.sum(0.5 * batch["curvature"] * w**2 if "curvature" in batch else w) / w.shape[0]


@dataclass(frozen=True)
class _Line:
    """A layer, linear in its weights."""

    gated: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.gated.linear(params["layer"], batch[0])


@dataclass(frozen=True)
class _Shrunk:
    """Mean over rows of (f - y)² + λ² f²."""

    xp: Any

    def __call__(self, found: Any, hparams: Any, batch: Any) -> Any:
        return self.xp.sum((found - batch[1]) ** 2 + hparams["lam"] ** 2 * found**2) / found.shape[0]


@dataclass(frozen=True)
class _Seen:
    """The mean of λ' or of its square, by the batch's power, and ½ w², which nothing moves from 0."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        first, other, w = hparams["first"], hparams["other"], params["w"]
        mean = self.xp.sum(first**2 * batch["square"] + first * batch["plain"]) / first.shape[0]
        return mean + self.xp.sum(0.0 * other) + 0.5 * self.xp.sum(w**2)


@functools.cache
def _tuner(ctx: Context, inner: Any, outer: Any, names: tuple[str, ...], rate: float, **settings: Any) -> Any:
    """A tuner of real hyperparameters, each of one entry, every step an outer one."""
    harness, backend = ctx.harness, ctx.harness.backend
    tuners: Any = backend
    assert harness.optim is not None and harness.adam is not None
    return tuners.SelfTuning(
        BilevelProblem(Minimize(inner), outer),
        hparams={name: Real(ctx.arrays(np.ones(1))) for name in names},
        optimizer=harness.optim.sgd(rate),
        outer_optimizer=harness.adam(0.01),
        every=1,
        **settings,
    )


def _state(ctx: Context, tuner: Any, phi: Any, leaves: Any, scale: float) -> Any:
    begun, entries = tuner.init(ctx.arrays(phi["bias"]), key=0), len(tree.leaves(leaves))
    return {
        **begun,
        "params": ctx.arrays(phi),
        "hparams": ctx.arrays(leaves),
        "scales": ctx.arrays(np.full(entries, softplus_inverse(scale))),
    }


def _number(ctx: Context, value: Any) -> float:
    return float(np.asarray(ctx.harness.to_numpy(value)).reshape(-1)[0])


def _phi(bias: np.ndarray, slope: np.ndarray) -> Any:
    """w = bias + slope · code."""
    return {"bias": {"w": bias}, "weight": {"w": np.ones(1)}, "gates": {"w": slope[:, None]}}


@check(*_NEEDS)
def centring_takes_the_bias_of_the_base_point_away(ctx: Context, draw: Draw) -> None:
    """On ½(w - λ²)² with noise ±σ: centred rests at λ̂², sampled at λ̂² + σ²; slope and hypergradient are 2λ̂ in both."""
    kind, samples = draw.pick(_KINDS, "objective"), draw.pick((2, "examples"), "samples")
    xp = ctx.harness.xp
    inner = PredictionLoss(predict=_Weight(), loss=_Following(xp))
    tuner = _tuner(ctx, inner, _Itself(xp), ("lam",), _RATE, objective=kind, samples=samples, entropy=None)
    center, scale = ctx.seen(1.0 + 0.3 * draw.normal(1)), 0.5
    rests = center**2 + (scale**2 if kind == "sampled" else 0.0)
    phi = _phi(rests - (2.0 * center**2 if kind == "sampled" else 0.0), 2.0 * center)
    state = _state(ctx, tuner, phi, {"lam": center}, scale)
    batch, noise = {"row": ctx.arrays(np.zeros(2))}, ctx.arrays(np.array([[1.0], [-1.0]]))
    after, info = tuner.step(state, batch, batch, noise=(noise, noise))
    limit = 1e-5 if ctx.dtype == "float32" else 1e-12
    ctx.close(after["params"], phi, limit, what="params", scale=np.full(3, 3.0))
    ctx.close(info.hypergradient.total, {"lam": 2.0 * center}, limit, what="total", scale=np.ones(1))
    ctx.close(tuner.response_params(state), {"w": rests}, limit, what="base point", scale=np.full(1, 3.0))
    moved = _phi(phi["bias"]["w"] + 0.1, 2.0 * center)
    after, _ = tuner.step(_state(ctx, tuner, moved, {"lam": center}, scale), batch, batch, noise=(noise, noise))
    back = {"w": phi["bias"]["w"] + 0.1 * (1.0 - _RATE)}
    ctx.close(after["params"]["bias"], back, limit, what="bias", scale=np.full(1, 3.0))


@check(*_NEEDS)
def scales_settle_where_the_entropy_balances_the_outer_loss(ctx: Context, draw: Draw) -> None:
    """An outer loss rising by ½ aσ²: scales move toward √(τ/a) from either side, shrink at τ = 0, grow at a large τ."""
    kind, samples = draw.pick((("sampled", "examples"), ("centred", 2)), "objective")
    slope, curvature = draw.number(0.5, 2.0, "slope"), draw.number(0.5, 2.0, "curvature")
    entropy, factor, rises = draw.pick(
        ((0.1, 0.97, True), (0.1, 1.03, False), (0.0, 1.0, False), (9.0, 1.0, True)), "τ"
    )
    xp = ctx.harness.xp
    inner = PredictionLoss(predict=_Weight(), loss=_Following(xp))
    tuner = _tuner(ctx, inner, _Itself(xp), ("lam",), _RATE, objective=kind, samples=samples, entropy=entropy)
    scale = factor * np.sqrt(0.1 / (curvature * slope**2))
    state = _state(ctx, tuner, _phi(np.zeros(1), np.full(1, slope)), {"lam": np.zeros(1)}, scale)
    shape = (2, 1) if samples == "examples" else (1,)
    batch = ctx.arrays({"slope": np.full(shape, slope), "curvature": np.full(shape, curvature)})
    noise = ctx.arrays(np.array([[1.0], [-1.0]]))
    after, _ = tuner.step(state, batch, batch, noise=(noise, noise))
    begun, ended = (_number(ctx, tuner.scales(each)["lam"]) for each in (state, after))
    assert abs(begun - scale) <= 1e-5 * scale, f"scale {begun}, expected {scale}"
    assert (ended > begun) == rises, f"scale {begun} became {ended}, balance at {scale / factor} for τ = 0.1"


@check(*_NEEDS, "Dense", "Implicit", "respond")
def self_tuning_at_its_fixed_point_gives_the_implicit_hypergradient(ctx: Context, draw: Draw) -> None:
    """An affine best response is moved by no noise; the hypergradient there is Dense's, by the tuner and the method."""
    kind = draw.pick(("sampled", "centred"), "objective")
    case = problems.quadratic(draw, n=3, m=2)
    batch, center = ctx.seen(case.inner_batch), ctx.seen(case.hparams)["shift"]
    response = np.linalg.solve(batch["H"], np.column_stack([batch["C"], batch["c"]]))
    optimum = response[:, -1] + response[:, :-1] @ center
    bias = response[:, -1] if kind == "sampled" else optimum
    phi = {"bias": {"w": bias}, "weight": {"w": np.ones(3)}, "gates": {"w": response[:, :-1]}}
    tuner = _quadratic_tuner(ctx, kind)
    state = {
        **tuner.init(ctx.arrays({"w": bias}), key=0),
        "params": ctx.arrays(phi),
        "hparams": ctx.arrays(case.hparams),
    }
    noise = ctx.arrays(draw.normal(2, 2)), ctx.arrays(np.zeros((2, 2)))
    after, info = tuner.step(state, ctx.arrays(case.inner_batch), ctx.arrays(case.outer_batch), noise=noise)
    exact = ctx.numpy(ctx.hypergradient(case.with_(params={"w": optimum}), Dense()).total)["shift"]
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    size = np.full(12, 1.0 + np.abs(response).max())
    ctx.close(after["params"], phi, limit, what="params", scale=size)
    backend: Any = ctx.harness.backend
    by_hand = backend.hypergradient(
        *(case.problem(ctx.harness), tuner.response_weights(state), ctx.arrays(case.hparams)),
        method=tuner.response,
        **ctx.call(case),
    )
    for what, found in (("tuner", info.hypergradient), ("method", by_hand)):
        error = np.linalg.norm(ctx.numpy(found.total)["shift"] - exact)
        assert error <= limit * (np.linalg.norm(exact) + 1.0), f"{what}: error {error:.3g}, {exact} expected"


@functools.cache
def _quadratic_tuner(ctx: Context, kind: Any) -> Any:
    harness, backend = ctx.harness, ctx.harness.backend
    tuners: Any = backend
    assert harness.optim is not None and harness.adam is not None
    return tuners.SelfTuning(
        BilevelProblem(Minimize(QuadraticInner(harness.xp)), QuadraticOuter(harness.xp)),
        hparams={"shift": Real(ctx.arrays(np.ones(2)))},
        optimizer=harness.optim.sgd(0.3),
        outer_optimizer=harness.adam(0.01),
        objective=kind,
        samples=2,
        every=1,
    )


@check(*_NEEDS)
def linearising_changes_nothing_where_the_prediction_is_linear(ctx: Context, draw: Draw) -> None:
    """A linear layer under a quadratic loss: "linearised" and "centred" take the same step, and with draws as well."""
    samples = draw.pick(("examples", 2), "samples")
    harness, backend = ctx.harness, ctx.harness.backend
    layers: Any = backend
    inner = PredictionLoss(predict=_Line(layers.gated), loss=_Shrunk(harness.xp))
    params = {"layer": {"weight": draw.normal(1, 2), "bias": draw.normal(1)}}
    phi, center = drawn_response(draw, GatedResponse(), params, 1), draw.normal(1)
    batch = ctx.arrays((draw.normal(4, 2), draw.normal(4, 1)))
    noise = ctx.arrays(draw.normal(2 if samples == 2 else 4, 1))
    found: list[Any] = []
    for kind in ("centred", "linearised"):
        tuner = _tuner(ctx, inner, inner, ("lam",), 0.05, objective=kind, samples=samples)
        after, info = tuner.step(_state(ctx, tuner, phi, {"lam": center}, 0.5), batch, batch, noise=(noise, noise))
        found.append({"params": after["params"], "total": info.hypergradient.total})
    limit = 1e-4 if ctx.dtype == "float32" else 1e-11
    ctx.close(found[1], ctx.numpy(found[0]), limit, what="step", scale=np.full(10, 3.0))


@check(*_NEEDS)
def centring_changes_no_value_of_the_network(ctx: Context, draw: Draw) -> None:
    """With φ moved back by `response_weights` the sampled tuner has the centred one's outer loss and derivatives."""
    samples = draw.pick(("examples", 2), "samples")
    leaves, entries = gated_leaves(draw), 4
    phi = drawn_response(draw, GatedResponse(), gated_params(draw), entries)
    scales = 0.3 * draw.normal(entries) - 1.0
    inner, outer = ctx.arrays(gated_batch(draw, 4)), ctx.arrays(gated_batch(draw, 3))
    noise = ctx.arrays((draw.normal(2 if samples == 2 else 4, entries), draw.normal(2 if samples == 2 else 3, entries)))
    centred, sampled = (_still_tuner(ctx, kind, samples) for kind in ("centred", "sampled"))
    state = {**centred.init(ctx.arrays(phi["bias"]), key=0), **ctx.arrays({"hparams": leaves, "scales": scales})}
    state = {**state, "params": ctx.arrays(phi)}
    found = centred.step(state, inner, outer, noise=noise)[1].hypergradient
    other = {**state, "params": centred.response_weights(state)}
    wanted = sampled.step(other, inner, outer, noise=noise)[1].hypergradient
    limit = 1e-3 if ctx.dtype == "float32" else 1e-10
    for part in ("outer_loss", "direct", "indirect"):
        expected = ctx.numpy(getattr(wanted, part))
        size = np.full(entries, 1.0 + max(float(np.abs(leaf).max()) for leaf in tree.leaves(expected)))
        ctx.close(getattr(found, part), expected, limit, what=part, scale=size)


@functools.cache
def _still_tuner(ctx: Context, kind: Any, samples: Any) -> Any:
    """One whose response does not move."""
    harness, backend = ctx.harness, ctx.harness.backend
    tuners: Any = backend
    assert harness.optim is not None and harness.adam is not None
    return tuners.SelfTuning(
        gated_problem(harness),
        hparams={"scale": Log(ctx.arrays(np.ones(2))), "decay": Real(0.5), "gain": Softplus(1.0)},
        optimizer=harness.optim.sgd(0.0),
        outer_optimizer=harness.adam(0.05),
        objective=kind,
        samples=samples,
        every=1,
    )


@check(*_NEEDS, slow=True)
def self_tuning_draws_by_its_seed_step_and_level(ctx: Context, draw: Draw) -> None:
    """The run's own noise: the same by seed and step, another by each, another for the outer loss; normal, by rows."""
    rows, scale, shared = 60, 0.5, draw.pick(("first", "other"), "shared")
    loss = _Seen(ctx.harness.xp)
    tuner = _tuner(ctx, loss, loss, ("first", "other"), 0.1, shared=(shared,))
    phi = {"bias": {"w": np.zeros(1)}, "weight": {"w": np.ones(1)}, "gates": {"w": np.zeros((1, 2))}}
    leaves = {"first": np.zeros(1), "other": np.zeros(1)}

    def seen(state: Any, power: str) -> np.ndarray:
        batch = {name: np.full((rows, 1), float(name == power)) for name in ("plain", "square")}
        info = tuner.step(state, ctx.arrays(batch), ctx.arrays(batch))[1]
        return np.array([_number(ctx, info.inner_loss), _number(ctx, info.hypergradient.outer_loss)])

    begun = _state(ctx, tuner, phi, leaves, scale)
    batch = ctx.arrays({name: np.zeros((rows, 1)) for name in ("plain", "square")})
    later = {**begun, "step": tuner.step(begun, batch, batch)[0]["step"]}
    other = {**begun, "seed": tuner.init(ctx.arrays(phi["bias"]), key=1)["seed"]}
    means, squares = seen(begun, "plain"), seen(begun, "square")
    assert np.array_equal(means, seen(begun, "plain")), "another noise by the same seed and step"
    every = np.concatenate([means, seen(later, "plain"), seen(other, "plain")])
    assert np.unique(every).size == every.size, f"noise used again: inner, outer by step and seed {every}"
    if shared == "first":
        assert np.all(np.abs(squares - means**2) <= 1e-5 * squares), f"rows of a shared draw differ: {squares}, {means}"
    else:
        assert np.all(np.abs(means) <= 0.6 * scale), f"means {means}, limit {0.6 * scale}"
        assert np.all((0.1 * scale**2 <= squares) & (squares <= 1.9 * scale**2)), f"{squares}, expected {scale**2}"
