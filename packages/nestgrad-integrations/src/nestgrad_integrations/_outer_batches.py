"""Outer batches without end, drawn with random numbers of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from nestgrad import InvalidInput


class OuterBatches:
    """next(batches) for ever, from a loader that is begun anew at its end.

    The loop's random numbers are not drawn on: the loader draws from a stream that starts where the loop's stood.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader, self._batches = loader, iter(())
        self._drawn: torch.Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            if self._drawn is not None:
                torch.set_rng_state(self._drawn)
            batch = self._draw()
            self._drawn = torch.get_rng_state()
        return batch

    def _draw(self) -> Any:
        for batch in self._batches:
            return batch
        self._batches = iter(self._loader)
        for batch in self._batches:
            return batch
        raise InvalidInput(
            "OnePassCallback.outer_batches: 0 batches, limit: at least 1 each time that it is begun. "
            "Remedy: pass a DataLoader or a list; a generator can be begun once only."
        )
