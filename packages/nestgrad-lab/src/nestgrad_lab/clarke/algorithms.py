"""What each algorithm of the experiment tunes."""

from __future__ import annotations

from nestgrad_lab.errors import OptionError

ALGORITHMS: dict[str, dict[str, tuple[str, ...]]] = {
    "sgd": {
        "WD+LR+M": ("learning_rate", "momentum", "weight_decay"),
        "WD+LR": ("learning_rate", "weight_decay"),
        "Lorraine": ("weight_decay",),
        "Random": (),
    },
    "adam": {
        "Adam": ("learning_rate", "b1", "b2", "weight_decay"),
        "Random Adam": (),
    },
}
"""By inner optimizer: names and what they tune, the rest staying as drawn; the first is the default.

Those of SGD are the paper's. What tunes nothing trains on training and validation rows.
"""


def algorithm_named(inner: str, name: str | None) -> str:
    """The name, or the optimizer's default where it is None; OptionError where there is none such."""
    if inner not in ALGORITHMS:
        raise OptionError(f"--inner {inner!r}, limit: {' or '.join(ALGORITHMS)}. Remedy: name one of these.")
    known = ALGORITHMS[inner]
    if name is None:
        return next(iter(known))
    if name not in known:
        others = [other for other, algorithms in ALGORITHMS.items() if name in algorithms]
        remedy = f"pass --inner {others[0]}" if others else "name one of these"
        raise OptionError(f"--algorithm {name!r} with --inner {inner}, limit: {', '.join(known)}. Remedy: {remedy}.")
    return name
