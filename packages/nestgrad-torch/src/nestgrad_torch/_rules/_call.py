"""What every method's rule is given: one call's arguments, checked, and the table of rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import BilevelProblem, DtypeMismatch, InvalidInput, Rules, WeightUpdate, tree
from nestgrad_torch._derivatives import Linearization, Place, scalar_loss
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._second_order import require_differentiable
from nestgrad_torch._tree import Joint, Params, flat, split


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one `hypergradient`, hparams being tensors and params a point."""

    problem: BilevelProblem
    point: Params
    hparams: Any
    inner_batch: Any = None
    inner_batches: Any = None
    outer_batch: Any = None
    opt_state: Any = None
    warm_start: Any = None
    preconditioner: Any = None
    key: int | None = None

    def place(self) -> Place:
        """New graph leaves with these values."""
        point = self.point
        return Place(point.shape, point.plain, point.vector(), *self._leaves(), point.module, point.group)

    def joint_place(self) -> Place:
        """The same for losses alone, without a copy of large params: what is no loss reads no values of the leaf."""
        joint, there = Joint(self.point), self._leaves()
        return Place(joint.shape, self.point.plain, joint.vector, *there, self.point.module, self.point.group, joint)

    def _leaves(self) -> tuple[Any, list[Tensor]]:
        """(hparams of a new graph, its leaves)."""
        leaves = [h.detach().requires_grad_() for h in tree.leaves(self.hparams)]
        return tree.unflatten(self.hparams, leaves), leaves

    def batch(self, step: int) -> Any:
        """The inner batch of one step."""
        return self.inner_batch if self.inner_batches is None else self.inner_batches[step]

    def outer_loss(self, place: Place) -> Tensor:
        """The outer loss at the place's weights."""
        params = place.shape(place.weights)
        loss = scalar_loss(self.problem.outer_loss, "outer_loss", params, place.hparams, self.outer_batch)
        place.require_unchanged()
        require_differentiable(loss, self.point.module)
        return loss

    def carries_state(self) -> bool:
        """Whether the optimizer state is part of what is differentiated implicitly."""
        inner = self.problem.inner
        return isinstance(inner, WeightUpdate) and inner.carry == "weights_and_state"

    def adjoint_tree(self, vector: Tensor, linear: Linearization) -> Any:
        """A vector over s as a tree shaped like params, or with the state's floating leaves beside it."""
        count = linear.inputs[0].numel()
        params = self.point.plain(vector[:count])
        if not self.carries_state():
            return params
        return {"params": params, "opt_state": split(vector[count:], linear.state_leaves)}

    def adjoint_vector(self, given: Any, linear: Linearization, title: str) -> Tensor:
        """The inverse of adjoint_tree, refused by name where shapes or dtypes differ."""
        expected = self.adjoint_tree(torch.zeros_like(linear.residual), linear)
        return vector_like(expected, given, title)

    def preconditioner_vector(self, linear: Linearization) -> Tensor:
        """The preconditioner's diagonal; InvalidInput unless every entry is positive and finite."""
        like = self.point.plain(torch.zeros_like(linear.inputs[0]))
        if self.carries_state():
            like = self.adjoint_tree(torch.zeros_like(linear.residual), linear)
        diagonal = vector_like(like, self.preconditioner, "preconditioner")
        if not bool(((diagonal > 0.0) & diagonal.isfinite()).all()):
            raise InvalidInput(
                f"preconditioner: smallest entry {float(diagonal.min()):.3g}, limit: finite and above 0. "
                "Remedy: pass positive numbers, as 1 / (diagonal of the Hessian + damping)."
            )
        return diagonal


def vector_like(like: Any, given: Any, title: str) -> Tensor:
    """The entries of a tree shaped like `like` in one vector, or the error that names what differs."""
    try:
        (leaves,) = tree.matched(like, given)
    except InvalidInput as odd:
        raise InvalidInput(f"{title}: {odd}") from None
    for (name, expected), leaf in zip(tree.named_leaves(like).items(), leaves, strict=True):
        found = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
        if found != tuple(expected.shape):
            raise InvalidInput(
                f"{title}[{name!r}]: got {found}, limit: shape {tuple(expected.shape)}. "
                "Remedy: pass a tree of tensors like params."
            )
        if leaf.dtype != expected.dtype:
            raise DtypeMismatch(
                f"{title}[{name!r}] is {leaf.dtype}, limit: {expected.dtype} as params. Remedy: .to({expected.dtype})."
            )
    return flat([leaf.detach() for leaf in leaves])


METHODS: Rules[[Call], Findings] = Rules("torch")
"""rule(spec, call): the hypergradient that the method's docstring defines, on the device."""
