"""Whether a direction was found, told apart by player, and the error where it was not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Game, NonFinite, NotConverged, SingularJacobian, Stats, Status
from nestgrad_jax._solvers._common import Solve


def finite(game: Game, direction: Any) -> Array:
    """Whether each player's part is, in the order of turns."""
    return jnp.stack(
        [
            jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(direction[name])]).all()
            for name in game.names
        ]
    )


def require_found(where: str, game: Game, method: Any, fine: Array, solves: list[Solve]) -> None:
    """Raise for the first solve that failed, or else NonFinite for the first player whose direction is not finite."""
    for solve in solves:
        _require_solved(where, method, solve)
    for name, good in zip(game.names, fine.tolist(), strict=True):
        if not good:
            raise NonFinite(
                f"{where}: {type(method).__name__}: direction of player {name!r} has 1 entry or more that is NaN or "
                "infinite, limit 0. Remedy: lower the learning rate or inspect the batch; players are unchanged.",
                Status.NONFINITE,
                Stats(),
            )


def _require_solved(where: str, method: Any, solve: Solve) -> None:
    status = Status(int(solve.status))
    if status.ok or status is Status.NONFINITE:
        return
    stats = Stats(residual_norm=float(solve.residual_norm), steps=int(solve.steps), products=int(solve.products))
    kind = SingularJacobian if status is Status.SINGULAR else NotConverged
    raise kind(
        f"{where}: {method}: {status.meaning} (residual norm {stats.residual_norm:.3g}, limit {method.rtol:g} of the "
        f"joint gradient's norm, after {stats.steps} steps, limit {method.max_steps}). "
        "Remedy: make step_size smaller, or raise max_steps.",
        status,
        stats,
    )
