"""Learned responses and hyper-training: the definitions, and where the closed form is known."""

from __future__ import annotations

import functools
from typing import Any

import autograd  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from nestgrad import (
    BilevelProblem,
    Dense,
    DisconnectedHyperparameter,
    FactorisedResponse,
    GatedResponse,
    Guard,
    InvalidInput,
    LinearResponse,
    Log,
    Minimize,
    MLPResponse,
    Normal,
    Real,
    Uniform,
    UnsupportedOptimizer,
    tree,
)
from nestgrad_conformance import problems
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.following import follow
from nestgrad_conformance.learned import drawn_response, responding
from nestgrad_conformance.problems import Case
from nestgrad_conformance.problems.ridge import RidgeInner, SquaredError
from nestgrad_conformance.problems.tanh_network import DecayedNetworkLoss, NetworkLoss, network_params
from nestgrad_conformance.registry import check

_ACROSS = GatedResponse(axes=(("hidden/0", 1),))  # a square leaf, whose axes differ in nothing else
_RESPONSES = (LinearResponse(), FactorisedResponse(2), MLPResponse(4), _ACROSS)
_SPECS = ("LinearResponse", "FactorisedResponse", "MLPResponse", "GatedResponse", "Minimize")
ad: Any = autograd  # it makes its names at import, out of a type checker's sight


def _vector(hparams: Any) -> np.ndarray:
    """λ of the network: leaves by sorted path, "decay" before "gain"."""
    return np.append(hparams["decay"], hparams["gain"])


def _hparams(lam: Any) -> Any:
    """The inverse, which autograd differentiates."""
    return {"gain": lam[1:], "decay": lam[0]}


@check(*_SPECS, "respond")
def responses_equal_their_definition(ctx: Context, draw: Draw) -> None:
    """w_φ(λ) by the kind of the response, entries in the order of sorted paths, gates along their axis."""
    response, case = draw.pick(_RESPONSES, "response"), problems.tanh_network(draw)
    phi = ctx.seen(drawn_response(draw, response, case.params, 3))
    backend: Any = ctx.harness.backend
    found = backend.respond(response, ctx.arrays(phi), ctx.arrays(case.hparams))
    wanted = tree.map(np.asarray, responding(response, phi, _vector(ctx.seen(case.hparams))))
    size = np.ones(sum(np.size(leaf) for leaf in tree.leaves(wanted)))
    ctx.close(found, wanted, 1e-5 if ctx.dtype == "float32" else 1e-12, what="params", scale=size)


@check(*_SPECS)
def a_response_gives_its_total_derivative(ctx: Context, draw: Draw) -> None:
    """direct = ∂L_out/∂λ, indirect = (∂w_φ/∂λ)ᵀ ∂L_out/∂w at w_φ(λ); inner_optimality = |∇_w L_in| there."""
    response, case = draw.pick(_RESPONSES, "response"), problems.tanh_network(draw)
    phi, lam = ctx.seen(drawn_response(draw, response, case.params, 3)), _vector(ctx.seen(case.hparams))
    found = ctx.by_method(case.with_(params=phi), response)
    inner, outer = case.inner_loss(REFERENCE.xp), case.outer_loss(REFERENCE.xp)
    inner_batch, outer_batch = ctx.seen(case.inner_batch), ctx.seen(case.outer_batch)
    weights, hparams = tree.map(np.asarray, responding(response, phi, lam)), _hparams(lam)
    direct = _hparams(ad.grad(lambda x: outer(weights, _hparams(x), outer_batch))(lam))
    indirect = _hparams(ad.grad(lambda x: outer(responding(response, phi, x), hparams, outer_batch))(lam))
    v = ad.grad(lambda p: outer(p, hparams, outer_batch))(weights)
    slope = ad.grad(lambda p: inner(p, hparams, inner_batch))(weights)
    limit = 1e-4 if ctx.dtype == "float32" else 1e-10
    size = np.full(3, max(float(np.linalg.norm(_flat(direct))), float(np.linalg.norm(_flat(indirect))), 1e-2))
    ctx.close(found.direct, direct, limit, what="direct", scale=size)
    ctx.close(found.indirect, indirect, limit, what="indirect", scale=size)
    ctx.close(found.total, tree.map(np.add, direct, indirect), limit, what="total", scale=size)
    each = np.full(_flat(weights).size, 1.0 + np.linalg.norm(_flat(weights)))
    ctx.close(found.params, weights, limit, what="params", scale=each)
    ctx.close(found.adjoint, v, limit, what="adjoint", scale=np.full(each.size, np.linalg.norm(_flat(v)) + 1e-3))
    wanted = float(np.linalg.norm(_flat(slope)))
    error = abs(float(found.stats.inner_optimality) - wanted)
    assert error <= limit * (1.0 + wanted), f"inner_optimality {found.stats.inner_optimality}, expected {wanted}"


@check(*_SPECS, "Implicit", "Dense")
def an_exact_response_gives_the_implicit_hypergradient(ctx: Context, draw: Draw) -> None:
    """Where the best response is affine, the linear or gated one equal to it gives the implicit theorem's number."""
    response = draw.pick((LinearResponse(), GatedResponse()), "response")
    case, phi, weights = _affine(ctx, draw, response)
    found = ctx.numpy(ctx.by_method(case.with_(params=phi), response).total)
    exact = ctx.numpy(ctx.hypergradient(case.with_(params=weights), Dense()).total)
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    error, size = np.linalg.norm(_flat(found) - _flat(exact)), np.linalg.norm(_flat(exact)) + 1e-2
    assert error <= limit * size, f"error {error:.3g}, limit {limit * size:.3g}"


@check(*_SPECS, "Dense", "verify")
def a_response_is_verified_at_its_own_weights(ctx: Context, draw: Draw) -> None:
    """verify compares it with the exact number: it trusts the best response, and not one whose slope is half of it."""
    response = draw.pick((LinearResponse(), GatedResponse()), "response")
    case, phi, _ = _affine(ctx, draw, response)
    half = {**phi, "weight": tree.map(lambda leaf: 0.5 * leaf, phi["weight"])}
    backend: Any = ctx.harness.backend
    problem, _, hparams = ctx.point(case)
    errors: list[float] = []
    for each in (phi, half):
        report = backend.verify(problem, ctx.arrays(each), hparams, method=response, rtol=1e-2, **ctx.call(case))
        errors.append(float(report.relative_error))
    assert errors[0] <= 1e-3 < errors[1], f"relative errors {errors}, expected at most 1e-3 and more"


@check(*_SPECS)
def a_response_connects_no_hyperparameter_by_itself(ctx: Context, draw: Draw) -> None:
    """One that neither loss depends on is refused by name, and φ of another response by its shape."""
    case, response = problems.tanh_network(draw), draw.pick((LinearResponse(), GatedResponse()), "response")
    phi = drawn_response(draw, response, case.params, 4)
    idle = case.with_(params=phi, hparams={**case.hparams, "idle": draw.normal()})
    with refused(DisconnectedHyperparameter, "idle"):
        ctx.by_method(idle, response)
    with refused(InvalidInput, "init_response"):
        ctx.by_method(case.with_(params=phi), response)


@functools.cache
def _tuner(ctx: Context, number: int) -> Any:
    """One tuner for all examples of a kind, so that a compiling backend compiles once."""
    response, distribution, samples, response_steps, guard = _TUNERS[number]
    harness = ctx.harness
    tuners: Any = harness.backend
    assert harness.optim is not None
    assert harness.adam is not None
    spaces = {"gain": Log(ctx.arrays(np.ones(2))), "decay": Real(0.5, clip=(-3.0, 0.6))}
    problem = BilevelProblem(Minimize(DecayedNetworkLoss(harness.xp)), NetworkLoss(harness.xp))
    return tuners.HyperTraining(
        problem,
        hparams=spaces,
        response=response,
        optimizer=harness.optim.sgd(0.05) if guard is None else harness.optim.adam(0.01),
        outer_optimizer=harness.adam(0.05),
        distribution=distribution,
        samples=samples,
        response_steps=response_steps,
        guard=guard,
    )


_TUNERS = (
    (LinearResponse(), Normal(variance=0.25), 2, None, None),
    (FactorisedResponse(2), Uniform(low=-1.0, high=0.5), 3, 2, None),
    (MLPResponse(4), Normal(variance=0.25, mean=0.2), 2, None, Guard(max_norm=1e-3)),
    (_ACROSS, Normal(variance=0.25), 2, None, None),
)


@check("HyperTraining", "Minimize", "optim", "adam")
def hyper_training_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Joint and in two phases, with noise that is given: response, hyperparameters and hypergradients at every step."""
    number = draw.pick(range(len(_TUNERS)), "tuner")
    response, distribution, samples, _, _ = _TUNERS[number]
    phi = drawn_response(draw, response, network_params(draw, 2, 2), 3)
    leaves = {"gain": 0.2 * draw.normal(2), "decay": np.asarray(0.4 + 0.1 * draw.normal())}
    steps = [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(4)]
    made = draw.normal if isinstance(distribution, Normal) else lambda *shape: np.asarray(draw.rng.uniform(size=shape))
    noises = [made(samples, 3) for _ in steps]
    beside = {"params": phi}
    follow(ctx, lambda c: _tuner(c, number), phi["bias"], leaves, steps, beside=beside, noises=noises, key=0)


@check("HyperTraining", "Minimize", "optim", "adam")
def hyper_training_draws_by_its_seed_and_step(ctx: Context, draw: Draw) -> None:
    """Without noise given: the same state and step give the same numbers, another seed or step others."""
    tuner, batches = _tuner(ctx, 0), ((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4)))
    params, given = network_params(draw, 2, 2), tuple(map(ctx.arrays, batches))

    def loss(state: Any) -> float:
        return float(np.asarray(ctx.harness.to_numpy(tuner.step(state, *given)[1].inner_loss)))

    begun = tuner.init(ctx.arrays(params), key=3)
    later = {**begun, "step": tuner.step(begun, *given)[0]["step"]}
    again, other = loss(tuner.init(ctx.arrays(params), key=3)), loss(tuner.init(ctx.arrays(params), key=4))
    assert loss(begun) == again, f"{loss(begun)} and {again} by the same seed"
    assert loss(begun) not in {other, loss(later)}, "the same noise by another seed, or at another step"


@check("HyperTraining", "Minimize", "optim", "adam", slow=True)
def hyper_training_refuses_noise_and_optimizers_by_name(ctx: Context, draw: Draw) -> None:
    """Noise has a row for each sample and a column for each entry; an optimizer is a rule, and no number."""
    tuner, batches = _tuner(ctx, 0), ((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4)))
    state, given = tuner.init(ctx.arrays(network_params(draw, 2, 2)), key=0), tuple(map(ctx.arrays, batches))
    for shape in ((1, 3), (2, 2)):
        with refused(InvalidInput, "noise"):
            tuner.step(state, *given, noise=ctx.arrays(draw.normal(*shape)))
    tuners: Any = ctx.harness.backend
    assert ctx.harness.adam is not None
    with refused(UnsupportedOptimizer, "optimizer"):
        tuners.HyperTraining(
            tuner.problem,
            hparams=tuner.spaces,
            response=LinearResponse(),
            optimizer=0.05,
            outer_optimizer=ctx.harness.adam(0.05),
        )


class _Squared:
    """½ (w - λ²)² inside, w outside."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * self.xp.sum((params["w"] - hparams["lam"] ** 2) ** 2)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Squared)

    def __hash__(self) -> int:
        return hash(_Squared)


class _Itself(_Squared):
    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.xp.sum(params["w"])

    def __hash__(self) -> int:
        return hash(_Itself)


@functools.cache
def _squared_tuner(ctx: Context) -> Any:
    tuners: Any = ctx.harness.backend
    assert ctx.harness.optim is not None
    assert ctx.harness.adam is not None
    return tuners.HyperTraining(
        BilevelProblem(Minimize(_Squared(ctx.harness.xp)), _Itself(ctx.harness.xp)),
        hparams={"lam": Real(ctx.arrays(np.ones(1)))},
        response=LinearResponse(),
        optimizer=ctx.harness.optim.sgd(0.5),
        outer_optimizer=ctx.harness.adam(0.01),
        distribution=Normal(variance=0.25),
    )


@check("HyperTraining", "Minimize", "optim", "adam")
def a_local_response_has_its_known_bias(ctx: Context, draw: Draw) -> None:
    """On ½(w - λ²)² noise of ±σ leaves the response λ̂² + σ² + 2 λ̂ (λ - λ̂) in place: its slope right, its value not."""
    tuner, centre = _squared_tuner(ctx), ctx.seen(1.0 + 0.3 * draw.normal(1))
    phi = {"bias": {"w": 0.25 - centre**2}, "weight": {"w": 2.0 * centre[:, None]}}
    state = tuner.init(ctx.arrays({"w": np.zeros(1)}), key=0)
    state = {**state, "params": ctx.arrays(phi), "hparams": ctx.arrays({"lam": centre})}
    batch, noise = ctx.arrays(np.zeros(1)), ctx.arrays(np.array([[1.0], [-1.0]]))
    after, info = tuner.step(state, batch, batch, noise=noise)
    limit = 1e-5 if ctx.dtype == "float32" else 1e-12
    ctx.close(after["params"], phi, limit, what="params", scale=np.full(2, 3.0))
    ctx.close(info.hypergradient.total, {"lam": 2.0 * centre}, limit, what="total", scale=np.ones(1))


class _Scaled:
    """Gradient descent on φ of a linear response in units of the noise: its weight's rate is over the variance."""

    def init(self, params: Any) -> Any:
        return {}

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        weight = tree.map(lambda slope: -0.2 / _NARROW * slope, grads["weight"])
        return {"bias": tree.map(lambda slope: -0.2 * slope, grads["bias"]), "weight": weight}, state


_NARROW, _STEPS = 1e-6, 400


@functools.cache
def _ridge_tuner(ctx: Context, shared: bool) -> Any:
    tuners: Any = ctx.harness.backend
    assert ctx.harness.adam is not None
    return tuners.HyperTraining(
        BilevelProblem(Minimize(RidgeInner(ctx.harness.xp)), SquaredError(ctx.harness.xp)),
        hparams={"decay": Real(ctx.arrays(np.zeros(() if shared else 3)))},
        response=LinearResponse(),
        optimizer=_Scaled(),
        outer_optimizer=ctx.harness.adam(0.05),
        distribution=Normal(variance=_NARROW, mean=0.0),
        samples=8,
        response_steps=_STEPS,
    )


@check("HyperTraining", "LinearResponse", "Minimize", "optim", "adam", slow=True, dtypes=("float64",))
def a_response_learned_from_nothing_gives_the_implicit_hypergradient(ctx: Context, draw: Draw) -> None:
    """Of a ridge regression with one decay and with one for each weight, to 1e-3 of the closed form."""
    shared = draw.pick((True, False), "one decay")
    case = problems.ridge(draw, 3, shared=shared)
    tuner, batches = _ridge_tuner(ctx, shared), (ctx.arrays(case.inner_batch), ctx.arrays(case.outer_batch))
    state = tuner.init(ctx.arrays({"w": np.zeros(3)}), key=0)
    for _ in range(_STEPS):
        state, _ = tuner.step(state, *batches)
    x, y = case.inner_batch
    leaves = {"decay": np.zeros(() if shared else 3)}
    solved = {"w": np.linalg.solve(x.T @ x / len(x) + np.eye(3), x.T @ y / len(x))}
    exact = problems.ridge_closed_form(case.with_(params=solved, hparams=leaves))
    learned = case.with_(params=ctx.numpy(state["params"]), hparams=leaves)
    found = ctx.numpy(ctx.by_method(learned, LinearResponse()).total)
    error, size = np.linalg.norm(_flat(found) - _flat(exact)), np.linalg.norm(_flat(exact)) + 1e-2
    assert error <= 1e-3 * size, f"error {error:.3g}, limit {1e-3 * size:.3g}"


def _affine(ctx: Context, draw: Draw, kind: Any) -> tuple[Case, Any, Any]:
    """(a quadratic case, the φ of its best response, its minimiser)."""
    case = problems.quadratic(draw, n=3, m=2)
    batch: Any = ctx.seen(case.inner_batch)
    response = np.linalg.solve(batch["H"], np.column_stack([batch["C"], batch["c"]]))
    slope = {"weight": {"w": response[:, :-1]}}
    if isinstance(kind, GatedResponse):
        slope = {"weight": {"w": np.ones(3)}, "gates": {"w": response[:, :-1]}}
    phi = {"bias": {"w": response[:, -1]}, **slope}
    return case, phi, {"w": response[:, -1] + response[:, :-1] @ ctx.seen(case.hparams)["shift"]}


def _flat(values: Any) -> np.ndarray:
    return np.concatenate([np.reshape(np.asarray(leaf), -1) for leaf in tree.leaves(values)])
