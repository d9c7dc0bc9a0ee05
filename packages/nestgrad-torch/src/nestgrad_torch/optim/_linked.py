"""Several velocities at once: aggregated and recurrently linked momentum; and optimistic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, tree
from nestgrad_torch.optim._common import spread, zeros
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class AggregatedMomentumRule:
    """μ_m ← momenta_m μ_m - g for each of M velocities;  w ← w + learning_rate / M Σ_m μ_m.

    momenta: M floats or 0-d tensors, or a vector. learning_rate: a float, a 0-d tensor, or a tree shaped like params.
    The state is {"velocities": a tree of (M, *shape)}. (Lucas et al. 2019.)
    """

    learning_rate: Any
    momenta: Any

    def init(self, params: Any) -> Any:
        """Velocities of zero."""
        return {"velocities": _stacks(len(self.momenta), params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting."""
        weights = tree.leaves(params)
        slopes, old = tree.matched(params, grads, state["velocities"])
        rates = spread(self.learning_rate, params, weights, "learning_rate", rule="aggregated_momentum")
        momenta = _array(self.momenta, weights[0])
        new = [momenta.reshape(-1, *[1] * g.dim()) * v - g for v, g in zip(old, slopes, strict=True)]
        updates = [rate * v.mean(0) for rate, v in zip(rates, new, strict=True)]
        return tree.unflatten(params, updates), {"velocities": tree.unflatten(params, new)}


@dataclass(frozen=True, slots=True)
class RecurrentlyLinkedMomentumRule:
    """V ← mixing V - inputs ⊗ g;  w ← w + outputsᵀ V, V being M velocities.

    mixing: (M, M); inputs, outputs: (M,); each a tensor, or lists of floats and 0-d tensors. Aggregated momentum is
    a diagonal mixing, complex momentum a mixing that scales and turns. The state is {"velocities": a tree of
    (M, *shape)}. (Lorraine et al. 2022.)
    """

    mixing: Any
    inputs: Any
    outputs: Any

    def init(self, params: Any) -> Any:
        """Velocities of zero."""
        self._arrays(tree.leaves(params)[0])
        return {"velocities": _stacks(len(self.inputs), params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting."""
        mixing, inputs, outputs = self._arrays(tree.leaves(params)[0])
        slopes, old = tree.matched(params, grads, state["velocities"])
        rows = zip(old, slopes, strict=True)
        new = [torch.tensordot(mixing, v, 1) - torch.tensordot(inputs, g, 0) for v, g in rows]
        updates = [torch.tensordot(outputs, v, 1) for v in new]
        return tree.unflatten(params, updates), {"velocities": tree.unflatten(params, new)}

    def _arrays(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arrays = _array(self.mixing, like), _array(self.inputs, like), _array(self.outputs, like)
        count = len(self.inputs)
        for name, array, shape in zip(("mixing", "inputs", "outputs"), arrays, _shapes(count), strict=True):
            if tuple(array.shape) != shape:
                raise InvalidInput(
                    f"recurrently_linked_momentum {name}: got shape {tuple(array.shape)}, limit: {shape} for "
                    f"{count} inputs. Remedy: one row and one column a velocity."
                )
        return arrays


@dataclass(frozen=True, slots=True)
class OptimisticRule:
    """w ← w - learning_rate (2 g - g_before), g_before = g on the first step.

    learning_rate: a float, a 0-d tensor, or a tree shaped like params. The state is {"before", "count"}.
    (Popov 1980; Daskalakis et al. 2018.)
    """

    learning_rate: Any

    def init(self, params: Any) -> Any:
        """No gradient yet, and a zero count."""
        return {"before": zeros(params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and the learning rate."""
        weights, count = tree.leaves(params), state["count"]
        slopes, before = tree.matched(params, grads, state["before"])
        rates = spread(self.learning_rate, params, weights, "learning_rate", rule="optimistic")
        if isinstance(count, Tensor):  # in a traced program
            first = (count == 0).to(weights[0].device)
            before = [torch.where(first, g, old) for g, old in zip(slopes, before, strict=True)]
        elif not count:
            before = slopes
        updates = [-rate * (2.0 * g - old) for rate, g, old in zip(rates, slopes, before, strict=True)]
        return tree.unflatten(params, updates), {"before": tree.unflatten(params, slopes), "count": count + 1}


@schedulable
def aggregated_momentum(learning_rate: Any, momenta: Any) -> AggregatedMomentumRule:
    """Functional aggregated momentum; see AggregatedMomentumRule for the formula."""
    if not len(momenta):
        raise InvalidInput("aggregated_momentum: 0 momenta, limit: at least 1. Remedy: [0.0, 0.9, 0.99].")
    return AggregatedMomentumRule(learning_rate, momenta)


def recurrently_linked_momentum(mixing: Any, inputs: Any, outputs: Any) -> RecurrentlyLinkedMomentumRule:
    """Functional recurrently linked momentum; see RecurrentlyLinkedMomentumRule for the formula."""
    return RecurrentlyLinkedMomentumRule(mixing, inputs, outputs)


@schedulable
def optimistic(learning_rate: Any) -> OptimisticRule:
    """Functional optimistic gradient descent; see OptimisticRule for the formula."""
    return OptimisticRule(learning_rate)


def _stacks(count: int, params: Any) -> Any:
    return tree.map(lambda x: x.new_zeros(count, *x.shape), params)


def _shapes(count: int) -> tuple[tuple[int, ...], ...]:
    return (count, count), (count,), (count,)


def _array(values: Any, like: Tensor) -> Tensor:
    """Nested lists of floats and tensors as one tensor with the derivatives of its entries."""
    if isinstance(values, (list, tuple)):
        return torch.stack([_array(x, like) for x in values])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)
