"""What an experiment's entries must be; OptionError names the entry that is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nestgrad_lab.errors import OptionError
from nestgrad_lab.networks import SIZES
from nestgrad_lab.settings import DTYPES

if TYPE_CHECKING:
    from nestgrad_lab.experiments.spec import Experiment

FIGURES = ("distribution", "curves", "trajectories", "grid")
"""What an experiment can draw: see nestgrad_lab.experiments.figures."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the one that is spelled most like it, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Nearest: {near[0]!r}." if near else ""


def require_usable(experiment: Experiment) -> None:
    """Raise OptionError unless numbers and names can be used."""
    where = experiment.name
    for entry in ("starts", "steps", "block", "looks", "resamples"):
        _require_whole(where, entry, getattr(experiment, entry), 1)
    _require_network(experiment)
    _require_whole(where, "seed", experiment.seed, 0)
    if experiment.batch is not None:
        _require_whole(where, "batch", experiment.batch, 1)
    if not experiment.data or not experiment.algorithms:
        raise OptionError(f"experiment {where}: 0 data sets or algorithms, limit: 1 of each. Remedy: name them.")
    if experiment.dtype not in DTYPES:
        raise OptionError(f"experiment {where}: dtype {experiment.dtype!r}, limit: {' or '.join(DTYPES)}. Remedy: one.")
    for name in experiment.figures:
        if name not in FIGURES:
            raise OptionError(f"experiment {where}: figure {name!r}, limit: {', '.join(FIGURES)}. Remedy: name one.")
    for name in experiment.algorithms:
        every = experiment.algorithm(name).every
        _require_whole(where, f"steps (with {name!r})", experiment.steps, every)
    _require_data(experiment)


def _require_data(experiment: Experiment) -> None:
    where = experiment.name
    for one in experiment.data:
        for entry in ("held", "window", "vocabulary"):
            if (value := getattr(one, entry)) is not None:
                _require_whole(where, f"{entry} of {one.name}", value, 1)
        if one.validation is not None and not 0.0 < one.validation < 1.0:
            raise OptionError(
                f"experiment {where}: validation {one.validation!r} of {one.name}, limit: above 0 and below 1. "
                "Remedy: 0.1."
            )


def _require_network(experiment: Experiment) -> None:
    where, network = experiment.name, experiment.network
    if network not in SIZES:
        raise OptionError(
            f"experiment {where}: network {network!r}, limit: {', '.join(SIZES)}.{nearest(network, SIZES)} "
            "Remedy: name one of these."
        )
    for entry in sorted({name for sizes in SIZES.values() for name in sizes}):
        value = getattr(experiment, entry)
        if value is not None and entry not in SIZES[network]:
            raise OptionError(
                f"experiment {where}: {entry} = {value!r} with network {network!r}, limit: "
                f"{', '.join(SIZES[network])}. Remedy: leave it out."
            )
        if value is not None:
            _require_whole(where, entry, value, 1)
    clip: Any = experiment.clip
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or not clip > 0.0):
        raise OptionError(f"experiment {where}: clip = {clip!r}, limit: a number above 0. Remedy: leave it out.")


def _require_whole(where: str, entry: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(
            f"experiment {where}: {entry} = {value!r}, limit: a whole number, at least {least}. "
            f"Remedy: {entry} = {least}."
        )
