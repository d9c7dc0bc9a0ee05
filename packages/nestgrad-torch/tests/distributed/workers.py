"""One process of a group: `python workers.py WHAT RANK SIZE PORT FOLDER`; it fails by its exit status."""

import copy
import datetime
import functools
import os
import pathlib
import sys
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import nestgrad_torch as ng
from nestgrad_torch import distributed

ROWS = 8
ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def error(p, h, data):
    return ((torch.tanh(data[0] @ p["w"] + p["b"]) @ p["v"] - data[1]) ** 2).mean()


def loss(p, h, data):
    return (
        error(p, h, data) + (torch.exp(h["decay"]) * p["w"] ** 2).sum() + 0.1 * (p["v"] ** 2 + p["b"].sum() ** 2).sum()
    )


def outer(p, h, data):
    return error(p, h, data) + 0.1 * (h["decay"] ** 2).sum() + h["lr"] * data[0].mean()


def step(p, h, data):
    slope = torch.func.grad(loss)(p, h, data)
    return {name: p[name] - h["lr"] * slope[name] for name in p}


def start(dtype):
    torch.manual_seed(0)
    p = {"w": torch.randn(3, 4), "b": torch.randn(4), "v": torch.randn(4, 1)}
    h = {"decay": torch.randn(3, 4) - 1.0, "lr": torch.tensor(0.05)}
    return ng.tree.map(lambda x: x.to(dtype), p), ng.tree.map(lambda x: x.to(dtype), h)


def batch(dtype, seed):
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(ROWS, n, generator=drawn, dtype=torch.float64).to(dtype) for n in (3, 1))


def own(data, rank, size):
    return tuple(x.chunk(size)[rank] for x in data)


def sgd(h):
    return ng.optim.sgd(h["lr"], momentum=0.5)


SERIES = ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.1))
CASES = {
    "neumann": (ng.Minimize(loss), SERIES, {}),
    "cg": (ng.Minimize(loss), ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=30), damping=3.0), {}),
    "update": (ng.WeightUpdate(loss, sgd), SERIES, {}),
    "whole": (ng.WeightUpdate(loss, lambda h: ng.optim.adam(h["lr"]), carry="weights_and_state"), SERIES, {}),
    "gmres": (ng.WeightUpdate(loss, sgd), ng.Implicit(solver=ng.GMRES(rtol=0.0, max_steps=4)), {}),
    "lsmr": (ng.FixedPoint(step), ng.Implicit(solver=ng.LSMR(rtol=0.0, max_steps=3)), {}),
    "root": (ng.Root(torch.func.grad(loss)), SERIES, {}),
    "prox": (ng.ProximalGradient(loss, lambda h: ng.prox.lasso(0.1 * h["lr"]), 0.05), SERIES, {}),
    "reverse": (ng.WeightUpdate(loss, sgd), ng.Unrolled(num_steps=4, checkpoint_every=2), {}),
    "forward": (ng.WeightUpdate(loss, sgd), ng.Unrolled(num_steps=2, mode="forward"), {}),
    "map": (ng.FixedPoint(step), ng.Unrolled(num_steps=3), {}),
    "darts": (ng.Minimize(loss), ng.DARTS(step_size=0.1), {}),
    "penalty": (ng.Minimize(loss), ng.Penalty(multiplier=2.0, num_steps=2, step_size=0.01), {}),
    "pes": (ng.WeightUpdate(loss, sgd), ng.PES(num_steps=2, truncation=1, sigma=0.1, num_pairs=2), {"key": 0}),
}
FEW = {"neumann", "update", "gmres", "reverse"}
LOOSE = {"darts", "pes"}
"""Differences, whose rounding is divided by a small step."""


def far(a, b):
    """The largest relative difference of two trees, group by group."""
    rows = zip(ng.tree.leaves({"": a}), ng.tree.leaves({"": b}), strict=True)
    return max(float((x - y).norm() / y.norm().clamp_min(1e-30)) for x, y in rows if torch.is_tensor(x) and x.numel())


def bits(value):
    """A tree's bits as one vector, compared over the group."""
    vector = torch.cat([x.detach().double().reshape(-1) for x in ng.tree.leaves(value) if torch.is_tensor(x)])
    found = [torch.empty_like(vector) for _ in range(dist.get_world_size())]
    dist.all_gather(found, vector)
    return all(torch.equal(found[0], other) for other in found)


def hypergradients(rank, size):
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        p, h = start(dtype)
        train, valid = batch(dtype, 1), batch(dtype, 2)
        for name, (inner, method, more) in CASES.items():
            if (dtype is torch.float32 and name in LOOSE) or (size > 2 and name not in FEW):
                continue
            problem = ng.BilevelProblem(inner=inner, outer_loss=outer)
            call = functools.partial(ng.hypergradient, problem, p, h, method=method, throw=False, **more)
            joined = call(inner_batch=train, outer_batch=valid)
            shared = call(
                inner_batch=own(train, rank, size), outer_batch=own(valid, rank, size), process_group=dist.group.WORLD
            )
            gap = max(far(shared.total, joined.total), far(shared.outer_loss, joined.outer_loss))
            assert gap < (1e-7 if name in LOOSE else limit), (name, dtype, gap)
            assert shared.status is joined.status, (name, shared.status, joined.status)
            assert bits([shared.total, shared.adjoint]), name
    several(rank, size)


def several(rank, size):
    """The other doors, by a DistributedDataParallel, and the module that comes back."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    wrapped = DistributedDataParallel(net)

    def of_module(params, h, data):
        return ((params(data[0]) - data[1]) ** 2).mean() + h["decay"] * sum((x**2).sum() for x in params.values())

    problem = ng.BilevelProblem(inner=ng.Minimize(of_module), outer_loss=of_module)
    train, valid, h = batch(torch.float64, 3), batch(torch.float64, 4), {"decay": 0.5}
    mine, theirs = own(train, rank, size), own(valid, rank, size)
    sharded = copy.deepcopy(net)
    sharded[2].bias.requires_grad_(False)
    whole = copy.deepcopy(sharded)
    fully_shard(sharded[0], mesh=init_device_mesh("cpu", (size,)))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (size,)))
    expected = None
    for given in (net, wrapped, whole, sharded):
        data = (train, valid) if given in (net, whole) else (mine, theirs)
        found = [
            ng.hypergradient(problem, given, h, method=SERIES, inner_batch=data[0], outer_batch=data[1]).total,
            ng.hypergradients(problem, given, h, method=SERIES, inner_batch=data[0], outer_batches=[data[1]])[0].total,
            ng.hypergradient_jvp(
                problem, given, h, {"decay": 1.0}, method=SERIES, inner_batch=data[0], outer_batch=data[1]
            ).total,
            ng.best_response_jacobian(problem.inner, given, h, method=SERIES, inner_batch=data[0]),
        ]
        if given in (net, whole):
            expected = found
        else:
            assert far(found, expected) < 1e-10
            assert bits(found)
    refused(problem, wrapped, h, mine)


def refused(problem, wrapped, h, data):
    """What a group cannot have is refused by name, and replicas that differ are noticed."""
    with pytest.raises(ng.UnsupportedSpec, match="limit"):
        ng.hypergradient(problem, wrapped, h, method=SERIES, inner_batch=data, compile=True)
    with pytest.raises(ng.InvalidInput, match=r"between \d processes, limit 0"):
        one_pass().init({"w": torch.full((2,), float(dist.get_rank()))})
    with pytest.raises(ng.UnsupportedSpec, match=r"of \d processes, limit: 1"):
        ng.HypergradientDescent(problem_of_update(), hparams={"lr": ng.Log10(0.1)}, step_size=1e-3).init(wrapped)


def problem_of_update():
    return ng.WeightUpdate(error, lambda h: ng.optim.sgd(h["lr"]))


def one_pass(group=True, every=5, **more):
    return ng.OnePass(
        ng.BilevelProblem(
            inner=ng.WeightUpdate(error, lambda h: ng.optim.sgd(h["lr"], momentum=h["mu"], weight_decay=h["wd"])),
            outer_loss=error,
        ),
        hparams={"lr": ng.Log10(0.02), "mu": ng.Logit(0.5), "wd": ng.Log10(1e-3)},
        every=every,
        method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)),
        outer_optimizer=ADAM,
        process_group=dist.group.WORLD if group else None,
        **more,
    )


def trained(tune, state, dtype, steps, rank=0, size=1):
    for _ in range(steps):
        t = state["step"]
        state, _ = tune.step(state, own(batch(dtype, 10 + t), rank, size), own(batch(dtype, 5000 + t), rank, size))
    return state


def replicas(rank, size):
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        p, _ = start(dtype)
        shared, alone = one_pass(), one_pass(group=False)
        state, joined = shared.init(p), alone.init(p)
        state, joined = trained(shared, state, dtype, 10, rank, size), trained(alone, joined, dtype, 10)
        assert far([state["params"], state["hparams"]], [joined["params"], joined["hparams"]]) < limit
        for _ in range(49 if dtype is torch.float32 and size == 2 else 4):
            state = trained(shared, state, dtype, 10, rank, size)
            assert bits([state["params"], state["hparams"], state["opt_state"]])


def counted(rank, size):
    """Every number that is reduced is one that bytes_moved counts."""
    sent = []
    reduce = dist.all_reduce
    distributed.dist.all_reduce = lambda x, *a, **k: (sent.append(x.numel()), reduce(x, *a, **k))[1]
    tune = one_pass(every=2)
    state = tune.init(start(torch.float32)[0])
    sent.clear()
    for kind in ("training step", "hyper step"):
        state = trained(tune, state, torch.float32, 1, rank, size)
        expected = distributed.bytes_moved(weights=20, hparams=3, products=2, processes=size)[kind]
        assert -(-2 * (size - 1) * 4 * sum(sent) // size) == expected, (kind, sent)
        sent.clear()
    distributed.dist.all_reduce = reduce


def resumed(rank, size, folder):
    """A run from the state that a killed one had saved ends where one that was never stopped does, bit for bit."""
    tune = one_pass()
    whole = trained(tune, tune.init(start(torch.float32)[0]), torch.float32, 20, rank, size)
    stored = torch.load(folder / "state.pt", weights_only=True)
    assert stored["step"] == 10
    again = trained(one_pass(), stored, torch.float32, 10, rank, size)
    for name in ("params", "hparams", "opt_state"):
        assert all(torch.equal(a, b) for a, b in zip(*map(ng.tree.leaves, (again[name], whole[name])), strict=True))


def killed(rank, size, folder):
    tune = one_pass()
    state = trained(tune, tune.init(start(torch.float32)[0]), torch.float32, 10, rank, size)
    if rank == 0:
        torch.save(state, folder / "state.pt")
    dist.barrier()
    state = trained(tune, state, torch.float32, 3, rank, size)
    if rank == size - 1:
        os._exit(7)
    lost(lambda: trained(tune, state, torch.float32, 50, rank, size), size)


def silent(rank, size, folder):
    distributed.LIMIT = 2.0
    tune = one_pass()
    state = tune.init(start(torch.float32)[0])
    if rank == size - 1:
        while not (folder / "over").exists():
            time.sleep(0.05)
        os._exit(7)
    lost(lambda: trained(tune, state, torch.float32, 1, rank, size), size)
    (folder / "over").touch()


def lost(call, size):
    with pytest.raises(ng.ProcessLost, match=rf"of {size}: .*limit: .*Remedy: start the group again"):
        call()


def main(what, rank, size, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))
    if what == "agree":
        hypergradients(rank, size)
        replicas(rank, size)
        counted(rank, size)
        if size == 2:
            resumed(rank, size, folder)
        dist.destroy_process_group()
    else:
        {"killed": killed, "silent": silent}[what](rank, size, folder)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], pathlib.Path(sys.argv[5]))
