"""A tuning run in progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nestgrad import Implicit
from nestgrad_lab.batches import Batches
from nestgrad_lab.data import Dataset
from nestgrad_lab.engines import Engine
from nestgrad_lab.settings import Settings, Sizes


@dataclass(kw_only=True)
class Run:
    """A run in progress."""

    settings: Settings
    data: Dataset
    backend: str
    method: Implicit
    sizes: Sizes
    engine: Engine
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    step: int = 0

    @property
    def values(self) -> dict[str, float]:
        """Hyperparameters after the last hyper step."""
        start = self.settings.start
        return {name: self.rows[-1][name] for name in start} if self.rows else start

    def batches(self) -> Batches:
        """The run's batches from its first step on."""
        data, sizes = self.data, self.sizes
        return Batches((len(data.train), sizes.batch), (len(data.valid), sizes.valid_batch), self.settings.seed)
