"""The reference against an oracle that shares no code with it: 1,000 random problems, to 1e-12."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autograd.numpy as anp
import complex_step_oracle as oracle
import numpy as np
import pytest

import nestgrad_reference as ng

LIMIT = 1e-12
CASES = {"network": 334, "ridge": 333, "logistic": 333}
Array = np.ndarray


def network_loss(params, hparams, batch):
    (x, y), out = batch, params["out"]
    active = anp.tanh(x @ params["hidden"]["W"] + params["hidden"]["b"])
    return anp.mean((active @ (hparams["gain"] * out["v"]) + out["c"] - y) ** 2)


def ridge_loss(params, hparams, batch):
    x, y = batch
    return 0.5 * anp.mean((x @ params["w"] - y) ** 2)


def margins(params, batch):
    x, y = batch
    return y * (x @ params["w"] + params["b"])


def logistic_loss(params, hparams, batch):
    return anp.mean(anp.log1p(anp.exp(-margins(params, batch))))


def weighted_logistic_loss(params, hparams, batch):
    return anp.mean(anp.exp(hparams["rows"]) * anp.log1p(anp.exp(-margins(params, batch))))


def decayed(loss: Callable[..., Any]) -> Callable[..., Any]:
    def with_decay(params, hparams, batch):
        flat = anp.concatenate([anp.reshape(leaf, -1) for leaf in ng.tree.leaves(params)])
        return loss(params, hparams, batch) + 0.5 * anp.sum(anp.exp(hparams["decay"]) * flat**2)

    return with_decay


def tied(loss: Callable[..., Any], tie: float) -> Callable[..., Any]:
    """The outer loss: validation + ½ tie |λ|², a direct term in every hyperparameter unless tie is 0."""

    def outer(params, hparams, batch):
        return loss(params, hparams, batch) + 0.5 * tie * sum(anp.sum(x**2) for x in ng.tree.leaves(hparams))

    return outer


@dataclass(frozen=True)
class Drawn:
    """One random problem, as the reference takes it (trees) and as the oracle takes it (flat arrays by name)."""

    model: oracle.Model
    losses: tuple[Any, Any]
    params: Any
    hparams: Any
    batches: tuple[Any, Any]
    velocity: Any
    tie: float


def regression(rng: np.random.Generator, columns: int) -> tuple[Any, Any]:
    """Training and validation rows, of different numbers."""
    return tuple(
        (rng.normal(size=(rows, columns)), rng.normal(size=rows)) for rows in rng.choice([3, 5, 9, 12], 2, False)
    )


def draw_network(rng: np.random.Generator) -> tuple[Any, ...]:
    inputs, units = [(1, 1), (2, 1), (1, 2)][rng.integers(3)]
    params = {
        "hidden": {"W": rng.normal(size=(inputs, units)), "b": rng.normal(size=units)},
        "out": {"v": rng.normal(size=units), "c": rng.normal(size=())},
    }
    hparams = {"gain": rng.normal(1.0, 0.3, units), "decay": rng.normal(-1.0, 0.5, ())}
    losses = decayed(network_loss), network_loss
    return oracle.network(units), losses, params, hparams, regression(rng, inputs)


def draw_ridge(rng: np.random.Generator) -> tuple[Any, ...]:
    n = int(rng.integers(1, 9))
    hparams = {"decay": rng.normal(-1.0, 0.5, [(), n][rng.integers(2)])}
    return oracle.ridge(), (decayed(ridge_loss), ridge_loss), {"w": rng.normal(size=n)}, hparams, regression(rng, n)


def draw_logistic(rng: np.random.Generator) -> tuple[Any, ...]:
    n = int(rng.integers(2, 9))
    batches = tuple((x, np.where(y > 0.0, 1.0, -1.0)) for x, y in regression(rng, n - 1))
    hparams = {"rows": rng.normal(0.0, 0.3, len(batches[0][1])), "decay": rng.normal(-1.0, 0.5, ())}
    params = {"w": rng.normal(size=n - 1), "b": rng.normal(size=())}
    return oracle.logistic(), (decayed(weighted_logistic_loss), logistic_loss), params, hparams, batches


FAMILIES = {"network": draw_network, "ridge": draw_ridge, "logistic": draw_logistic}


def draw(rng: np.random.Generator, family: str) -> Drawn:
    """A problem of the family; in two of three it is an SGD update, in half of these with a rate for each weight."""
    model, losses, params, hparams, batches = FAMILIES[family](rng)
    velocity = None
    if rng.integers(3):
        rate = 0.3 * np.exp(rng.normal(0.0, 0.5))
        per_parameter = ng.tree.map(lambda p: rate * np.exp(rng.normal(0.0, 0.5, p.shape)), params)
        settings = {"momentum": rng.uniform(0.0, 0.95, ()), "weight_decay": 0.1 * np.exp(rng.normal(size=()))}
        lr = [np.asarray(rate), per_parameter][rng.integers(2)]
        hparams = {**hparams, "lr": lr, **{name: np.asarray(value) for name, value in settings.items()}}
        velocity = ng.tree.map(lambda p: rng.normal(size=p.shape) * warm, params) if (warm := rng.integers(2)) else 0.0
    return Drawn(model, losses, params, hparams, batches, velocity, [0.0, 0.3][rng.integers(2)])


def flat(values: Any) -> Array:
    return np.concatenate([np.reshape(leaf, -1) for leaf in ng.tree.leaves(values)])


def flat_by_name(hparams: Any) -> dict[str, Array]:
    """Each hyperparameter as one array: a tree of rates as a vector like w."""
    return {name: flat(value) if isinstance(value, dict) else np.asarray(value) for name, value in hparams.items()}


def at(drawn: Drawn) -> oracle.Derivatives:
    w = flat(drawn.params)
    residual = drawn.model.gradient
    if drawn.velocity is not None:
        residual = oracle.sgd(drawn.model, flat(drawn.velocity) * np.ones(w.size))
    values = flat_by_name(drawn.hparams)
    return oracle.derivatives(residual, drawn.model.validation, w, values, drawn.batches, drawn.tie)


def solvers(rng: np.random.Generator, point: oracle.Derivatives) -> Iterator[tuple[Any, Array]]:
    """The specs that the point's Jacobian allows, each with the oracle's p."""
    k, size = int(rng.integers(1, 9)), float(np.linalg.norm(point.jacobian, 2))
    step = float(rng.uniform(0.3, 1.5)) / size
    yield ng.Neumann(num_terms=k, step_size=step), oracle.neumann(point, k, step)
    if size < 2.0:  # else the terms grow
        yield ng.Neumann(num_terms=k, step_size=1.0), oracle.neumann(point, k, 1.0)
    yield ng.Identity(scale=step), step * point.slope
    if np.linalg.cond(point.jacobian) < 100.0:  # 1e-12 leaves no room for more
        yield ng.Dense(), oracle.dense(point)
        lopsided = np.linalg.norm(point.jacobian - point.jacobian.T) > 1e-9 * size
        if not lopsided and np.linalg.eigvalsh(point.jacobian)[0] > 0.0:
            k = int(rng.integers(1, min(point.slope.size, 4) + 1))
            yield ng.CG(rtol=0.0, max_steps=k), oracle.krylov(point, k)


def reference(drawn: Drawn, solver: Any) -> ng.HyperGradient:
    inner, outer = drawn.losses
    opt_state = None
    if drawn.velocity is None:
        problem = ng.BilevelProblem(ng.Minimize(inner), tied(outer, drawn.tie))
    else:
        update = ng.WeightUpdate(inner, lambda h: ng.optim.sgd(h["lr"], h["momentum"], h["weight_decay"]))
        problem = ng.BilevelProblem(update, tied(outer, drawn.tie))
        opt_state = {"trace": drawn.velocity} if isinstance(drawn.velocity, dict) else None
    return ng.hypergradient(
        problem,
        drawn.params,
        drawn.hparams,
        method=ng.Implicit(solver=solver),
        inner_batch=drawn.batches[0],
        outer_batch=drawn.batches[1],
        opt_state=opt_state,
        throw=False,
    )


def worst_error(drawn: Drawn, found: ng.HyperGradient, point: oracle.Derivatives, p: Array) -> float:
    """The largest error of total, direct or indirect in any hyperparameter, relative to ||B|ᵀ|p|| + |direct| there."""
    indirect, scale = -point.mixed.T @ p, np.abs(point.mixed).T @ np.abs(p)
    right = {"total": point.direct + indirect, "direct": point.direct, "indirect": indirect}
    worst = abs(float(found.outer_loss) - point.outer_loss) / max(1.0, abs(point.outer_loss))
    ends = np.cumsum([leaf.size for leaf in ng.tree.leaves(drawn.hparams)])
    for part, expected in right.items():
        actual = flat(getattr(found, part))
        for group in np.split(np.arange(actual.size), ends[:-1]):
            size = np.linalg.norm(scale[group]) + np.linalg.norm(point.direct[group])
            error = np.linalg.norm(actual[group] - expected[group])
            worst = max(worst, float(error / size) if size else float(error))
    return worst


@pytest.mark.parametrize("family", list(CASES))
def test_hypergradients_equal_complex_steps_and_dense_algebra(family, record_property):
    rng = np.random.default_rng([20, *family.encode()])
    worst, used = (0.0, "nothing"), dict.fromkeys(["Neumann", "Identity", "Dense", "CG"], 0)
    for case in range(CASES[family]):
        drawn = draw(rng, family)
        point = at(drawn)
        choices = list(solvers(rng, point))
        solver, p = choices[rng.integers(len(choices))]
        error = worst_error(drawn, reference(drawn, solver), point, p)
        used[type(solver).__name__] += 1
        worst = max(worst, (error, f"case {case} with {solver}"))
    summary = f"{family}: worst relative error {worst[0]:.2g} in {worst[1]}, limit {LIMIT:g}; {used}"
    record_property("worst relative error", worst[0])
    print(summary)  # noqa: T201  (pytest -rP shows the figure)
    assert worst[0] <= LIMIT, summary
    assert min(used.values()) >= 5, f"a solver is hardly tried: {used}"


def test_a_thousand_problems_are_compared():
    assert sum(CASES.values()) == 1000


def test_the_oracle_uses_numpy_alone():
    code = "import sys, complex_step_oracle; print([m for m in sys.modules if m.split('.')[0] in %r])"
    names = ["nestgrad", "nestgrad_reference", "autograd", "scipy", "torch", "jax"]
    folder = Path(oracle.__file__).parent
    done = subprocess.run([sys.executable, "-c", code % names], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
