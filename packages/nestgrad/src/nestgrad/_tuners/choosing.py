"""A look-back, interval and step size that one-pass tuning finds by itself, from what its own series measures.

With `every` left out a hyper step is due T steps after the last one, T = ⌈(1 + 2 (i - 1)) / OVERHEAD⌉ for i terms, but
at least LEAST_EVERY, so that training shows what a move has done before many more are made: one outer gradient and
i - 1 products, of about two gradients each, then cost at most about OVERHEAD of the training between them.
With `method` left out the hypergradient is that of Neumann(num_terms=i, step_size=a), and a run begins with i = 1 and
a = 1. So the interval is as short as the look-back allows, and the look-back as short as the hypergradient allows,
which is measured:

Every PROBE_EVERY-th hyper step, the first among them, is a probe. On its own linearisation it also takes the series to
F = 4 i + 1 terms and to those of the level below i in LEVELS. For each hyperparameter (each space) c(k) is the cosine
between the totals in its leaves of k and of F terms, 1 where both are zero. Then

- where the far series is not finite, or its terms grow (contraction ≥ 1): a halves, not below LEAST_STEP; i stays;
- else a doubles, not beyond 1, where the contraction is below RECOVERED; and i goes up a level where c(i) < AGREEMENT
  for some hyperparameter, else down a level where the level below has c ≥ AGREEMENT for all.

The move itself follows the series of i terms. But where these grow (contraction ≥ 1), as they do just beyond the
largest stable learning rate, the sum has the sign of its last term, which may be the wrong one: the step is skipped as
by a guard, the hyperparameters and the outer optimizer's state staying as they were, and a halves, at a probe or not.
state["chosen"] holds all of it: {"every", "num_terms", "step_size"} in force, "since", the training steps since the
last hyper step, and "until_probe", hyper steps to the next probe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from nestgrad._methods.implicit import Implicit
from nestgrad._methods.unrolled import Unrolled
from nestgrad._solvers.neumann import Neumann

OVERHEAD, AGREEMENT, RECOVERED, LEAST_STEP = 0.9, 0.7, 0.9, 1.0 / 16.0
LEVELS = (1, 2, 3, 5, 8, 13)
PROBE_EVERY, LEAST_EVERY = 20, 5


class Chosen(TypedDict):
    """The numbers in force; see the module."""

    every: int
    num_terms: int
    step_size: float
    since: int
    until_probe: int


def interval(num_terms: int) -> int:
    """The training steps between two hyper steps for a look-back."""
    return max(LEAST_EVERY, math.ceil((1 + 2 * (num_terms - 1)) / OVERHEAD))


def interval_for(method: Implicit | Unrolled) -> int:
    """The training steps between two hyper steps by a given method, counted as those of the module."""
    if isinstance(method, Unrolled):
        return max(interval(method.num_steps), method.num_steps)
    return interval(getattr(method.solver, "num_terms", None) or getattr(method.solver, "max_steps", None) or 1)


def first_choice(every: int | None) -> Chosen:
    """The numbers a run begins with; `every` as given to the tuner, None where it is to be chosen."""
    now = interval(LEVELS[0]) if every is None else every
    return {"every": now, "num_terms": LEVELS[0], "step_size": 1.0, "since": 0, "until_probe": 0}


def series(num_terms: int, step_size: float) -> Implicit:
    """The method of so many terms."""
    return Implicit(solver=Neumann(num_terms=num_terms, step_size=step_size))


def probed(chosen: Chosen) -> tuple[Implicit, Implicit, Implicit]:
    """The series that a probe compares: of the level below, of the one in force, and the far one."""
    terms, step = chosen["num_terms"], chosen["step_size"]
    below = LEVELS[max(LEVELS.index(terms) - 1, 0)]
    return series(below, step), series(terms, step), series(4 * terms + 1, step)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two vectors; 1 where both are zero, 0 where one is."""
    lengths = math.hypot(*one), math.hypot(*other)
    if not all(lengths):
        return 1.0 if lengths[0] == lengths[1] else 0.0
    return sum((x / lengths[0]) * (y / lengths[1]) for x, y in zip(one, other, strict=True))


def after_step(chosen: Chosen) -> Chosen:
    """The numbers after a training step without a hyper step."""
    return {**chosen, "since": chosen["since"] + 1}


def grows(contraction: float, num_terms: int) -> bool:
    """Whether the terms of a series of so many grow, for all that is known; one term has none to compare."""
    return num_terms > 1 and not contraction < 1.0


def after_hyper_step(chosen: Chosen, *, grew: bool) -> Chosen:
    """The numbers after a hyper step that was no probe; grew: whether the terms of its series did."""
    step = max(chosen["step_size"] / 2.0, LEAST_STEP) if grew else chosen["step_size"]
    return {**chosen, "step_size": step, "since": 0, "until_probe": chosen["until_probe"] - 1}


def after_probe(
    chosen: Chosen, *, below: Sequence[float], now: Sequence[float], contraction: float, finite: bool, free: bool
) -> Chosen:
    """The numbers after a probe.

    below, now: c of the level below and of the one in force, an entry a hyperparameter. contraction, finite: of the far
    series, the contraction being infinite where the terms in force grow. free: whether the interval is chosen as well.
    """
    step, terms = chosen["step_size"], chosen["num_terms"]
    if not finite or not contraction < 1.0:
        step = max(step / 2.0, LEAST_STEP)
    else:
        step = min(step * 2.0, 1.0) if contraction < RECOVERED else step
        level = LEVELS.index(terms)
        if min(now) < AGREEMENT:
            terms = LEVELS[min(level + 1, len(LEVELS) - 1)]
        elif min(below) >= AGREEMENT:
            terms = LEVELS[max(level - 1, 0)]
    return {
        "every": interval(terms) if free else chosen["every"],
        "num_terms": terms,
        "step_size": step,
        "since": 0,
        "until_probe": PROBE_EVERY - 1,
    }
