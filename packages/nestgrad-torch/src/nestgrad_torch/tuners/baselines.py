"""Hyperparameters that stay, and ones that drift by factors drawn once, in torch."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from nestgrad import (
    FixedState,
    OnePassInfo,
    RandomMultiplierState,
    WeightUpdate,
    check_fixed,
    check_random_multiplier,
    map_spaces,
    require_initial,
    space_paths,
    tree,
)
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import check_matching
from nestgrad_torch.tuners._common import Tuner, extremes, require_alone, with_gradients
from nestgrad_torch.tuners._one_pass_work import trained


class Fixed(Tuner):
    """Train with hparams as they are; nestgrad._tuners.baselines defines each step."""

    def __init__(self, inner: WeightUpdate, *, hparams: Any) -> None:
        super().__init__(check_fixed(inner, hparams), hparams)

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> FixedState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        require_alone(type(self).__name__, params)
        return cast("FixedState", self._begin(params))

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """One training step; the state passed in is not changed. The outer batch is not looked at."""
        return with_gradients(self._step, state, inner_batch)

    def _step(self, state: Any, inner_batch: Any) -> tuple[Any, OnePassInfo]:
        point, first = self._point(state), not state["step"]
        if first:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch)
        values, nothing = self._recall.about(state["hparams"])
        after, losses = trained(self._update, point, state, values, [inner_batch], audit=first)
        after["step"] = state["step"] + 1
        return after, OnePassInfo(inner_loss=losses[0], tuned=False, hypergradient=nothing, hparams=values)


class RandomMultiplier(Fixed):
    """Multiply hparams by factors drawn once; nestgrad._tuners.baselines defines each step."""

    def __init__(self, inner: WeightUpdate, *, hparams: Any, every: int, low: float = 0.95, high: float = 1.01) -> None:
        Tuner.__init__(self, check_random_multiplier(inner, hparams, every, low, high), hparams)
        self.every, self.low, self.high = every, low, high

    def init(self, params: Any, *, key: int) -> RandomMultiplierState:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state before the first step; key seeds the factors."""
        state = super().init(params)
        factors = self.factors(key, (), tree.leaves(state["hparams"])[0])
        return cast("RandomMultiplierState", {**state, "multipliers": factors})

    def factors(self, key: int, shape: tuple[int, ...], like: Tensor) -> Any:
        """A tree like the spaces, of factors of this shape, drawn by a generator of their own."""
        generator = torch.Generator().manual_seed(key)

        def drawn(_: Any) -> Tensor:
            share = torch.rand(shape, generator=generator, dtype=torch.float64)
            return (self.low + (self.high - self.low) * share).to(like.dtype).to(like.device)

        return tree.map(drawn, self.spaces)

    def _step(self, state: Any, inner_batch: Any) -> tuple[Any, OnePassInfo]:
        after, info = super()._step(state, inner_batch)
        if after["step"] % self.every:
            return after, info
        after["hparams"] = self.multiplied(state)
        values, nothing = self._recall.about(after["hparams"])
        return after, OnePassInfo(inner_loss=info.inner_loss, tuned=True, hypergradient=nothing, hparams=values)

    @torch.no_grad()
    def multiplied(self, state: Any) -> Any:
        """The leaves of the natural values times their factors, within their clip ranges; OutOfSpace beyond a space."""
        factors, now = tree.named_leaves(state["multipliers"]), self.values(state)
        rows = zip(space_paths(self.spaces, now), tree.leaves(now), strict=True)
        values = tree.unflatten(now, [value * _beside(factors[path], value) for path, value in rows])
        require_initial(self.spaces, values, extremes)
        leaves = map_spaces(lambda space, value: space.unconstrained(value, OPS), self.spaces, values)
        return self._clipped(state["hparams"], tree.leaves(leaves))


def _beside(factor: Tensor, value: Tensor) -> Tensor:
    """The factors, of shape () or one a run, with the value's number of axes."""
    return factor.reshape(factor.shape + (1,) * (value.dim() - factor.dim()))
