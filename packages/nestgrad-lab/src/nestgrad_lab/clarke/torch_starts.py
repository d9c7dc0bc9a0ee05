"""The starts in PyTorch, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nestgrad_lab.batches import Segment, segment_lengths
from nestgrad_lab.clarke.starts import End, Start
from nestgrad_lab.data import Part
from nestgrad_lab.engines import Plan, engine_for


def train_starts(
    plans: Sequence[Plan],
    starts: Sequence[Start],
    train: Part,
    valid: Part,
    steps: int,
    progress: Callable[[int], bool],
) -> Iterator[End]:
    """How each start ended, in order. progress(steps taken by all) tells whether to stop."""
    taken = 0
    for plan, start in zip(plans, starts, strict=True):
        engine = engine_for("torch")(plan, start.weights, train, valid)
        advance = engine.tune if plan.tuned else engine.train
        for length in segment_lengths(steps, plan.every):
            advance(Segment(length, None, None))
            taken += length
            if progress(taken):
                return
        values = {**start.values, **(engine.tuned_report().values if plan.tuned else {})}
        yield End(values, engine.tuned_weights() if plan.tuned else engine.plain_weights())
