"""A look-back and an interval that one-pass tuning finds by itself, from what its own series measures.

With `method` left out the hypergradient is that of Neumann(num_terms=i, step_size=1), and a run begins with i = 1. With
`every` left out a hyper step is due T = max(M, ⌈(1 + 2 (i - 1)) / OVERHEAD⌉) steps after the last one: one outer
gradient and i - 1 products, of about two gradients each, then cost at most about OVERHEAD of the training between them.
M is FAR or NEAR, by a measurement:

Every so many hyper steps, the first among them, is a probe. On its own linearisation it also takes the series to
F = 4 i + 1 terms and to those of the level below i in LEVELS. For each hyperparameter (each space) c(k) is the cosine
between the totals in its leaves of k and of F terms, 1 where both are zero. Then

- i goes up a level where c(i) < AGREEMENT for some hyperparameter, else down a level where the level below has
  c ≥ AGREEMENT for all; but where the far series is not finite, or its terms grow (contraction ≥ 1), directions say
  nothing, and i becomes 5;
- the run is far from stability's edge where the contraction of the far series is below 1 and above SLOW: then a
  training step moves the weights so little along every direction that the outer gradient sees that frequent moves do
  no harm. It is near otherwise: then M = NEAR, and i is at least 5.

Hyper steps to the next probe: PROBE_FAR while far, where a learning rate can grow by a factor of ten in a hundred
training steps, PROBE_NEAR while near. Levels are odd: where terms grow, just beyond the largest stable learning rate,
an odd number of them has the sign of the derivative at the unstable direction, much enlarged, and so turns the learning
rate back; an even number has the wrong sign. state["chosen"] holds {"every", "num_terms"} in force, "near", "since",
the training steps since the last hyper step, and "until_probe", hyper steps to the next probe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from nestgrad._methods.implicit import Implicit
from nestgrad._methods.unrolled import Unrolled
from nestgrad._solvers.neumann import Neumann
from nestgrad._tuners.guard import Guard

OVERHEAD, AGREEMENT, SLOW = 0.9, 0.7, 0.999
LEVELS, NEAR_TERMS = (1, 3, 5, 9, 13), 5
FAR, NEAR = 5, 10
PROBE_FAR, PROBE_NEAR = 5, 20


class Chosen(TypedDict):
    """The numbers in force; see the module."""

    every: int
    num_terms: int
    near: bool
    since: int
    until_probe: int


def interval(num_terms: int, *, near: bool) -> int:
    """The training steps between two hyper steps for a look-back."""
    return max(NEAR if near else FAR, math.ceil((1 + 2 * (num_terms - 1)) / OVERHEAD))


def interval_for(method: Implicit | Unrolled) -> int:
    """The training steps between two hyper steps by a given method, which measures nothing of how near the edge is."""
    if isinstance(method, Unrolled):
        return max(interval(method.num_steps, near=True), method.num_steps)
    terms = getattr(method.solver, "num_terms", None) or getattr(method.solver, "max_steps", None) or 1
    return interval(terms, near=True)


def guard_for(method: Implicit | Unrolled | None, guard: Guard | None) -> Guard | None:
    """The guard of a run: the one given, else Guard() without a method, so that a series that overflows ends no run."""
    return Guard() if guard is None and method is None else guard


def first_choice(every: int | None) -> Chosen:
    """The numbers a run begins with; `every` as given to the tuner, None where it is to be chosen."""
    now = interval(LEVELS[0], near=False) if every is None else every
    return {"every": now, "num_terms": LEVELS[0], "near": False, "since": 0, "until_probe": 0}


def series(num_terms: int) -> Implicit:
    """The method of so many terms."""
    return Implicit(solver=Neumann(num_terms=num_terms, step_size=1.0))


def probed(chosen: Chosen) -> tuple[Implicit, Implicit, Implicit]:
    """The series that a probe compares: of the level below, of the one in force, and the far one."""
    terms = chosen["num_terms"]
    below = LEVELS[max(LEVELS.index(terms) - 1, 0)]
    return series(below), series(terms), series(4 * terms + 1)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two vectors; 1 where both are zero, 0 where one is."""
    lengths = math.hypot(*one), math.hypot(*other)
    if not all(lengths):
        return 1.0 if lengths[0] == lengths[1] else 0.0
    return sum((x / lengths[0]) * (y / lengths[1]) for x, y in zip(one, other, strict=True))


def after_step(chosen: Chosen, count: int = 1) -> Chosen:
    """The numbers after training steps without a hyper step."""
    return {**chosen, "since": chosen["since"] + count}


def after_hyper_step(chosen: Chosen) -> Chosen:
    """The numbers after a hyper step that was no probe."""
    return {**chosen, "since": 0, "until_probe": chosen["until_probe"] - 1}


def after_probe(
    chosen: Chosen, *, below: Sequence[float], now: Sequence[float], contraction: float, finite: bool, free: bool
) -> Chosen:
    """The numbers after a probe.

    below, now: c of the level below and of the one in force, an entry a hyperparameter. contraction, finite: of the far
    series. free: whether the interval is chosen as well.
    """
    terms, shrinks = chosen["num_terms"], finite and contraction < 1.0
    near = not (shrinks and contraction > SLOW)
    if not shrinks:
        terms = min(terms, NEAR_TERMS)
    else:
        level = LEVELS.index(terms)
        if min(now) < AGREEMENT:
            terms = LEVELS[min(level + 1, len(LEVELS) - 1)]
        elif min(below) >= AGREEMENT:
            terms = LEVELS[max(level - 1, 0)]
    terms = max(terms, NEAR_TERMS) if near else terms
    return {
        "every": interval(terms, near=near) if free else chosen["every"],
        "num_terms": terms,
        "near": near,
        "since": 0,
        "until_probe": (PROBE_NEAR if near else PROBE_FAR) - 1,
    }
