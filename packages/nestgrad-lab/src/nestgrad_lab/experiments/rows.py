"""Which rows a step sees: a pure function of the seed, the start and the step, so that a resumed run sees the same."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from nestgrad_lab.data.dataset import Array


class Rows:
    """Batches of a part of the data for several starts: each shuffles every pass anew, and alone.

    A pass ends with a batch from its last rows and the first of the next pass, so every batch has the same size and
    every pass every row. size None: every batch is the whole part.
    """

    def __init__(self, rows: int, size: int | None, seed: Sequence[int], starts: Sequence[int]) -> None:
        self._rows, self._seed, self._starts = rows, tuple(seed), tuple(starts)
        self.size = None if size is None or size >= rows else size
        self._pass = functools.lru_cache(maxsize=4 * len(self._starts))(self._permutation)

    def at(self, step: int) -> Array | None:
        """The rows of each start at this step, shape (starts, size); None for all."""
        if self.size is None:
            return None
        first, last = step * self.size, (step + 1) * self.size
        passes = range(first // self._rows, (last - 1) // self._rows + 1)
        begin = first - passes[0] * self._rows
        return np.stack(
            [np.concatenate([self._pass(k, p) for p in passes])[begin : begin + self.size] for k in self._starts]
        )

    def _permutation(self, start: int, number: int) -> Array:
        return np.random.default_rng([*self._seed, start, number]).permutation(self._rows)
