"""What a run asks of a framework."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, Protocol

from nestgrad import Backend, Implicit, UnknownBackend, available_backends, get_backend
from nestgrad_lab.batches import Segment
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.errors import MissingPackage
from nestgrad_lab.models import Weights

ENGINES = ("torch", "jax")
"""The backends that the lab trains with, the default first."""
Inner = Literal["sgd", "adam"]
"""The optimizer whose settings are tuned: SGD with momentum and weight decay, or Adam with decoupled weight decay."""
Carry = Literal["weights", "weights_and_state"]
CARRIES: tuple[Carry, ...] = ("weights", "weights_and_state")
"""What a hypergradient sees move, see nestgrad.WeightUpdate: the weights, or the optimizer's state as well."""
PACKAGES = ("nestgrad", "nestgrad-lab", "nestgrad-torch", "nestgrad-jax", "torch", "jax", "optax", "numpy")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a framework needs to know besides data and weights.

    tuned: initial values of the hyperparameters that move; fixed: values of those that do not. carry: WeightUpdate's.
    inner: the optimizer that these are the settings of.
    """

    task: Task
    dtype: str
    device: str
    every: int
    method: Implicit
    outer_lr: float
    tuned: Mapping[str, float]
    fixed: Mapping[str, float] = field(default_factory=dict)
    carry: Carry = "weights"
    inner: Inner = "sgd"

    @property
    def start(self) -> dict[str, float]:
        """Initial values of all hyperparameters."""
        return {**self.fixed, **self.tuned}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a segment of tuning saw: the inner loss of each step and, where it ended in a hyper step, the rest.

    hypergradient: in the unconstrained leaves. values: natural, after the step. status: the name of a nestgrad.Status.
    """

    inner_losses: Array
    tuned: bool
    outer_loss: float
    hypergradient: Mapping[str, float]
    values: Mapping[str, float]
    status: str


class Engine(Protocol):
    """Two runs from the same weights, one tuned and one plain; each call trains one segment and waits for its end."""

    def __init__(self, plan: Plan, weights: Weights, train: Part, valid: Part) -> None: ...

    def warm_up(self, segments: Sequence[Segment]) -> None:
        """Run these segments and forget the result, so that no later call compiles or allocates for the first time."""
        ...

    def tune(self, segment: Segment) -> None:
        """Train with one-pass tuning."""
        ...

    def train(self, segment: Segment) -> None:
        """Train with the initial hyperparameters, by the framework's own optimizer."""
        ...

    def tuned_report(self) -> Report:
        """Of the last segment of tuning."""
        ...

    def plain_losses(self) -> Array:
        """The inner losses of the last segment of plain training."""
        ...

    def tuned_weights(self) -> Weights:
        """The tuned run's weights now."""
        ...

    def plain_weights(self) -> Weights:
        """The plain run's weights now."""
        ...


def backend_named(name: str | None) -> tuple[str, Backend]:
    """The installed backend of this name, or the first installed that the lab trains with.

    Raises UnknownBackend naming those installed, MissingPackage where its framework does not import.
    """
    installed = [known for known in ENGINES if known in available_backends()]
    there = ", ".join(installed) or "none"
    if name is None and not installed:
        raise MissingPackage(
            f"0 backends are installed that the lab trains with, limit: 1 of {', '.join(ENGINES)}. "
            "Remedy: pip install 'nestgrad-lab[torch]' or 'nestgrad-lab[jax]'."
        )
    chosen = name if name is not None else installed[0]
    if chosen not in installed:
        known = chosen in available_backends()
        what = "has no training engine in the lab" if known else "is not installed"
        remedy = f"use --backend {installed[0]}" if installed else "pip install 'nestgrad-lab[torch]'"
        raise UnknownBackend(f"--backend {chosen!r} {what}, limit: {there}. Remedy: {remedy}.")
    try:
        return chosen, get_backend(chosen)
    except ImportError as error:
        raise MissingPackage(
            f"backend {chosen!r} is installed but does not import: {error}. "
            f"Remedy: pip install 'nestgrad-lab[{chosen}]'."
        ) from error


def engine_for(backend: str) -> type[Engine]:
    """The engine's class; its framework is imported here and not before."""
    return importlib.import_module(f"nestgrad_lab.engines.{backend}_engine").ENGINE


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what a run's numbers depend on, of what is installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
