"""Many independent runs at once: a tuner over arrays with a leading axis, one entry a run.

`runs` many runs of one tuner, stacked: every leaf of params, hparams, optimizer state and outer optimizer state has a
leading axis. Run r's numbers are the tuner's own on params[r], hparams[r] and the batches, which all runs share, or on
batch[r] with shared_batches=False. The count of steps is one for all, so all runs move their hyperparameters on the
same step. Nothing is added up over runs: a NaN stays in the run it arose in.

`init(params, hparams)` takes natural values with the leading axis; without them every run starts at the spaces' own.
`step` and `run` return what the tuner's do with a leading axis of runs (`OnePassRun.inner_losses` has shape
(steps, runs)); tuned is one for all; hypergradient.status and event are integer arrays, its stats arrays. No run's
numbers raise an error, which would end the others: read the statuses.
"""

from __future__ import annotations

from typing import Any

from nestgrad._errors import InvalidInput, UnsupportedSpec
from nestgrad._methods.implicit import Implicit
from nestgrad._methods.unrolled import Unrolled
from nestgrad._solvers.identity import Identity
from nestgrad._solvers.neumann import Neumann

MANY: tuple[str, ...] = ("OnePass", "FullHorizon", "Fixed", "RandomMultiplier")
"""The tuners that may have many runs."""


def check_many_runs(tuner: Any, runs: int) -> None:
    """Raise UnsupportedSpec or InvalidInput unless this tuner can have this many runs."""
    kinds = {kind.__name__ for kind in type(tuner).__mro__}
    if not kinds.intersection(MANY):
        raise UnsupportedSpec(
            f"ManyRuns: tuner {type(tuner).__name__}, limit: {', '.join(MANY)}. "
            "Remedy: use one of these, or a run after the other."
        )
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput(f"ManyRuns.runs: got {runs!r}, limit: an int of at least 1. Remedy: pass runs=64.")
    method = getattr(tuner, "method", None)
    if "OnePass" in kinds and method is None:
        raise UnsupportedSpec(
            "ManyRuns: a tuner that chooses its own look-back, limit: one for all runs. "
            "Remedy: pass every=10, method=Implicit(solver=Neumann(num_terms=5, step_size=1.0)) to OnePass."
        )
    series = isinstance(method, Implicit) and isinstance(method.solver, (Neumann, Identity))
    if method is not None and not series and not isinstance(method, Unrolled):
        raise UnsupportedSpec(
            f"ManyRuns: method {method!r}, limit: Implicit with Neumann or Identity, or Unrolled, whose work is the "
            "same in every run. Remedy: use one of these, or a run after the other."
        )


def require_leading_axis(title: str, shape: tuple[int, ...], runs: int) -> None:
    """Raise InvalidInput unless an array of this shape has one entry a run."""
    if not shape or shape[0] != runs:
        raise InvalidInput(
            f"ManyRuns.init: {title} has shape {shape}, limit: ({runs}, …), one entry a run. "
            "Remedy: stack the runs' arrays on a new first axis."
        )
