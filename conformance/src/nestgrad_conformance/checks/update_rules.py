"""The weight updates: each along a tuned trajectory, every setting in each form, and where gradients are zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, Implicit, Log10, Logit, Neumann, Real, Softplus, Space, WeightUpdate
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.following import follow
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params
from nestgrad_conformance.registry import check

_NEEDS = ("OnePass", "WeightUpdate", "Implicit", "Neumann", "adam", "optim")
_STEPS = 6
_ORACLE = Context(REFERENCE, "float64")


@dataclass(frozen=True)
class Tuned:
    """A rule with hyperparameters in its settings: rule(optim, hparams), and a space for each hyperparameter.

    state: whether its optimizer state is carried in what is differentiated.
    """

    rule: Callable[[Any, Any], Any]
    spaces: Callable[[], dict[str, Space]]
    state: bool = False


def _rate(**others: Space) -> Callable[[], dict[str, Space]]:
    return lambda: {"lr": Log10(0.05), **others}


_MOMENTUM, _DECAY, _EPS = Logit(0.5), Real(0.1), Log10(0.01)
RULES: dict[str, Tuned] = {
    "sgd with nesterov": Tuned(
        lambda o, h: o.sgd(h["lr"], h["momentum"], h["decay"], nesterov=True),
        _rate(momentum=_MOMENTUM, decay=_DECAY),
    ),
    "sgd with dampening": Tuned(
        lambda o, h: o.sgd(h["lr"], h["momentum"], h["decay"], h["dampening"]),
        _rate(momentum=_MOMENTUM, decay=_DECAY, dampening=Logit(0.3)),
    ),
    "adam": Tuned(
        lambda o, h: o.adam(h["lr"], h["b1"], h["b2"], h["eps"], h["decay"]),
        _rate(b1=_MOMENTUM, b2=Logit(0.8), eps=_EPS, decay=_DECAY),
    ),
    "adam, its state carried": Tuned(
        lambda o, h: o.adam(h["lr"], h["b1"], h["b2"], h["eps"]),
        _rate(b1=_MOMENTUM, b2=Logit(0.8), eps=_EPS),
        state=True,
    ),
    "adamw": Tuned(
        lambda o, h: o.adamw(h["lr"], h["b1"], h["b2"], h["eps"], h["decay"]),
        _rate(b1=_MOMENTUM, b2=Logit(0.8), eps=_EPS, decay=_DECAY),
    ),
    "rmsprop": Tuned(
        lambda o, h: o.rmsprop(h["lr"], h["smoothing"], h["eps"], h["momentum"], h["decay"]),
        _rate(smoothing=Logit(0.8), eps=_EPS, momentum=_MOMENTUM, decay=_DECAY),
    ),
    "rmsprop, centered": Tuned(
        lambda o, h: o.rmsprop(h["lr"], h["smoothing"], h["eps"], centered=True),
        _rate(smoothing=Logit(0.8), eps=_EPS),
    ),
    "adagrad": Tuned(
        lambda o, h: o.adagrad(h["lr"], h["eps"], h["decay"], h["slowing"], initial_accumulator=0.1),
        _rate(eps=_EPS, decay=_DECAY, slowing=Softplus(0.2)),
    ),
    "lion": Tuned(lambda o, h: o.lion(h["lr"], 0.8, 0.9, h["decay"]), _rate(decay=_DECAY)),
    "complex momentum": Tuned(
        lambda o, h: o.complex_momentum(h["lr"], h["modulus"], h["argument"]),
        _rate(modulus=Logit(0.7), argument=Real(0.5)),
    ),
    "clipped sgd": Tuned(
        lambda o, h: o.clipped(o.sgd(h["lr"], h["momentum"]), h["max_norm"]),
        _rate(momentum=_MOMENTUM, max_norm=Log10(0.5)),
    ),
    "sgd on a cosine": Tuned(
        lambda o, h: o.sgd(o.cosine(h["lr"], h["length"], h["floor"]), h["momentum"]),
        _rate(momentum=_MOMENTUM, length=Softplus(9.0), floor=Logit(0.2)),
    ),
    "adam on pieces": Tuned(
        lambda o, h: o.adam(o.piecewise_constant([2, 4], h["rates"]), h["b1"], 0.9, 1e-3),
        lambda: {"rates": Log10(np.array([0.05, 0.02, 0.1])), "b1": _MOMENTUM},
    ),
}


class _Ungained:
    """The network's loss with a gain of 1, so that every hyperparameter is the optimizer's."""

    def __init__(self, xp: Any) -> None:
        self.loss = NetworkLoss(xp)

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.loss(params, {"gain": 1.0}, batch)


@functools.cache
def _tuner(ctx: Context, name: str, *, network: bool = True) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once; drawn values go into its state."""
    harness, tuned = ctx.harness, RULES[name]
    assert harness.adam is not None
    rule, optim, tuners = tuned.rule, harness.optim, harness.backend
    loss = _Ungained(harness.xp) if network else SquaredError(harness.xp)
    of_backend: Any = tuners
    return of_backend.OnePass(
        BilevelProblem(
            WeightUpdate(loss, lambda h: rule(optim, h), "weights_and_state" if tuned.state else "weights"), loss
        ),
        hparams=_spaces(ctx, tuned),
        every=2 if network else 1,
        method=Implicit(solver=Neumann(num_terms=3, step_size=1.0)),
        outer_optimizer=harness.adam(0.02),
        throw=network,  # a NaN there is for the check to find
    )


def _spaces(ctx: Context, tuned: Tuned) -> dict[str, Space]:
    """The rule's spaces, their initial arrays the backend's own."""
    return {
        key: space.starting_at(ctx.arrays(space.initial)) if np.ndim(space.initial) else space
        for key, space in tuned.spaces().items()
    }


def _leaves(draw: Draw, name: str) -> Any:
    """The initial leaves, each moved a little."""
    start = _tuner(_ORACLE, name).init(network_params(draw, 2, 2))["hparams"]
    return {key: np.asarray(leaf) + 0.1 * draw.normal(*np.shape(leaf)) for key, leaf in start.items()}


@check(*_NEEDS, slow=True, dtypes=("float64",))
def every_update_rule_equals_the_reference_along_a_run(ctx: Context, draw: Draw) -> None:
    """Six steps and three hyper steps of each rule, all of its settings tuned, end where the reference's do (1e-9)."""
    for name in RULES:
        steps = [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(_STEPS)]
        follow(ctx, functools.partial(_tuner, name=name), network_params(draw, 2, 2), _leaves(draw, name), steps)


@check(*_NEEDS)
def an_absent_feature_changes_no_hypergradient(ctx: Context, draw: Draw) -> None:
    """A weight whose gradient is exactly zero, at zero moments, adds nothing: totals are those of the problem without.

    The rules whose steps divide by a root: no derivative there is infinite or NaN.
    """
    name = draw.pick(["adam", "adamw", "rmsprop", "rmsprop, centered", "clipped sgd"], "rule")
    w, outer_w = draw.normal(3), np.array([1.0, 1.0, 0.0])
    inner, outer = ((draw.normal(6, 3) * outer_w, draw.normal(6)) for _ in range(2))
    leaves = {key: leaf - 0.2 * (key == "decay") for key, leaf in _leaves(draw, name).items()}
    totals: list[Any] = []
    for context, kept in ((ctx, slice(3)), (_ORACLE, slice(2))):
        tuner = _tuner(context, name, network=False)
        w_kept = np.where(np.arange(3) < 2, w, 0.0)[kept]  # at zero, so that a decay of the weight adds nothing either
        batches = [(ctx.seen(x)[:, kept], ctx.seen(y)) for x, y in (inner, outer)]
        state = {**tuner.init(context.arrays({"w": ctx.seen(w_kept)})), "hparams": context.arrays(ctx.seen(leaves))}
        with np.errstate(all="ignore"):  # a NaN is judged by what it does to the totals
            _, info = tuner.step(state, *context.arrays(tuple(batches)))
        totals.append(context.numpy(info.hypergradient.total))
    size = np.full(len(totals[1]), max(abs(float(total)) for total in totals[1].values()) + 0.1)
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    _close(totals[0], totals[1], limit * size[0])


@check(*_NEEDS)
def clipping_a_zero_gradient_is_finite(ctx: Context, draw: Draw) -> None:
    """Where the whole gradient is zero the factor is 1: the hypergradient in the rate is zero, and nothing is NaN."""
    tuner = _tuner(ctx, "clipped sgd", network=False)
    w, x = np.array([1.0, -2.0, 0.5]), np.round(4.0 * draw.normal(6, 3)) / 4.0  # so that X w is exact in any dtype
    state = {**tuner.init(ctx.arrays({"w": w})), "hparams": ctx.arrays(_leaves(draw, "clipped sgd"))}
    state, info = tuner.step(state, ctx.arrays((x, x @ w)), ctx.arrays((draw.normal(6, 3), draw.normal(6))))
    found = ctx.numpy(info.hypergradient.total)
    assert all(float(total) == 0.0 for total in found.values()), f"total {found}, limit exactly 0"
    assert np.array_equal(ctx.numpy(state["params"])["w"], w), f"params moved to {ctx.numpy(state['params'])}"


@check(*_NEEDS)
def settings_of_any_form_are_one_setting(ctx: Context, draw: Draw) -> None:
    """Settings given as a number a tensor, or as an entry a weight, move the weights as one number does."""
    optim = ctx.harness.optim
    w, g = draw.normal(3), draw.normal(3)
    rate, beta, eps = 0.1, 0.7, 0.01
    ends: list[np.ndarray] = []
    for spread in (lambda x: x, lambda x: {"w": ctx.arrays(np.asarray(x))}, lambda x: {"w": ctx.arrays(np.full(3, x))}):
        rule = optim.adamw(spread(rate), spread(beta), spread(0.9), spread(eps), spread(0.05))
        params = ctx.arrays({"w": w})
        updates, _ = rule.update(ctx.arrays({"w": g}), rule.init(params), params)
        ends.append(ctx.numpy(updates)["w"])
    limit = 50 * tolerances.eps(ctx.dtype)
    for end in ends[1:]:
        assert np.allclose(end, ends[0], rtol=limit, atol=limit), f"{end}, expected {ends[0]}"


def _close(found: Any, expected: Any, limit: float) -> None:
    for name, right in expected.items():
        error = abs(float(found[name]) - float(right))
        assert error <= limit, f"total[{name!r}]: {found[name]}, expected {right}, limit {limit:.3g}"
