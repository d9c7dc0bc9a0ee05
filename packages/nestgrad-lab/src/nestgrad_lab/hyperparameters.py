"""The hyperparameters of SGD and of Adam, and the spaces that they live in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nestgrad import Log10, Logit, Space
from nestgrad_lab.errors import OptionError

RATE_RANGE = (1e-10, 1.0)
"""Clarke et al. 2022 clip the learning rate to this range after each hyper step."""


@dataclass(frozen=True)
class Hyperparameter:
    """Its option, or what errors call it; its title; the title of what the hypergradient is taken in; its space."""

    option: str
    title: str
    leaf: str
    space: Space
    log_axis: bool


HYPERPARAMETERS = {
    "learning_rate": Hyperparameter("--lr", "learning rate", "log10 of it", Log10(1e-4, clip=RATE_RANGE), True),
    "momentum": Hyperparameter("--momentum", "momentum", "logit of it", Logit(0.5), False),
    "weight_decay": Hyperparameter("--weight-decay", "weight decay", "log10 of it", Log10(1e-4), True),
}
ADAM = {
    "learning_rate": HYPERPARAMETERS["learning_rate"],
    "b1": Hyperparameter("b1", "b1", "logit of it", Logit(0.9, clip=(1e-6, 0.999)), False),
    "b2": Hyperparameter("b2", "b2", "logit of it", Logit(0.999, clip=(0.9, 0.99999)), False),
    "weight_decay": replace(HYPERPARAMETERS["weight_decay"], space=Log10(1e-4, clip=(1e-10, 1.0))),
}
"""Clipped, since Adam's step grows without bound where b1² > b2, and shrinks every weight where its decay does."""
SPACES = {"sgd": HYPERPARAMETERS, "adam": ADAM}
POOR_START = {name: float(known.space.initial) for name, known in HYPERPARAMETERS.items()}
"""Where runs start unless told otherwise: a learning rate a thousand times too small and little momentum."""


def spaces(values: Mapping[str, float], inner: str = "sgd") -> dict[str, Space]:
    """A space for each named initial value of the inner optimizer; raises as require_start does, naming the option."""
    found: dict[str, Space] = {}
    for name, value in values.items():
        known = SPACES[inner][name]
        require_start(known.space, value, known.option)
        found[name] = known.space.starting_at(value)
    return found


def require_start(space: Space, value: float, said: str) -> None:
    """Raise OutOfSpace unless the value is in the space, OptionError beyond its clip; said: what the user calls it."""
    space.require(value, said)
    low, high = space.clip or (value, value)
    if not low <= value <= high:
        raise OptionError(
            f"{said} {value:g}: beyond the range that tuning keeps it in, limit: {low:g} to {high:g}. "
            "Remedy: start inside."
        )
