"""What a backend's author supplies, and how it is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nestgrad import Backend, InvalidInput, get_backend

Array = Any


class ArrayNamespace(Protocol):
    """The functions that the problems' losses use, besides + - * / ** @ and indexing: all elementwise but sum."""

    def exp(self, x: Array, /) -> Array: ...
    def log(self, x: Array, /) -> Array: ...
    def tanh(self, x: Array, /) -> Array: ...
    def sum(self, x: Array, /) -> Array: ...


def _no_precision(dtype: str) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Harness:
    """A backend and the few things needed to put a problem to it.

    backend: the module. xp: functions that the backend differentiates. from_numpy, to_numpy: arrays there and back,
    keeping dtype and shape, 0-d included. dtypes: the precisions to check. sgd(learning_rate, momentum, weight_decay):
    a functional optimizer, for WeightUpdate and OnePass; a setting is a scalar or a tree like the params.
    adam(learning_rate): an outer optimizer (0.9, 0.999, 1e-8), for OnePass. detach: cuts a value off from
    differentiation. precision(dtype): a context in which that dtype exists. reversible(learning_rate, momentum): the
    optimizer for Unrolled(mode="reversible"). grad(function): the gradient of a scalar function of a tree. recomputed:
    units in the last place by which a recomputed unroll may differ from a stored one, where a compiler fuses the two
    differently. optim: a namespace with sgd, adam, adamw, rmsprop, adagrad, lion, clipped, piecewise_constant,
    cosine, complex_momentum, complex_adam, aggregated_momentum, recurrently_linked_momentum and optimistic, of the
    signatures and formulas of nestgrad_reference.optim.
    """

    backend: Backend
    xp: ArrayNamespace
    from_numpy: Callable[[np.ndarray], Array]
    to_numpy: Callable[[Array], np.ndarray]
    dtypes: tuple[str, ...]
    sgd: Callable[[Any, Any, Any], Any] | None = None
    adam: Callable[[float], Any] | None = None
    detach: Callable[[Array], Array] | None = None
    precision: Callable[[str], AbstractContextManager[Any]] = _no_precision
    reversible: Callable[[Any, Any], Any] | None = None
    grad: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] | None = None
    recomputed: int = 0
    optim: Any = None


def load_harness(name: str, *, device: str | None = None) -> Harness:
    """The harness of an installed backend ("torch"), or of a path "package.module:attribute".

    The attribute is a Harness, or a function of the device that returns one.
    """
    path = name if ":" in name else f"{get_backend(name).__name__}.testing:harness"
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"harness {path!r}: {error}. Remedy: name it as package.module:attribute.") from error
    if isinstance(found, Harness):
        if device is not None:
            raise InvalidInput(
                f"harness {path!r}: fixed to its own device, asked for {device!r}, limit: 0 devices. "
                "Remedy: make it a function of device."
            )
        return found
    if not callable(found):
        raise InvalidInput(
            f"harness {path!r}: got {type(found).__name__}, limit: a Harness or a function of device. Remedy: make one."
        )
    made = found(device) if device is not None else found()
    if not isinstance(made, Harness):
        raise InvalidInput(f"harness {path!r}: got {type(made).__name__}, limit: a Harness. Remedy: return one.")
    return made


def require_dtypes(harness: Harness, dtypes: Iterable[str]) -> None:
    """Raise InvalidInput for a dtype that the harness does not list."""
    for dtype in dtypes:
        if dtype not in harness.dtypes:
            raise InvalidInput(
                f"dtype {dtype!r}: limit: {', '.join(harness.dtypes)} of {harness.backend.__name__}'s harness. "
                "Remedy: choose one of these, or add it to Harness.dtypes."
            )
