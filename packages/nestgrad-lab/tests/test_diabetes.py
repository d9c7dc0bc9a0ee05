"""Penalties on scikit-learn's diabetes data: hypergradients against differences of the problem solved again."""

import importlib

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet

import nestgrad as core

STEP = 1e-5


def data():
    """Standardised features and target, half for fitting and half for the outer loss."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / x.std(0), (y[order] - y.mean()) / y.std()
    return (x[:221], y[:221]), (x[221:], y[221:])


def fit(train, l1, l2):
    """argmin ½ mean (Xw - y)² + e^l1 |w|₁ + ½ e^l2 |w|² (e^l2 = 0 for None), by coordinate descent to the end."""
    first, second = np.exp(l1), 0.0 if l2 is None else np.exp(l2)
    total = first + second
    model = ElasticNet(total, l1_ratio=first / total, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return model.fit(*train).coef_


def backend_arrays(backend):
    if backend == "torch":
        torch = pytest.importorskip("torch")
        return lambda values: torch.as_tensor(np.asarray(values, np.float64))
    jax = pytest.importorskip("jax")
    return lambda values: jax.numpy.asarray(values, "float64")


@pytest.fixture(autouse=True)
def _double_precision(backend):
    if backend != "jax":
        yield
        return
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield


def half_mean_square(w, hparams, batch):
    return 0.5 * ((batch[0] @ w - batch[1]) ** 2).mean()


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("penalty", ["lasso", "elastic net"])
def test_hypergradients_of_penalties_equal_differences(backend, penalty):
    ng = importlib.import_module(f"nestgrad_{backend}")
    arrays, (train, valid) = backend_arrays(backend), data()
    hparams = {"l1": -2.5} if penalty == "lasso" else {"l1": -3.0, "l2": -2.0}

    def outer(values):
        x, y = valid
        w = fit(train, values["l1"], values.get("l2"))
        return 0.5 * np.mean((x @ w - y) ** 2)

    def prox(h):
        return ng.prox.elastic_net(np.e ** h["l1"], np.e ** h["l2"]) if "l2" in h else ng.prox.lasso(np.e ** h["l1"])

    w = fit(train, hparams["l1"], hparams.get("l2"))
    assert 0 < np.count_nonzero(w) < w.size
    problem = core.BilevelProblem(core.ProximalGradient(half_mean_square, prox, 0.1), half_mean_square)
    found = ng.hypergradient(
        problem,
        arrays(w),
        {name: arrays(value) for name, value in hparams.items()},
        method=core.Implicit(solver=core.GMRES(rtol=1e-12, max_steps=30), inner_tol=1e-9),
        inner_batch=tuple(map(arrays, train)),
        outer_batch=tuple(map(arrays, valid)),
    )
    for name, value in hparams.items():
        ahead, behind = (outer({**hparams, name: value + sign * STEP}) for sign in (1.0, -1.0))
        difference = (ahead - behind) / (2 * STEP)
        assert float(found.total[name]) == pytest.approx(difference, rel=1e-5), name
