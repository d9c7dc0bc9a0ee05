"""What a user may set of a run, and the checks that need no data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nestgrad_lab.data import Dataset
from nestgrad_lab.errors import OptionError
from nestgrad_lab.hyperparameters import POOR_START

DTYPES = ("float32", "float64")
OUTER_LR = 0.05
"""Adam's rate for the hyperparameters, as in Clarke et al. 2022."""
BATCH = 64
MOST_VALIDATION_ROWS = 1024
"""A hyper step sees all validation rows up to so many, and so many random ones beyond; UCI sets: always all."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `nestgrad tune`; None means: chosen by the data set, the method or what is installed."""

    data: str = "digits"
    target: str | None = None
    task: str | None = None
    drop: tuple[str, ...] = ()
    backend: str | None = None
    method: str = "neumann"
    every: int = 10
    lookback: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    hidden: int = 50
    learning_rate: float = POOR_START["learning_rate"]
    momentum: float = POOR_START["momentum"]
    weight_decay: float = POOR_START["weight_decay"]
    out: Path | None = None

    def __post_init__(self) -> None:
        for option, value, least in [
            ("--every", self.every, 1),
            ("--steps", self.steps, 1),
            ("--batch-size", self.batch_size, 1),
            ("--hidden", self.hidden, 1),
            ("--seed", self.seed, 0),
        ]:
            require_at_least(option, value, least)
        if self.dtype not in DTYPES:
            raise OptionError(f"--dtype {self.dtype!r}, limit: {' or '.join(DTYPES)}. Remedy: name one of these.")
        if self.steps is not None and self.steps < self.every:
            raise OptionError(
                f"--steps {self.steps}: no hyper step is due before step {self.every}, limit: at least --every. "
                f"Remedy: pass --steps {self.every} or more, or a smaller --every."
            )

    @property
    def start(self) -> dict[str, float]:
        """Initial hyperparameters by name."""
        return {name: getattr(self, name) for name in POOR_START}


@dataclass(frozen=True)
class Sizes:
    """Steps, and rows in a training and in a validation batch."""

    steps: int
    batch: int
    valid_batch: int


def sizes(settings: Settings, data: Dataset) -> Sizes:
    """The sizes asked for, or the data set's own: full batches, 4,000 steps for a UCI set, 64 rows, 2,000 else."""
    rows, whole = len(data.train), data.name.startswith("uci/")
    if settings.batch_size is not None and settings.batch_size > rows:
        raise OptionError(
            f"--batch-size {settings.batch_size}: limit {rows}, the training rows of {data.name}. "
            f"Remedy: pass --batch-size {rows} for full batches."
        )
    steps = settings.steps or max(4000 if whole else 2000, settings.every)
    batch = settings.batch_size or (rows if whole else min(BATCH, rows))
    return Sizes(steps, batch, len(data.valid) if whole else min(MOST_VALIDATION_ROWS, len(data.valid)))


def require_at_least(option: str, value: int | None, least: int) -> None:
    """Raise OptionError where a value is given and is below the least."""
    if value is not None and value < least:
        raise OptionError(f"{option} {value}, limit: at least {least}. Remedy: pass {option} {least} or more.")
