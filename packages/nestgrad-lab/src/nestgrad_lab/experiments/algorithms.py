"""The algorithms that an experiment compares, and what each of them tunes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nestgrad_lab.engines import Carry, Inner
from nestgrad_lab.settings import OUTER_LR

Search = Literal["", "bayesian", "asha", "pbt"]
Rule = Literal["fixed", "drift", "one-pass", "self-chosen", "unrolled", "full-horizon", "descent"]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One way of training with hyperparameters that start anywhere.

    rule: fixed, they stay; drift, the learning rate is multiplied by a factor drawn once, every `every` steps;
    one-pass, a Neumann series of `lookback` terms every `every` steps; self-chosen, one-pass with both found by
    measuring; unrolled, reverse mode through the last `lookback` of every `every` steps; full-horizon, through whole
    runs of `lookback` steps, each from the start's weights, `stale` keeping the momentum between them; descent, that of
    Baydin as the paper's code has it: after every step log10 of the learning rate moves by 0.001 <g_new, g_old>.
    tuned: what moves. per_weight: what of that has a value for each weight. merged: trains on validation rows too.
    search: what is around the runs: nothing; Bayesian optimisation with `trials` whole trials, one after the other, of
    which the one with the lowest validation loss counts; or Ray Tune's ASHA or population-based training, with as many
    trials as the experiment has starts. best_of: groups of so many runs, of which the one with the lowest final
    validation loss counts. every, lookback, carry (of the derivative), inner, outer_lr as elsewhere.
    """

    rule: Rule
    tuned: tuple[str, ...] = ()
    per_weight: tuple[str, ...] = ()
    merged: bool = False
    best_of: int = 1
    every: int = 10
    lookback: int = 5
    carry: Carry = "weights"
    inner: Inner = "sgd"
    outer_lr: float = OUTER_LR
    stale: bool = False
    search: Search = ""
    trials: int = 1

    @property
    def settings(self) -> tuple[str, ...]:
        """The hyperparameters of its inner optimizer."""
        return SETTINGS[self.inner]

    @property
    def by_ray_tune(self) -> bool:
        """Whether Ray Tune schedules its trials."""
        return self.search in {"asha", "pbt"}


SETTINGS: dict[str, tuple[str, ...]] = {
    "sgd": ("learning_rate", "momentum", "weight_decay"),
    "adam": ("learning_rate", "b1", "b2", "weight_decay"),
}
_ALL, _ADAM = SETTINGS["sgd"], SETTINGS["adam"]

ALGORITHMS: dict[str, Algorithm] = {
    "Random": Algorithm(rule="fixed", merged=True),
    "Random (xLR)": Algorithm(rule="drift", merged=True, tuned=("learning_rate",)),
    "Random (3-batched)": Algorithm(rule="fixed", best_of=3),
    "Lorraine": Algorithm(rule="one-pass", tuned=("weight_decay",)),
    "Baydin": Algorithm(rule="descent", merged=True, tuned=("learning_rate",), every=1),
    "Ours WD+LR": Algorithm(rule="one-pass", tuned=("learning_rate", "weight_decay")),
    "Ours WD+LR+M": Algorithm(rule="one-pass", tuned=_ALL),
    "Ours WD+HDLR+M": Algorithm(rule="one-pass", tuned=_ALL, per_weight=("learning_rate",)),
    "Diff-through-Opt": Algorithm(rule="unrolled", tuned=_ALL),
    "Full-horizon": Algorithm(rule="full-horizon", tuned=_ALL, lookback=4000, every=4000),
    "Bayesian optimisation": Algorithm(rule="fixed", search="bayesian", trials=30),
    "ASHA": Algorithm(rule="fixed", search="asha"),
    "ASHA, Ours WD+LR+M": Algorithm(rule="one-pass", tuned=_ALL, search="asha"),
    "PBT": Algorithm(rule="fixed", search="pbt"),
    "PBT, Ours WD+LR+M": Algorithm(rule="one-pass", tuned=_ALL, search="pbt"),
    "Random Adam": Algorithm(rule="fixed", merged=True, inner="adam"),
    "Ours Adam": Algorithm(rule="one-pass", tuned=_ADAM, inner="adam"),
}
"""By the name in a table; those of the paper come first. An experiment's file may vary any field under a new name."""
