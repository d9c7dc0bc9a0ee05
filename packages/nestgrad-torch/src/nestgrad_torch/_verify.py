"""verify: a hypergradient beside one that shares nothing with its method; the comparison itself is the core's."""

from __future__ import annotations

from typing import Any

import torch

from nestgrad import BilevelProblem, HyperGradient, Verification, tree, verify_with
from nestgrad_torch._backend import hypergradient
from nestgrad_torch._response import newton
from nestgrad_torch._tree import Params, as_hparams, flat


class _Ops:
    """What the core asks of a backend."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def hypergradient(self, problem: BilevelProblem, params: Any, hparams: Any, **call: Any) -> HyperGradient:
        return hypergradient(problem, params, hparams, **call)

    def newton_step(self, inner: Any, params: Any, hparams: Any, *, solver: Any, **call: Any) -> tuple[Any, float]:
        """A step whose solve failed moves params to where the next residual says so."""
        batch, state = call.get("inner_batch"), call.get("opt_state")
        return newton(inner, params, hparams, solver, batch, state, throw=False)

    def normal_like(self, values: Any, seed: int) -> Any:
        generator = torch.Generator("cpu").manual_seed(seed)

        def draw(leaf: torch.Tensor) -> torch.Tensor:
            return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype, device="cpu").to(leaf.device)

        return tree.map(draw, values)

    def size(self, params: Any) -> int:
        leaves = Params(params).leaves if isinstance(params, torch.nn.Module) else tree.leaves(params)
        return sum(leaf.numel() for leaf in leaves)

    def dot(self, a: Any, b: Any) -> float:
        (others,) = tree.matched(a, b)
        return float(
            flat([x.detach().double() for x in tree.leaves(a)]).dot(flat([x.detach().double() for x in others]))
        )


def verify(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    inner_batches: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    key: int | None = None,
    rtol: float = 0.01,
    max_params: int = 1000,
    directions: int = 3,
) -> Verification:
    """Compare the method's hypergradient with the dense one at the inner solution, or with central differences.

    Up to max_params weights the reference is Dense; above, GMRES or differences of the solved problem along
    `directions` random directions; for Unrolled, differences of the run. rtol: the relative error that is trusted.
    """
    like = Params(params).leaves[0]
    given = {
        "inner_batch": inner_batch,
        "inner_batches": inner_batches,
        "outer_batch": outer_batch,
        "opt_state": opt_state,
        "key": key,
    }
    return verify_with(
        _Ops(torch.finfo(like.dtype).eps),
        problem,
        params,
        as_hparams(hparams, like),
        method=method,
        call={name: value for name, value in given.items() if value is not None},
        rtol=rtol,
        max_params=max_params,
        directions=directions,
    )
