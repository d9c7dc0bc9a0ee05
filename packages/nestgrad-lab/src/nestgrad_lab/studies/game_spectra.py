"""What studies of games share: rates from a spectrum, the rate that a played trajectory shows, spectra as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import MissingPackage

LEAST = 1e-280
"""Trajectories are not followed to where floats end."""
SETTLED = 1 / 3
"""The share of a trajectory that is left out of its rate."""


def spectra() -> Any:
    """The module nestgrad_reference.spectra; MissingPackage where it is not installed."""
    try:
        from nestgrad_reference import spectra as found  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise MissingPackage(
            f"studies of games need nestgrad-reference for their spectra: {error}. "
            "Remedy: pip install 'nestgrad-lab[games]'."
        ) from error
    return found


def as_parts(values: Array) -> Array:
    """Real and imaginary parts on a new last axis: checkpoints hold no complex float64."""
    return np.stack([np.real(values), np.imag(values)], -1)


def as_complex(parts: Array) -> Array:
    """What as_parts was given."""
    return parts[..., 0] + 1j * parts[..., 1]


def angle_name(argument: float) -> str:
    """The angle as a part of π where it is one with a denominator of 16 at most, else in radians."""
    for below in range(1, 17):
        above = argument / math.pi * below
        if abs(above - round(above)) < 1e-9:  # noqa: PLR2004  (rounding)
            over = f"/{below}" if below > 1 else ""
            count = round(above)
            return "0" if count == 0 else f"{'' if count == 1 else count}π{over}"
    return f"{argument:.4f}"


def rate_map(spectrum: Sequence[complex], step_sizes: Sequence[float], momenta: Sequence[complex], turns: str) -> Array:
    """The rate at each step size and each momentum, (step sizes, momenta)."""
    rate = spectra().rate
    rows = [[rate(spectrum, step_size=step, momentum=beta, turns=turns) for beta in momenta] for step in step_sizes]
    return np.array(rows)


def least_rate(spectrum: Sequence[complex], argument: float, turns: str) -> float:
    """The least rate at this argument of β, by search; 1 where none is below."""
    return min(spectra().best_momentum(spectrum, argument=argument, turns=turns).rate, 1.0)


def length(rate: float, steps: int) -> int:
    """So many steps that neither decay nor growth by the rate reaches where floats end."""
    change = abs(math.log(rate)) if rate > 0 else math.inf
    return steps if change == 0 else max(30, min(steps, int(-math.log(LEAST) / change)))


def played_rate(trajectory: Array) -> float:
    """The factor a step of ‖ω_t‖, t the first axis, once it has settled; 0 where ω becomes 0.

    Our own definition: of ln ‖ω_t‖ the mean under a Hann window over one half of the settled part is compared with that
    over the other, which leaves little of an oscillation that a plain difference would keep.
    """
    flat = trajectory.reshape(len(trajectory), -1)[int(SETTLED * len(trajectory)) :]
    sizes = np.abs(flat).max(1)
    if (sizes == 0.0).any():
        return 0.0
    logs = np.log(sizes) + np.log(np.linalg.norm(flat / sizes[:, None], axis=1))
    half = len(logs) // 2
    window = np.hanning(half + 2)[1:-1]
    means = [float(window @ part / window.sum()) for part in (logs[:half], logs[half : 2 * half])]
    return math.exp((means[1] - means[0]) / half)


def exponents_agree(found: float, expected: float, share: float, *, least: float = 1e-6) -> bool:
    """Whether ln found is within this share of ln expected, or both are within `least` of each other."""
    apart = abs(math.log(found) - math.log(expected))
    return apart <= max(share * abs(math.log(expected)), least)


def draw_log_polar(axis: Any, values: Array, *, title: str = "", **style: Any) -> None:
    """ln |z| against arg z for each z that is not 0."""
    values = np.asarray(values).ravel()
    values = values[values != 0]
    axis.plot(np.angle(values), np.log(np.abs(values)), ls="", **{"marker": ".", "ms": 4, "color": "black", **style})
    quarters = [-math.pi, -math.pi / 2, 0.0, math.pi / 2, math.pi]
    axis.set(xlim=(-1.05 * math.pi, 1.05 * math.pi), xticks=quarters)
    axis.set_xticklabels(["-π", "-π/2", "0", "π/2", "π"])
    if title:
        axis.set_title(title, fontsize=9)
