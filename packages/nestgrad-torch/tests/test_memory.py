"""A thousand outer steps leave no tensor, no graph and no memory behind."""

import gc
import pathlib
import sys
from functools import partial

import pytest
import torch

import nestgrad_torch as ng

D = torch.float64
X = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
WARM, STEPS = 100, 1000


def loss(params, hparams, batch):
    return ((X @ params["w"] - 1.0) ** 2).mean() + hparams["wd"] * (params["w"] ** 4).sum()


def sgd(hparams):
    return ng.optim.sgd(hparams["lr"], momentum=0.5)


UPDATE = ng.WeightUpdate(loss, sgd)
WHOLE = ng.WeightUpdate(loss, sgd, carry="weights_and_state")
BACK = ng.WeightUpdate(loss, lambda h: ng.optim.reversible_sgd(h["lr"], 0.9))
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.1))

METHODS = {
    "neumann": (ng.Minimize(loss), SERIES, {}),
    "cg": (ng.Minimize(loss), ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=9)), {}),
    "minres": (ng.Minimize(loss), ng.Implicit(solver=ng.MINRES(rtol=1e-6, max_steps=9)), {}),
    "lsmr": (UPDATE, ng.Implicit(solver=ng.LSMR(rtol=1e-6, max_steps=99)), {}),
    "normal cg": (UPDATE, ng.Implicit(solver=ng.NormalCG(rtol=1e-6, max_steps=99)), {}),
    "gmres": (WHOLE, ng.Implicit(solver=ng.GMRES(rtol=1e-6, max_steps=20)), {}),
    "bicgstab": (UPDATE, ng.Implicit(solver=ng.BiCGSTAB(rtol=1e-6, max_steps=20)), {}),
    "dense": (UPDATE, ng.Implicit(solver=ng.Dense()), {}),
    "nystrom": (ng.Minimize(loss), ng.Implicit(solver=ng.Nystrom(rank=2, damping=0.1)), {"key": 0}),
    "random": (UPDATE, ng.Implicit(solver=ng.RandomNeumann(num_terms=3, step_size=0.1)), {"key": 0}),
    "reverse": (UPDATE, ng.Unrolled(num_steps=3), {}),
    "forward": (UPDATE, ng.Unrolled(num_steps=2, mode="forward"), {}),
    "reversible": (BACK, ng.Unrolled(num_steps=2, mode="reversible"), {}),
    "checkpointed": (UPDATE, ng.Unrolled(num_steps=4, checkpoint_every="sqrt"), {}),
    "darts": (ng.Minimize(loss), ng.DARTS(step_size=0.1), {}),
    "sama": (ng.WeightUpdate(loss, lambda h: ng.optim.sgd(0.05)), ng.SAMA(), {}),
    "penalty": (ng.Minimize(loss), ng.Penalty(multiplier=2.0, num_steps=2, step_size=0.01), {}),
    "bome": (ng.Minimize(loss), ng.BOME(num_steps=2, step_size=0.01), {}),
    "pes": (UPDATE, ng.PES(num_steps=2, truncation=1, sigma=0.01, num_pairs=1), {"key": 0}),
}


def outer_loop(name):
    """hparams move by the hypergradient; an earlier adjoint starts the next solve where it may."""
    inner, method, given = METHODS[name]
    alone = isinstance(inner, ng.Minimize) or isinstance(method, ng.SAMA)
    only = {"wd": torch.tensor(0.1, dtype=D)} if alone else None
    hparams = {"wd": torch.tensor(0.1, dtype=D), "lr": torch.tensor(0.05, dtype=D)} if only is None else only
    problem, params = ng.BilevelProblem(inner=inner, outer_loss=loss), {"w": torch.ones(3, dtype=D)}
    traits = ng.TRAITS.get(type(getattr(method, "solver", None)), ng.Traits())

    def step(state):
        warm = {"warm_start": state[1]} if traits.warm_start and state[1] is not None else {}
        found = ng.hypergradient(problem, params, state[0], method=method, throw=False, **given, **warm)
        moved = ng.tree.map(lambda h, g: h - 1e-9 * g, state[0], found.total)
        return moved, found.adjoint

    return step, (hparams, None)


def tuner(name):
    spaces = {"lr": ng.Log(0.05)} if name == "descent" else {"lr": ng.Log(0.05), "wd": ng.Log(0.1)}
    outer = partial(torch.optim.Adam, lr=1e-6)
    problem = ng.BilevelProblem(inner=UPDATE, outer_loss=loss)
    if name == "one pass":
        made = ng.OnePass(problem, hparams=spaces, every=2, method=SERIES, outer_optimizer=outer)
    elif name == "real time":
        made = ng.RealTime(problem, hparams=spaces, every=2, decay=0.9, outer_optimizer=outer)
    else:
        fixed = ng.WeightUpdate(lambda p, h, b: loss(p, {"wd": 0.1}, b), sgd)
        made = ng.HypergradientDescent(fixed, hparams=spaces, step_size=1e-9)
    batches = (None,) if name == "descent" else (None, None)
    return lambda state: made.step(state, *batches)[0], made.init({"w": torch.ones(3, dtype=D)})


def response(name):
    solved = ng.best_response(
        lambda h, b: {"w": h["x"] ** 2},
        inner=ng.Minimize(lambda p, h, b: ((p["w"] - h["x"] ** 2) ** 2).sum()),
        method=ng.Implicit(solver=ng.Dense()),
    )

    def step(x):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(solved({"x": leaf})["w"].sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), leaf)
        return x - 1e-9 * (slope + second).detach()

    return step, torch.ones(2, dtype=D)


LOOPS = {
    **dict.fromkeys(METHODS, outer_loop),
    **dict.fromkeys(("one pass", "real time", "descent"), tuner),
    "best response": response,
}


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])


def live_tensors():
    gc.collect()
    return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", LOOPS)
def test_a_thousand_outer_steps_leave_nothing_behind(name):
    step, state = LOOPS[name](name)
    for _ in range(WARM):
        state = step(state)
    tensors, pages = live_tensors(), resident()
    for _ in range(STEPS):
        state = step(state)
    assert live_tensors() == tensors
    assert resident() < 1.01 * pages
    leaves = [leaf for leaf in ng.tree.leaves(state) if isinstance(leaf, torch.Tensor)]
    assert leaves
    assert all(leaf.grad_fn is None and not leaf.requires_grad for leaf in leaves)
