"""Settings of the study mixture-gan, and the modes that they describe."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from nestgrad_lab.data.dataset import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    modes Gaussians on a ring of this radius, of this deviation in each direction. latent: the generator's inputs;
    hidden, layers: of either network. step_sizes, moduli, arguments: the grid of complex momentum, arguments in
    radians. choosing_seeds: how many runs of each setting choose the best; judging_seeds: how many others judge it.
    looks: the last so many of ten looks on the way are averaged. samples: drawn at each look. covered: a mode is, from
    this share of all samples within three deviations of it on. spectrum_rows: of the game Jacobian's batch.
    """

    modes: int = 8
    radius: float = 2.0
    deviation: float = 0.1
    latent: int = 4
    hidden: int = 32
    layers: int = 2
    batch: int = 64
    steps: int = 5000
    step_sizes: tuple[float, ...] = (0.01, 0.03, 0.1)
    moduli: tuple[float, ...] = (0.3, 0.6, 0.8, 0.9)
    arguments: tuple[float, ...] = (0.0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi)
    choosing_seeds: int = 3
    judging_seeds: int = 5
    looks: int = 3
    samples: int = 1000
    covered: float = 0.02
    spectrum_rows: int = 512


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    hidden=64,
    batch=256,
    steps=20_000,
    step_sizes=(0.003, 0.01, 0.03, 0.1, 0.3),
    moduli=(0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    arguments=tuple(k * math.pi / 8 for k in range(9)),
    choosing_seeds=5,
)


def centres(settings: Settings) -> Array:
    """Of the modes, (modes, 2)."""
    angles = 2.0 * math.pi * np.arange(settings.modes) / settings.modes
    return settings.radius * np.stack([np.cos(angles), np.sin(angles)], 1)
