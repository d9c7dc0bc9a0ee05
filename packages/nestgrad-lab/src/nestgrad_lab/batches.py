"""The order of the data, drawn in NumPy, so that both backends see the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nestgrad_lab.data.dataset import Array

MOST = 100
"""The longest stretch of training between two looks at the clock and at Ctrl-C."""


@dataclass(frozen=True)
class Segment:
    """A few training steps without a pause.

    steps: how many. rows: training rows of each, shape (steps, batch size), or None for all rows each time. valid_rows:
    validation rows of a hyper step at its end, shape (batch size,), or None for all.
    """

    steps: int
    rows: Array | None
    valid_rows: Array | None


class Stream:
    """An endless sequence of row numbers: one shuffled pass after another, cut into batches of equal size.

    A batch may reach over the end of a pass, so every batch has the same size and every pass every row.
    """

    def __init__(self, rows: int, size: int, seed: list[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._rows, self._size = rows, size
        self._left = np.empty(0, np.int64)

    def take(self, batches: int) -> Array | None:
        """The next batches, shape (batches, size); None when every batch is the whole set."""
        if self._size == self._rows:
            return None
        needed = batches * self._size
        passes = [self._left]
        while sum(map(len, passes)) < needed:
            passes.append(self._rng.permutation(self._rows))
        rows = np.concatenate(passes)
        self._left = rows[needed:]
        return rows[:needed].reshape(batches, self._size)


class Batches:
    """Segments with their rows."""

    def __init__(self, train: tuple[int, int], valid: tuple[int, int], seed: int) -> None:
        """train, valid: (rows, batch size)."""
        self._train, self._valid = Stream(*train, [seed, 1]), Stream(*valid, [seed, 2])

    def segment(self, steps: int) -> Segment:
        """The next so many steps."""
        valid = self._valid.take(1)
        return Segment(steps, self._train.take(steps), None if valid is None else valid[0])


def segment_lengths(steps: int, every: int, most: int = MOST) -> Iterator[int]:
    """Lengths that add up to steps: a segment ends at each hyper step, and none is longer than `most`."""
    taken = 0
    while taken < steps:
        length = min(most, every - taken % every, steps - taken)
        taken += length
        yield length


def distinct_lengths(steps: int, every: int) -> list[int]:
    """The lengths that occur: those of one stretch between hyper steps, and those of the rest after the last."""
    return sorted({*segment_lengths(min(steps, every), every), *segment_lengths(steps % every, every)})
