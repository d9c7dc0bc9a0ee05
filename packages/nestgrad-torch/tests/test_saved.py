"""How many tensors a call keeps for its backward passes: exact counts, which no machine changes."""

import gc

import pytest
import torch

import nestgrad_torch as ng

D = torch.float64
X = torch.randn(6, 3, dtype=D, generator=torch.Generator().manual_seed(0))


def loss(params, hparams, batch):
    return (torch.tanh(X @ params["w"]) ** 2).mean() + hparams["wd"] * (params["w"] ** 4).sum()


def sgd(hparams):
    return ng.optim.sgd(hparams["lr"], momentum=0.5)


MINIMIZE, UPDATE = ng.Minimize(loss), ng.WeightUpdate(loss, sgd)


class Saved:
    """Tensors that graphs hold now, and the most that they held at a time."""

    def __init__(self):
        self.now = self.most = self.packed = 0

    def pack(self, tensor):
        self.packed += 1
        self.now += 1
        self.most = max(self.most, self.now)
        return _Held(tensor, self)


class _Held:
    """A saved tensor, counted until its graph lets go of it."""

    def __init__(self, tensor, counter):
        self.tensor, self.counter = tensor.detach(), counter  # else a node would hold itself

    def __del__(self):
        self.counter.now -= 1


def saved(inner, method, **more):
    """What one hypergradient keeps."""
    counter, hparams = Saved(), {"wd": torch.tensor(0.1, dtype=D), "lr": torch.tensor(0.05, dtype=D)}
    if inner is MINIMIZE:
        hparams.pop("lr")
    problem = ng.BilevelProblem(inner=inner, outer_loss=loss)
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda held: held.tensor):
        found = ng.hypergradient(problem, {"w": torch.ones(3, dtype=D)}, hparams, method=method, throw=False, **more)
    gc.collect()
    assert counter.now == 0, "a graph outlives the call"
    assert found.total["wd"].grad_fn is None
    return counter


SOLVERS = {
    "neumann": lambda n: ng.Neumann(num_terms=n, step_size=0.1),
    "cg": lambda n: ng.CG(rtol=0.0, max_steps=n),
    "minres": lambda n: ng.MINRES(rtol=0.0, max_steps=n),
    "lsmr": lambda n: ng.LSMR(rtol=0.0, max_steps=n),
    "gmres": lambda n: ng.GMRES(rtol=0.0, max_steps=n),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_terms_keep_no_more_tensors(solver):
    few, many = (saved(MINIMIZE, ng.Implicit(solver=SOLVERS[solver](n))) for n in (2, 50))
    assert few.packed == many.packed
    assert few.most == many.most


def test_an_unroll_keeps_one_graph_a_step():
    counts = [saved(UPDATE, ng.Unrolled(num_steps=n)).most for n in (4, 8, 16)]
    assert counts[1] - counts[0] == (counts[2] - counts[1]) / 2 > 0


def test_checkpoints_keep_the_graphs_of_one_segment():
    whole = saved(UPDATE, ng.Unrolled(num_steps=16)).most
    by_root = saved(UPDATE, ng.Unrolled(num_steps=16, checkpoint_every="sqrt")).most
    four = saved(UPDATE, ng.Unrolled(num_steps=4)).most
    assert by_root == four
    assert by_root < whole / 3
    assert saved(UPDATE, ng.Unrolled(num_steps=64, checkpoint_every=4)).most == four


@pytest.mark.parametrize("mode", ["forward", "truncated"])
def test_forward_mode_and_a_look_back_keep_what_they_need(mode):
    def of(n):
        method = ng.Unrolled(num_steps=n, mode="forward") if mode == "forward" else ng.Unrolled(num_steps=n, lookback=3)
        return saved(UPDATE, method).most

    assert of(5) == of(20)


def test_one_pass_keeps_one_step_and_its_linearisation():
    def of(every):
        counter = Saved()
        tuner = ng.OnePass(
            ng.BilevelProblem(inner=UPDATE, outer_loss=loss),
            hparams={"lr": ng.Log(0.05), "wd": ng.Log(0.1)},
            every=every,
            method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)),
            outer_optimizer=torch.optim.SGD,
        )
        state = tuner.init({"w": torch.ones(3, dtype=D)})
        with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda held: held.tensor):
            tuner.run(state, [None] * every, None)
        gc.collect()
        assert counter.now == 0
        return counter.most

    assert of(2) == of(12)
