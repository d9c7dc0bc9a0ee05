"""One-pass tuning: each hyper step by hand, the chain rule of each space, and whole trajectories."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import nestgrad_reference
from nestgrad import (
    BilevelProblem,
    Bounded,
    Implicit,
    Log,
    Log10,
    Logit,
    Neumann,
    NonFinite,
    Real,
    Softplus,
    Space,
    Status,
    WeightUpdate,
    tree,
)
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import SGDFrom
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params
from nestgrad_conformance.registry import check

_NEEDS = ("OnePass", "WeightUpdate", "Implicit", "Neumann", "sgd", "adam")
_LOOKBACK = 5
_SERIES = Neumann(num_terms=_LOOKBACK, step_size=1.0)
_SHAPE = np.ones(3)


@functools.cache
def _tuner(ctx: Context, setting: str, every: int) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once; drawn values go into its state."""
    losses, spaces = _SETTINGS[setting]
    harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    inner, outer = (loss(harness.xp) for loss in losses)
    tuners: Any = harness.backend
    return tuners.OnePass(
        BilevelProblem(WeightUpdate(inner, SGDFrom(harness.sgd)), outer),
        hparams=spaces(ctx),
        every=every,
        method=Implicit(solver=_SERIES),
        outer_optimizer=harness.adam(0.05),
    )


def _scalar_rate(ctx: Context) -> Any:
    return {"lr": Log10(0.1), "momentum": Logit(0.5), "weight_decay": Log10(0.01)}


def _rate_a_parameter(ctx: Context) -> Any:
    return {"lr": Log10({"w": ctx.arrays(0.1 * _SHAPE)}), "momentum": Logit(0.5), "weight_decay": Log10(0.01)}


@dataclass(frozen=True)
class TiltedLoss:
    """Squared error plus x Σ w: a loss with one free hyperparameter."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return SquaredError(self.xp)(params, hparams, batch) + hparams["x"] * self.xp.sum(params["w"])


_SPACES: dict[str, Callable[[], Space]] = {
    "Real": lambda: Real(0.3),
    "Log": lambda: Log(0.3),
    "Log10": lambda: Log10(0.3),
    "Logit": lambda: Logit(0.3),
    "Softplus": lambda: Softplus(0.3),
    "Bounded": lambda: Bounded(-1.0, 2.0, 0.3),
}
_SLOPES: dict[str, Callable[[float], float]] = {
    "Real": lambda x: 1.0,
    "Log": lambda x: x,
    "Log10": lambda x: math.log(10.0) * x,
    "Logit": lambda x: x * (1.0 - x),
    "Softplus": lambda x: 1.0 - math.exp(-x),
    "Bounded": lambda x: (x + 1.0) * (2.0 - x) / 3.0,
}
_NETWORK = (NetworkLoss, NetworkLoss)
_SETTINGS: dict[str, tuple[tuple[Any, Any], Callable[[Context], Any]]] = {
    "scalar": ((SquaredError, SquaredError), _scalar_rate),
    "per parameter": ((SquaredError, SquaredError), _rate_a_parameter),
    "network": (_NETWORK, lambda ctx: {**_scalar_rate(ctx), "gain": Real(ctx.arrays(np.ones(2)))}),
    "clipped": (
        (SquaredError, SquaredError),
        lambda ctx: {"lr": Log10(0.1, clip=(0.099, 0.101)), "momentum": Logit(0.5), "weight_decay": Log10(0.01)},
    ),
    **{
        name: ((TiltedLoss, SquaredError), lambda ctx, make=make: {"x": make(), "lr": Log10(0.1)})
        for name, make in _SPACES.items()
    },
}


def _regression(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    rows = 6
    return draw.normal(rows, 3), draw.normal(rows)


def _start(ctx: Context, tuner: Any, params: Any, leaves: Any) -> Any:
    """The tuner's initial state with these unconstrained leaves in place of its own."""
    return {**tuner.init(ctx.arrays(params)), "hparams": ctx.arrays(leaves)}


def _drawn_leaves(draw: Draw, *, per_parameter: bool) -> Any:
    rate = {"w": -1.0 + 0.2 * draw.normal(3)} if per_parameter else np.asarray(-1.0 + 0.2 * draw.normal())
    return {"lr": rate, "momentum": 0.5 * draw.normal(), "weight_decay": np.asarray(-1.5 + 0.3 * draw.normal())}


@check(*_NEEDS)
def hyper_step_equals_closed_form(ctx: Context, draw: Draw) -> None:
    """The second step's hypergradient equals Clarke et al.'s closed form: i terms, u at old weights, the loss at new.

    With w, v the weights and buffer that enter the step, w' = w - lr ⊙ v', A q = (H(w) + decay)(lr ⊙ q) and
    p = Σ_{j<i} (I - A)ʲ ∂L_out(w'): -ln10 lr p·v' in log10 lr, -ln10 decay p·(lr ⊙ w) in log10 decay and
    -momentum (1 - momentum) p·(lr ⊙ v) in logit momentum.
    """
    per_parameter = draw.pick([False, True], "per parameter")
    tuner = _tuner(ctx, "per parameter" if per_parameter else "scalar", 2)
    leaves, w0 = _drawn_leaves(draw, per_parameter=per_parameter), draw.normal(3)
    batches = [(_regression(draw), _regression(draw)) for _ in range(2)]
    state = _start(ctx, tuner, {"w": w0}, leaves)
    first, second = batches
    state, _ = tuner.step(state, *ctx.arrays(first))
    state, info = tuner.step(state, *ctx.arrays(second))

    right, scale = _by_hand(*ctx.seen((leaves, w0, first, second)))
    found = dict(info.hypergradient.total)
    found["lr"] = found["lr"]["w"] if per_parameter else found["lr"]
    limit = tolerances.rtol(_SERIES, ctx.dtype)
    order = list(right)
    ctx.close(
        {name: found[name] for name in order},
        right,
        limit,
        what="total",
        scale=np.concatenate([scale[n] for n in order]),
    )
    assert bool(info.tuned), "the second of every=2 steps did not tune"


def _by_hand(
    leaves: Any, w0: np.ndarray, first: Any, second: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The closed form of SGD with momentum on linear regression, and the size of each entry's rounding errors."""
    rate = 10.0 ** (leaves["lr"]["w"] if isinstance(leaves["lr"], dict) else leaves["lr"])
    momentum, decay = 1.0 / (1.0 + np.exp(-leaves["momentum"])), 10.0 ** leaves["weight_decay"]
    (x0, y0), _ = first
    (x, y), (xv, yv) = second
    old_v = x0.T @ (x0 @ w0 - y0) / len(y0) + decay * w0
    old_w = w0 - rate * old_v
    velocity = momentum * old_v + x.T @ (x @ old_w - y) / len(y) + decay * old_w
    w = old_w - rate * velocity
    curvature, slope = x.T @ x / len(y), xv.T @ (xv @ w - yv) / len(yv)
    terms = [slope]
    for _ in range(_LOOKBACK - 1):
        terms.append(terms[-1] - (curvature + decay * np.eye(3)) @ (rate * terms[-1]))
    p = sum(terms)
    ln10 = math.log(10.0)
    each = {
        "lr": -ln10 * rate * p * velocity,
        "momentum": -momentum * (1.0 - momentum) * p * rate * old_v,
        "weight_decay": -ln10 * decay * p * rate * old_w,
    }
    size = sum(np.abs(term) for term in terms)
    reach = {
        "lr": np.linalg.norm(ln10 * rate * size) * (np.linalg.norm(velocity) + np.linalg.norm(old_w)),
        "momentum": np.linalg.norm(rate * size) * (np.linalg.norm(old_v) + np.linalg.norm(old_w)),
        "weight_decay": np.linalg.norm(ln10 * decay * rate * size) * np.linalg.norm(old_w),
    }
    right = {name: value if name == "lr" and rate.ndim else np.asarray(value.sum()) for name, value in each.items()}
    return right, {name: np.full(right[name].size, value) for name, value in reach.items()}


@check(*_NEEDS)
def momentum_has_no_effect_on_the_first_step(ctx: Context, draw: Draw) -> None:
    """With no buffer yet, the first step's hypergradient in momentum is exactly zero, and not an error."""
    tuner = _tuner(ctx, "scalar", 1)
    state = _start(ctx, tuner, {"w": draw.normal(3)}, _drawn_leaves(draw, per_parameter=False))
    _, info = tuner.step(state, ctx.arrays(_regression(draw)), ctx.arrays(_regression(draw)))
    found = ctx.numpy(info.hypergradient.total)
    assert found["momentum"] == 0.0, f"total['momentum'] = {found['momentum']}, limit exactly 0"
    assert found["lr"] != 0.0, "total['lr'] is zero"


@check(*_NEEDS)
def every_space_obeys_the_chain_rule(ctx: Context, draw: Draw) -> None:
    """The hypergradient in a leaf is the one in the natural value times the space's slope."""
    name = draw.pick(list(_SPACES)[1:], "space")
    w, inner, outer = draw.normal(3), _regression(draw), _regression(draw)
    natural = draw.rng.uniform(0.1, 0.9)
    totals: dict[str, float] = {}
    for space_name in ("Real", name):
        tuner = _tuner(ctx, space_name, 1)
        leaf = _SPACES[space_name]().unconstrained(natural, _MathOps())
        state = _start(ctx, tuner, {"w": w}, {"x": np.asarray(leaf), "lr": np.asarray(-1.0)})
        _, info = tuner.step(state, ctx.arrays(inner), ctx.arrays(outer))
        totals[space_name] = float(ctx.numpy(info.hypergradient.total)["x"])
    right = _SLOPES[name](natural) * totals["Real"]
    # The leaf is rounded on its way in and out of the space: a few units of the dtype beside the series' own rounding.
    limit = 10 * tolerances.rtol(_SERIES, ctx.dtype)
    assert abs(totals[name] - right) <= limit * max(abs(right), 1.0), f"{name}: got {totals[name]}, expected {right}"


class _MathOps:
    """The spaces' elementary functions for a Python float."""

    @staticmethod
    def exp(x: float, /) -> float:
        return math.exp(x)

    @staticmethod
    def log(x: float, /) -> float:
        return math.log(x)

    @staticmethod
    def expm1(x: float, /) -> float:
        return math.expm1(x)

    @staticmethod
    def sigmoid(x: float, /) -> float:
        return 1.0 / (1.0 + math.exp(-x))

    @staticmethod
    def softplus(x: float, /) -> float:
        return math.log1p(math.exp(x))


@check(*_NEEDS)
def leaves_are_clipped_after_the_step(ctx: Context, draw: Draw) -> None:
    """A leaf carried beyond its clip range is set to the range's end, and has the same derivative there as without."""
    tuner, free = _tuner(ctx, "clipped", 1), _tuner(ctx, "scalar", 1)
    state = tuner.init(ctx.arrays({"w": draw.normal(3)}))
    state, _ = tuner.step(state, ctx.arrays(_regression(draw)), ctx.arrays(_regression(draw)))
    rate = float(ctx.numpy(tuner.values(state))["lr"])
    assert min(abs(rate / 0.099 - 1), abs(rate / 0.101 - 1)) < 1e-6, f"rate {rate}, limit one of 0.099, 0.101"
    inner, outer = ctx.arrays(_regression(draw)), ctx.arrays(_regression(draw))
    at_the_end, unclipped = (ctx.numpy(t.step(state, inner, outer)[1].hypergradient.total)["lr"] for t in (tuner, free))
    limit = 10 * tolerances.eps(ctx.dtype) * abs(unclipped)
    assert abs(at_the_end - unclipped) <= limit, (
        f"total['lr'] {at_the_end} at the end of the range, {unclipped} without"
    )


@check(*_NEEDS, slow=True, dtypes=("float64",))
def trajectory_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """After 50 steps and 10 hyper steps on changing batches, weights and leaves equal the reference's to 1e-9."""
    params = network_params(draw, 2, 2)
    leaves = {**_drawn_leaves(draw, per_parameter=False), "gain": 1.0 + 0.1 * draw.normal(2)}
    batches = [tuple((draw.normal(rows, 2), draw.normal(rows)) for rows in (6, 4)) for _ in range(50)]
    ends: list[tuple[Any, Any]] = []
    for context in (ctx, Context(REFERENCE, "float64")):
        tuner = _tuner(context, "network", 5)
        state = _start(context, tuner, params, leaves)
        for inner, outer in batches:
            state, _ = tuner.step(state, context.arrays(inner), context.arrays(outer))
        ends.append((context.numpy(state["params"]), context.numpy(state["hparams"])))
    for found, right in zip(
        tree.leaves(ends[0]), (tree.named_leaves(ends[1])[n] for n in tree.named_leaves(ends[0])), strict=True
    ):
        error = float(np.linalg.norm(found - right))
        assert error <= 1e-9 * max(1.0, float(np.linalg.norm(right))), f"error {error:.3g}, limit 1e-9 relative"


@check(*_NEEDS)
def only_every_nth_step_tunes(ctx: Context, draw: Draw) -> None:
    """With every=2 the first step leaves the hyperparameters bit-identical and says IDLE, the second moves them all."""
    tuner = _tuner(ctx, "scalar", 2)
    state = _start(ctx, tuner, {"w": draw.normal(3)}, _drawn_leaves(draw, per_parameter=False))
    seen = [ctx.numpy(state["hparams"])]
    for tuned in (False, True):
        state, info = tuner.step(state, ctx.arrays(_regression(draw)), ctx.arrays(_regression(draw)))
        seen.append(ctx.numpy(state["hparams"]))
        assert bool(info.tuned) is tuned, f"tuned {info.tuned}, expected {tuned}"
        assert (int(info.hypergradient.status) == Status.IDLE) is not tuned, f"status {info.hypergradient.status!r}"
        zero = not any(ctx.numpy(info.hypergradient.total).values())
        assert zero is not tuned, f"total {info.hypergradient.total} on a step with tuned={tuned}"
    for name in seen[0]:
        assert seen[0][name] == seen[1][name], f"{name} moved on the first step"
        assert seen[1][name] != seen[2][name], f"{name} did not move on the second step"


@check(*_NEEDS)
def nonfinite_hyper_steps_are_refused(ctx: Context, draw: Draw) -> None:
    """A hypergradient with a NaN raises NonFinite naming the training step, and reaches no hyperparameter."""
    tuner = _tuner(ctx, "scalar", 1)
    state = _start(ctx, tuner, {"w": draw.normal(3)}, _drawn_leaves(draw, per_parameter=False))
    before = ctx.numpy(state["hparams"])
    x, y = _regression(draw)
    with refused(NonFinite, "step 1"):
        tuner.step(state, ctx.arrays(_regression(draw)), ctx.arrays((x, np.where(np.arange(y.size) == 0, np.nan, y))))
    after = ctx.numpy(state["hparams"])
    assert all(np.array_equal(before[name], after[name]) for name in before), f"hparams changed: {after}"


@check(*_NEEDS)
def step_leaves_its_state_bit_identical(ctx: Context, draw: Draw) -> None:
    """A step returns a new state: the old one gives the same next step, bit for bit, a second time."""
    tuner = _tuner(ctx, "scalar", 1)
    state = _start(ctx, tuner, {"w": draw.normal(3)}, _drawn_leaves(draw, per_parameter=False))
    inner, outer = ctx.arrays(_regression(draw)), ctx.arrays(_regression(draw))
    ends = [tuner.step(state, inner, outer)[0] for _ in range(2)]
    for part in ("params", "hparams"):
        first, second = (ctx.numpy(end[part]) for end in ends)
        assert first.keys() == second.keys(), part
        assert all(np.array_equal(first[name], second[name]) for name in first), part


@check(*_NEEDS)
def info_tells_of_its_own_step(ctx: Context, draw: Draw) -> None:
    """inner_loss is taken before the step, outer_loss after it; hparams are the natural values after it."""
    tuner = _tuner(ctx, "scalar", 1)
    w, inner, outer = draw.normal(3), _regression(draw), _regression(draw)
    state = _start(ctx, tuner, {"w": w}, _drawn_leaves(draw, per_parameter=False))
    state, info = tuner.step(state, ctx.arrays(inner), ctx.arrays(outer))

    def loss(w: np.ndarray, batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        x, y = batch
        return np.asarray(0.5 * np.mean((x @ w - y) ** 2))

    before, inner, outer = ctx.seen((w, inner, outer))
    limit = tolerances.rtol(_SERIES, ctx.dtype)
    scale = np.ones(1) + float(np.linalg.norm(before))
    ctx.close(info.inner_loss, loss(before, inner), limit, what="inner_loss", scale=scale)
    after = ctx.numpy(state["params"])["w"]
    ctx.close(info.hypergradient.outer_loss, loss(after, outer), limit, what="outer_loss", scale=scale)
    ctx.close(info.hparams, ctx.numpy(tuner.values(state)), 10 * tolerances.eps(ctx.dtype), what="hparams")


@check(*_NEEDS)
def reference_and_backend_start_alike(ctx: Context, draw: Draw) -> None:
    """init puts each space's initial natural value into the state, in the params' dtype."""
    tuner = _tuner(ctx, "scalar", 2)
    state = tuner.init(ctx.arrays({"w": draw.normal(3)}))
    right = nestgrad_reference.OnePass(
        BilevelProblem(
            WeightUpdate(SquaredError(REFERENCE.xp), SGDFrom(nestgrad_reference.optim.sgd)), SquaredError(REFERENCE.xp)
        ),
        hparams=_scalar_rate(ctx),
        every=2,
        method=Implicit(solver=Neumann(num_terms=1, step_size=1.0)),
        outer_optimizer=nestgrad_reference.optim.adam(0.05),
    ).init({"w": draw.normal(3)})
    ctx.close(state["hparams"], right["hparams"], 20 * tolerances.eps(ctx.dtype), what="hparams")
    natural = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}
    ctx.close(tuner.values(state), natural, 20 * tolerances.eps(ctx.dtype), what="values")
