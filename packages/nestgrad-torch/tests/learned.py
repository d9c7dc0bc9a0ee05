"""What the tests of learned responses share: trees to learn, and how trees are compared."""

from functools import partial

import torch

import nestgrad_torch as ng

D = torch.float64
SGD = partial(torch.optim.SGD, lr=0.1)
GATED = ng.GatedResponse(axes=(("w", 1),))
SLOPED = [ng.LinearResponse(), ng.FactorisedResponse(2), ng.MLPResponse(4)]
RESPONSES = [*SLOPED, GATED]


def kind(response):
    return type(response).__name__


def rand(*shape, seed=0, dtype=D):
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed)).to(dtype)


def params(dtype=D):
    return {"w": rand(3, 2, seed=1, dtype=dtype), "deep": [rand(2, seed=2, dtype=dtype), rand(seed=3, dtype=dtype)]}


def same(one, other):
    return all(map(torch.equal, ng.tree.leaves(one), ng.tree.matched(one, other)[0]))


def close(one, other, **limits):
    rows = zip(ng.tree.leaves(one), ng.tree.matched(one, other)[0], strict=True)
    return all(torch.allclose(a, b, **limits) for a, b in rows)
