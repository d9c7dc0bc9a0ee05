"""Hypergradient descent in torch."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    DescentState,
    DisconnectedHyperparameter,
    HyperGradient,
    OnePassInfo,
    Stats,
    Status,
    WeightUpdate,
    check_descent,
    error_for,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_torch._derivatives import functional_optimizer
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._steps import Draws
from nestgrad_torch._tree import Params, check_matching, flat
from nestgrad_torch.tuners._common import (
    Tuner,
    extremes,
    is_finite,
    require_alone,
    stepped,
    total_norm,
    with_gradients,
)


class HypergradientDescent(Tuner):
    """Move optimizer settings by the training gradient that they led to (Baydin et al. 2018).

    nestgrad._tuners.hypergradient_descent defines each step. `step` takes no outer batch; its info.hypergradient.total
    is dL_t/d(leaf), its outer_loss L_t. throw: raise when a hypergradient is NaN or infinite.
    """

    def __init__(
        self, inner: WeightUpdate, *, hparams: Any, step_size: float, rule: str = "additive", throw: bool = True
    ) -> None:
        super().__init__(check_descent(inner, hparams, step_size, rule), hparams)
        self.step_size, self.rule, self.throw = step_size, rule, throw

    def __repr__(self) -> str:
        return f"HypergradientDescent(step_size={self.step_size}, rule={self.rule!r})"

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> DescentState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        require_alone("HypergradientDescent", params)
        return {**self._begin(params), "previous": None}  # type: ignore[return-value]

    def step(self, state: DescentState, inner_batch: Any) -> tuple[DescentState, OnePassInfo]:
        """One training step, before it a move of the hyperparameters; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch)

    def _step(self, state: DescentState, inner_batch: Any) -> tuple[DescentState, OnePassInfo]:
        point, count, previous = self._point(state), state["step"] + 1, state["previous"]
        if count == 1:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch)
        settings, found = self._recall.about(state["hparams"])
        after: DescentState = {**state, "step": count, "buffers": point.fresh_buffers()}
        draws = Draws(point)
        loss, grads, shared = self._gradient(point, after["buffers"], settings, inner_batch, first=count == 1)
        if previous is not None:
            slope = flat(grads)
            found, natural, lengths = self._hypergradient(previous, state["hparams"], slope, loss, point)
            if self.throw and not found.status.ok and not is_finite(found):
                raise error_for(found.status, self, found.stats, where=f"training step {count}")
            self._watch.see(total_norm(found), step=count)
            after["hparams"] = self._moved(state["hparams"], settings, found, natural, lengths, slope)
            settings = self.values(after)
            if shared:  # the loss knows the values that have just moved
                draws.again()
                after["buffers"] = point.fresh_buffers()
                _, grads, _ = self._gradient(point, after["buffers"], settings, inner_batch, first=False)
        slopes, rule = tree.unflatten(point.tree, grads), functional_optimizer(self._update, settings)
        after["params"], after["opt_state"] = stepped(rule, slopes, state["opt_state"], state["params"])
        after["previous"] = {"params": state["params"], "opt_state": state["opt_state"], "grads": slopes}
        info = OnePassInfo(inner_loss=loss, tuned=previous is not None, hypergradient=found, hparams=settings)
        return after, info

    def _gradient(
        self, point: Params, buffers: dict[str, Tensor], settings: Any, batch: Any, *, first: bool
    ) -> tuple[Tensor, list[Tensor], bool]:
        """(L_in, its gradient, whether it depends on a hyperparameter)."""
        weights = point.fresh()
        values = [value.detach().requires_grad_() for value in tree.leaves(settings)]
        loss = self._inner_loss(point.view(weights, buffers), tree.unflatten(settings, values), batch)
        if not loss.requires_grad:
            return loss.detach(), [torch.zeros_like(w) for w in weights], False
        with recomputation_refused(point.module) if first else contextlib.nullcontext():
            pulled = torch.autograd.grad(loss, [*weights, *values], allow_unused=True)
        grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, pulled, strict=False)]
        return loss.detach(), grads, any(g is not None for g in pulled[len(weights) :])

    def _hypergradient(
        self, previous: Any, hparams: Any, slope: Tensor, loss: Tensor, point: Params
    ) -> tuple[HyperGradient, list[Tensor], list[Tensor]]:
        """(-(∂u/∂leaf)ᵀ g, the same in natural values, |∂u/∂λ| for the multiplicative rule)."""
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(hparams)]
        values = tree.leaves(self._natural(tree.unflatten(hparams, leaves)))
        rule = functional_optimizer(self._update, tree.unflatten(hparams, values))
        updates, _ = rule.update(previous["grads"], previous["opt_state"], previous["params"])
        moved = flat(tree.matched(previous["params"], updates)[0])
        natural = self._pulled(hparams, moved, values, slope)
        lengths = [] if self.rule == "additive" else self._lengths(moved, values)
        (total,) = self._chain(hparams, [natural])
        numbers = torch.stack([loss, *(vector_norm(x) for x in (flat(total), slope, flat(point.leaves)))]).tolist()
        stats = Stats(
            rhs_norm=numbers[2],
            indirect_norm=numbers[1],
            params_norm=numbers[3],
            steps=1,
            eps=torch.finfo(slope.dtype).eps,
        )
        tree_of = tree.unflatten(hparams, total)
        found = HyperGradient(
            total=tree_of,
            direct=tree.map(torch.zeros_like, tree_of),
            indirect=tree_of,
            outer_loss=loss,
            status=Status.TRUNCATED if all(map(math.isfinite, numbers[:3])) else Status.NONFINITE,
            stats=stats,
        )
        return found, natural, lengths

    def _pulled(self, hparams: Any, moved: Tensor, values: list[Tensor], slope: Tensor) -> list[Tensor]:
        """(∂(w + updates)/∂λ)ᵀ g, refused by name where the optimizer does not use a hyperparameter."""
        pulled: tuple[Tensor | None, ...] = (None,) * len(values)
        if moved.requires_grad:
            pulled = torch.autograd.grad(moved, values, slope, retain_graph=True, allow_unused=True)
        for name, part in zip(tree.named_leaves(hparams), pulled, strict=True):
            if part is None:
                raise DisconnectedHyperparameter(
                    f"hparams[{name!r}]: 0 differentiable paths to the weight update at a fixed gradient, limit: at "
                    "least 1. Remedy: tune it with OnePass, which sees the loss too, or look for detach or .item()."
                )
        return [part for part in pulled if part is not None]

    def _lengths(self, moved: Tensor, values: list[Tensor]) -> list[Tensor]:
        """|∂u/∂λ| for each 0-d hyperparameter: the derivative, in a dummy adjoint, of its pull-back."""
        dummy = torch.zeros_like(moved, requires_grad=True)
        pulled = torch.autograd.grad(moved, values, dummy, create_graph=True)
        return [vector_norm(torch.autograd.grad(part, dummy, retain_graph=True)[0]) for part in pulled]

    def _moved(
        self,
        hparams: Any,
        settings: Any,
        found: HyperGradient,
        natural: list[Tensor],
        lengths: list[Tensor],
        slope: Tensor,
    ) -> Any:
        """The leaves after the move, within their clip ranges; OutOfSpace for a value that left its space."""
        with torch.no_grad():
            if self.rule == "additive":
                rows = zip(tree.leaves(hparams), tree.leaves(found.total), strict=True)
                leaves = [leaf - self.step_size * total for leaf, total in rows]
            else:
                steps = [_cosine(h, length * vector_norm(slope)) for h, length in zip(natural, lengths, strict=True)]
                pairs = zip(tree.leaves(settings), steps, strict=True)
                moved = tree.unflatten(hparams, [x * (1.0 - self.step_size * step) for x, step in pairs])
                require_initial(self.spaces, moved, extremes)
                leaves = tree.leaves(map_spaces(lambda space, x: space.unconstrained(x, OPS), self.spaces, moved))
            clipped = self._clipped(hparams, leaves)
            require_initial(self.spaces, self._natural(clipped), extremes)
        return clipped


def _cosine(product: Tensor, sizes: Tensor) -> Tensor:
    """product / sizes; 0 where a size is."""
    some = sizes != 0.0
    return torch.where(some, product / torch.where(some, sizes, 1.0), 0.0)
