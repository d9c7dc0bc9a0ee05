"""Several momentum buffers at once: averaged, or mixed with one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import InvalidInput, tree
from nestgrad_reference._tree import spread, xp
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class AggregatedMomentum:
    """μ_m ← β_m μ_m - g for each of M momenta β_m;  update = learning_rate / M ⊙ Σ μ_m.

    momenta: M numbers, or M trees like params. The state is {"traces": [μ_1, …, μ_M]}, zero at first.
    (Lucas et al. 2019.)
    """

    learning_rate: Any
    momenta: Any

    def __post_init__(self) -> None:
        many = isinstance(self.momenta, (list, tuple)) or np.ndim(self.momenta) > 0
        if not many or not len(self.momenta):
            raise InvalidInput(
                f"aggregated_momentum: momenta {self.momenta!r}, limit: a list of 1 or more. Remedy: pass [0.0, 0.9]."
            )

    def init(self, params: Any) -> Any:
        """Zero traces."""
        return {"traces": _zeros(len(self.momenta), params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(learning_rate / M ⊙ Σ μ_m, new state)."""
        each = [spread(self.momenta[m], params) for m in range(len(self.momenta))]
        rate, count = spread(self.learning_rate, params), len(each)
        traces = [
            tree.map(lambda mu, g, beta: beta * mu - g, trace, grads, beta)
            for trace, beta in zip(state["traces"], each, strict=True)
        ]
        return tree.map(lambda eta, *mus: eta / count * sum(mus), rate, *traces), {"traces": traces}


@dataclass(frozen=True, slots=True)
class RecurrentlyLinkedMomentum:
    """M_k ← Σ_l mixing_kl M_l - inputs_k g;  update = Σ_k outputs_k M_k.

    mixing: (K, K); inputs and outputs: (K,), the step size being in the outputs. The state is {"traces": [M_1, …,
    M_K]}, zero at first. (Lorraine et al. 2022.)
    """

    mixing: Any
    inputs: Any
    outputs: Any

    def __post_init__(self) -> None:
        shapes = tuple(np.shape(x) for x in (self.mixing, self.inputs, self.outputs))
        size = shapes[1][0] if shapes[1] else 0
        if not size or shapes != ((size, size), (size,), (size,)):
            raise InvalidInput(
                f"recurrently_linked_momentum: mixing, inputs and outputs of shapes {shapes}, limit: (K, K), (K,), "
                "(K,) with K at least 1. Remedy: one row and column of mixing for each input and output."
            )

    def init(self, params: Any) -> Any:
        """Zero traces."""
        return {"traces": _zeros(np.shape(self.inputs)[0], params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(Σ_k outputs_k M_k, new state)."""
        mixing, inputs, outputs = (xp.array(x) for x in (self.mixing, self.inputs, self.outputs))
        old = state["traces"]
        sizes = range(np.shape(inputs)[0])
        traces = [_weighted(mixing[k], old, lambda mixed, g, k=k: mixed - inputs[k] * g, grads) for k in sizes]
        return _weighted(outputs, traces, lambda mixed: mixed), {"traces": traces}


@schedulable
def aggregated_momentum(learning_rate: Any, momenta: Any) -> AggregatedMomentum:
    """SGD with an average of several momenta; see AggregatedMomentum for the formula."""
    return AggregatedMomentum(learning_rate, momenta)


def recurrently_linked_momentum(mixing: Any, inputs: Any, outputs: Any) -> RecurrentlyLinkedMomentum:
    """Momentum buffers that feed each other; see RecurrentlyLinkedMomentum for the formula."""
    return RecurrentlyLinkedMomentum(mixing, inputs, outputs)


def _zeros(count: int, params: Any) -> list[Any]:
    return [tree.map(np.zeros_like, params) for _ in range(count)]


def _weighted(weights: Any, traces: list[Any], then: Any, *others: Any) -> Any:
    """then(Σ_k weights_k traces_k, …) leaf by leaf, with the leaves of the others beside the sum."""

    def leaf(first: Any, *rest: Any) -> Any:
        entries = (first, *rest)
        return then(sum(weights[k] * entries[k] for k in range(len(traces))), *entries[len(traces) :])

    return tree.map(leaf, *traces, *others)
