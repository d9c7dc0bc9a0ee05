"""What method rules share: the arguments of a call, their table, and the numbers of methods that solve nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import BilevelProblem, HyperGradient, Rules, Stats, Status
from nestgrad_jax._solvers._common import first_of
from nestgrad_jax._tree import tree_norm, tree_norms


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call, checked: params and hparams are arrays of one dtype, the key is a typed PRNG key."""

    params: Any
    hparams: Any
    inner_batch: Any = None
    inner_batches: Any = None
    outer_batch: Any = None
    opt_state: Any = None
    warm_start: Any = None
    preconditioner: Any = None
    key: Any = None


jax.tree_util.register_dataclass(Call)


METHODS: Rules[[BilevelProblem, Call], HyperGradient] = Rules("jax")
"""rule(spec, problem, call) -> HyperGradient with an int32 status, traced under one jit."""


def truncated(
    *,
    direct: Any,
    indirect: Any,
    outer_loss: Array,
    stats: Stats,
    adjoint: Any = None,
    params: Any = None,
    opt_state: Any = None,
) -> HyperGradient:
    """The result of a method without a tolerance: TRUNCATED, or NONFINITE where its numbers are not finite.

    direct: None where the outer loss has no path to hparams.
    """
    total = added(direct, indirect)
    finite = jnp.isfinite(outer_loss) & jnp.isfinite(tree_norm(total))
    return HyperGradient(
        total=total,
        direct=direct,
        indirect=indirect,
        outer_loss=outer_loss,
        status=first_of((~finite, Status.NONFINITE), otherwise=Status.TRUNCATED),
        stats=stats,
        adjoint=adjoint,
        params=params,
        opt_state=opt_state,
    )


def added(direct: Any, indirect: Any) -> Any:
    """The total; direct is None where the outer loss has no path to hparams."""
    return indirect if direct is None else jax.tree.map(jnp.add, direct, indirect)


def stats_of(params: Any, indirect: Any, adjoint: Any = None, **numbers: Any) -> Stats:
    """The numbers given, with the norms that every method knows, as arrays of the params' dtype."""
    dtype = jax.tree.leaves(params)[0].dtype
    trees = {"indirect_norm": indirect, "params_norm": params}
    if adjoint is not None:
        trees["adjoint_norm"] = adjoint
    missing = {name: tree for name, tree in trees.items() if name not in numbers}
    known = dict(zip(missing, tree_norms(*missing.values()), strict=True)) if missing else {}
    reals = ("residual_norm", "rhs_norm", "adjoint_norm", "indirect_norm", "inner_optimality", "params_norm")
    reals = (*reals, "contraction", "curvature", "asymmetry", "kink_distance")
    given = {**dict.fromkeys(reals, jnp.nan), "steps": 0, "products": 0, **known, **numbers}
    return Stats(
        **{name: jnp.asarray(given[name], dtype) for name in reals},
        steps=jnp.asarray(given["steps"], jnp.int32),
        products=jnp.asarray(given["products"], jnp.int32),
        eps=float(jnp.finfo(dtype).eps),
    )


def negate(tree: Any) -> Any:
    """-x, leaf by leaf."""
    return jax.tree.map(jnp.negative, tree)
