"""Problems that fail in known ways, and a call of them in one line."""

from functools import partial

import torch

import nestgrad_torch as ng

D = torch.float64
W = torch.tensor([0.3, -1.0, 2.0], dtype=D)
X = torch.randn(7, 3, dtype=D, generator=torch.Generator().manual_seed(0))
Y = torch.randn(7, dtype=D, generator=torch.Generator().manual_seed(1))
DENSE = ng.Implicit(solver=ng.Dense())


def loss(params, hparams, batch):
    return ((X @ params["w"] - Y) ** 2).mean() + hparams["decay"] * (params["w"] ** 2).sum()


def quadratic(diagonal):
    """½ Σ d w² with curvatures d, and a term in the hyperparameter."""
    d = torch.tensor(diagonal, dtype=D)
    return lambda params, hparams, batch: 0.5 * (d * params["w"] ** 2).sum() + hparams["decay"] * params["w"].sum()


def linear(matrix):
    """The root of M w + decay."""
    m = torch.tensor(matrix, dtype=D)
    return ng.Root(lambda params, hparams, batch: {"w": m @ params["w"] + hparams["decay"]})


def sgd(hparams):
    return ng.optim.sgd(0.1, weight_decay=hparams["decay"])


def run(inner=loss, params=None, hparams=None, method=DENSE, outer=loss, function=ng.hypergradient, **more):
    inner = ng.Minimize(inner) if callable(inner) else inner
    params = {"w": W} if params is None else params
    hparams = {"decay": 0.3} if hparams is None else hparams
    given = {} if function is ng.check else {"method": method}
    return function(ng.BilevelProblem(inner=inner, outer_loss=outer), params, hparams, **given, **more)


def solved(solver, inner=loss, **more):
    return partial(run, inner, method=ng.Implicit(solver=solver), **more)


class Mixing:
    """A rule whose update mixes the entries of the gradient, so that no diagonal makes J symmetric."""

    def init(self, params):
        return {}

    def update(self, grads, state, params):
        return {"w": -0.1 * torch.cumsum(grads["w"], 0)}, state


def no_path(params, hparams, batch):
    return (params["w"] ** 2).sum()


def cut(params, hparams, batch):
    return loss(params, {"decay": hparams["decay"].detach()}, batch)


def rounded(params, hparams, batch):
    return loss(params, {"decay": torch.round(hparams["decay"])}, batch)


def clamped(params, hparams, batch):
    return loss(params, {"decay": hparams["decay"].clamp(0.5, 1.0)}, batch)


def one_pass(**changed):
    settings = {
        "hparams": {"decay": ng.Log(0.3)},
        "every": 1,
        "method": ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0)),
        "outer_optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    problem = ng.BilevelProblem(inner=changed.pop("inner", ng.WeightUpdate(loss, sgd)), outer_loss=loss)
    return ng.OnePass(problem, **(settings | changed))


def exploding():
    scale = iter([1.0] * 6 + [1e9])

    def outer(params, hparams, batch):
        return loss(params, hparams, batch) * next(scale)

    tuner = ng.OnePass(
        ng.BilevelProblem(inner=ng.WeightUpdate(loss, sgd), outer_loss=outer),
        hparams={"decay": ng.Real(0.3)},
        every=1,
        method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0)),
        outer_optimizer=partial(torch.optim.SGD, lr=1e-12),
    )
    state = tuner.init({"w": W})
    for _ in range(7):
        state, _ = tuner.step(state, None, None)


def descent_out_of_space():
    update = ng.WeightUpdate(loss_of_weights, lambda h: ng.optim.sgd(h["lr"]))
    tuner = ng.HypergradientDescent(update, hparams={"lr": ng.Log(2.5)}, step_size=50.0, rule="multiplicative")
    state = tuner.init({"w": W})
    for _ in range(3):
        state, _ = tuner.step(state, None)


def loss_of_weights(params, hparams, batch):
    return ((X @ params["w"] - Y) ** 2).mean()


def broadcast(params, hparams, batch):
    return ((X @ params["w"][:, None] - Y) ** 2).mean() + hparams["decay"] * (params["w"] ** 2).sum()


def lasso_at_the_edge():
    inner = ng.ProximalGradient(
        lambda p, h, b: 0.5 * ((p["w"] - torch.tensor([2.0, 0.3, -1.0], dtype=D)) ** 2).sum(),
        lambda h: ng.prox.lasso(h["decay"]),
        1.0,
    )
    run(inner, params={"w": torch.tensor([1.7, 0.0, -0.7], dtype=D)}, outer=loss_of_weights)


def complex_loss(params, hparams, batch):
    return loss(params, hparams, batch) * 1j


UNROLLED = ng.Unrolled(num_steps=2)
ITERATIVE = {"rtol": 1e-12, "max_steps": 1}
KEYED = ng.RandomNeumann(num_terms=3, step_size=0.1)
EMPTY = torch.ones(0, 3, dtype=D)
