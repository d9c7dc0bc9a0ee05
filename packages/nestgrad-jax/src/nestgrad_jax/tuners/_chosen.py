"""The numbers of `choosing`, from and to what a probe measured."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from nestgrad import choosing, space_paths, tree


def numbers(chosen: Any) -> choosing.Chosen:
    """The numbers in force as Python's own, also where a state was stored as arrays."""
    return {
        "every": int(chosen["every"]),
        "num_terms": int(chosen["num_terms"]),
        "step_size": float(chosen["step_size"]),
        "since": int(chosen["since"]),
        "until_probe": int(chosen["until_probe"]),
    }


def after_probe(
    spaces: Any, chosen: choosing.Chosen, now: Any, others: Any, *, grew: bool, free: bool
) -> choosing.Chosen:
    """The numbers after a probe. others: (total, outer loss, contraction) of the level below and of the far series."""
    (below, _, _), (far, loss, contraction) = others
    ends = [np.isfinite(np.asarray(leaf)).all() for leaf in [*jax.tree.leaves(far), loss]]
    return choosing.after_probe(
        chosen,
        below=_cosines(spaces, below, far),
        now=_cosines(spaces, now, far),
        contraction=math.inf if grew else float(contraction),
        finite=all(ends),
        free=free,
    )


def _cosines(spaces: Any, one: Any, other: Any) -> list[float]:
    """Between two totals, an entry a space."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    entries = zip(space_paths(spaces, one), tree.leaves(one), tree.leaves(other), strict=True)
    for path, *pair in entries:
        for row, entry in zip(rows.setdefault(path, ([], [])), pair, strict=True):
            for leaf in jax.tree.leaves(entry):
                row.extend(np.ravel(np.asarray(leaf)).tolist())
    return [choosing.cosine(*row) for row in rows.values()]
