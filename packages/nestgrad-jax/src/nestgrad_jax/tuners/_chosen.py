"""Steps by a look-back that is found by measuring: the numbers of `choosing`, from and to what a probe measured."""

from __future__ import annotations

from typing import Any, cast

import jax
import numpy as np

from nestgrad import OnePassInfo, OnePassState, choosing, space_paths, tree
from nestgrad_jax.tuners._one_pass_programs import Programs


def step_by_choice(
    programs: Programs,
    spaces: Any,
    state: OnePassState,
    inner_batch: Any,
    outer_batch: Any,
    *,
    count: int,
    free: bool,
) -> tuple[OnePassState, OnePassInfo]:
    """Training step `count` with the numbers in force, which a probe chooses anew. free: the interval as well."""
    chosen = _numbers(state.get("chosen"))
    inside = cast("OnePassState", {name: part for name, part in state.items() if name != "chosen"})
    if chosen["since"] + 1 != chosen["every"]:
        after, info = programs.train(inside, inner_batch)
        after["chosen"] = choosing.after_step(chosen)
        return after, info
    if chosen["until_probe"]:
        after, info = programs.tune(inside, inner_batch, outer_batch, count, choosing.series(chosen["num_terms"]))
        after["chosen"] = choosing.after_hyper_step(chosen)
        return after, info
    below, method, far = choosing.probed(chosen)
    after, info, others = programs.probe(inside, inner_batch, outer_batch, count, method, (below, far))
    after["chosen"] = _after_probe(spaces, chosen, info.hypergradient.total, others, free=free)
    return after, info


def _numbers(chosen: Any) -> choosing.Chosen:
    """The numbers in force as Python's own, also where a state was stored as arrays."""
    return {
        "every": int(chosen["every"]),
        "num_terms": int(chosen["num_terms"]),
        "near": bool(chosen["near"]),
        "since": int(chosen["since"]),
        "until_probe": int(chosen["until_probe"]),
    }


def _after_probe(spaces: Any, chosen: choosing.Chosen, now: Any, others: Any, *, free: bool) -> choosing.Chosen:
    """The numbers after a probe. others: (total, outer loss, contraction) of the level below and of the far series."""
    (below, _, _), (far, loss, contraction) = others
    ends = [np.isfinite(np.asarray(leaf)).all() for leaf in [*jax.tree.leaves(far), loss]]
    return choosing.after_probe(
        chosen,
        below=_cosines(spaces, below, far),
        now=_cosines(spaces, now, far),
        contraction=float(contraction),
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
