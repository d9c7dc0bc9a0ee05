"""Guarded hyper steps: a hypergradient that is not finite is skipped, one that is too long is clipped or skipped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from nestgrad._validate import require_choice, require_number


class Event(IntEnum):
    """What a guard did at a hyper step; an integer, so that it fits in a traced or jitted result."""

    NONE = 0
    CLIPPED = 1
    SKIPPED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What a hyper step does with a hypergradient that it should not follow; a tuner with a guard raises none of these.

    Let h be the total in the leaves and |h| its norm over all hyperparameters. Where h or the outer loss is not finite
    the step is skipped: the leaves and the outer optimizer's state stay as they were, bit for bit. Where |h| exceeds
    max_norm (None: no limit) the outer optimizer is given h · max_norm / |h| (too_long="clip"), or the step is skipped
    ("skip"). The training step is taken in every case. The info's `event` says what was done, and its hypergradient
    stays as it was found; state["events"] counts {"clipped": …, "skipped": …} over the run.
    """

    max_norm: float | None = None
    too_long: Literal["clip", "skip"] = "clip"

    def __post_init__(self) -> None:
        if self.max_norm is not None:
            require_number(self, "max_norm", positive=True)
        require_choice(self, "too_long", ("clip", "skip"))

    def judge(self, norm: float, *, finite: bool) -> tuple[Event, float]:
        """(the event, what to multiply the hypergradient by) for |h| and whether all is finite."""
        if not finite:
            return Event.SKIPPED, 0.0
        if self.max_norm is None or norm <= self.max_norm:
            return Event.NONE, 1.0
        return (Event.CLIPPED, self.max_norm / norm) if self.too_long == "clip" else (Event.SKIPPED, 0.0)
