"""RandomNeumann: p = k a (I - a Jᵀ)ᵐ v with m drawn by the key."""

from __future__ import annotations

from functools import partial

import torch
from torch.linalg import vector_norm

from nestgrad import RandomNeumann
from nestgrad_torch._solvers._common import SOLVERS, Deferred, Ending, System
from nestgrad_torch._solvers.neumann import growth_status, ratio


@SOLVERS.register(RandomNeumann)
def random_neumann(spec: RandomNeumann, system: System) -> Deferred:
    """m products; the generator is this call's own."""
    generator = torch.Generator("cpu").manual_seed(system.key)
    drawn = int(torch.randint(spec.num_terms, (), generator=generator))
    term = system.rhs
    norms = [vector_norm(term)]
    for _ in range(drawn):
        term = torch.sub(term, system.apply(term), alpha=spec.step_size)
        norms.append(vector_norm(term))
    return Deferred(
        solution=spec.num_terms * spec.step_size * term,
        figures=norms,
        read=partial(_read, drawn, symmetric=system.symmetric),
    )


def _read(drawn: int, sizes: list[float], *, symmetric: bool) -> Ending:
    return Ending(
        status=growth_status(sizes, symmetric=symmetric),
        residual_norm=sizes[-1],
        steps=drawn + 1,
        products=drawn,
        contraction=ratio(sizes),
    )
