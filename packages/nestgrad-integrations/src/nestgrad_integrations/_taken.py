"""The optimizer's own step, held to the functional rule that is differentiated in its place.

Two steps are taken for one where they agree to rounding. The same sums in another order differ by some 1e-6 of the
largest entry in float32 (1e-14 in float64); a step that is another one differs by 4e-3 at least for a gradient in
bfloat16, by a factor for clipping, loss scaling or accumulation, and by about its own size for another batch. The
limits, 1e-4 and 1e-10, lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_integrations._errors import StepMismatch

LIMITS = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Largest difference taken for rounding, as a part of the largest entry of what is compared."""

Named = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an optimizer: the weights before and after it, the gradients as they stood before it."""

    before: Named
    grads: Named
    after: Named


class Followed:
    """A functional rule whose `step` arrives where the optimizer did, once it is checked that the rule does.

    rule: the whole rule, which everything but `step` is of. bare: the same without clipping. clip: None, or what clips.
    """

    def __init__(self, rule: Any, bare: Any, clip: Callable[[Any], Any] | None, taken: Step) -> None:
        self._rule, self._bare, self._clip, self._taken = rule, bare, clip, taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the weights after the optimizer's step, the rule's state after it); StepMismatch where they differ."""
        own = grads if self._clip is None else self._clip(grads)
        used, clipped = self._gradients_used(grads, own)
        arrived, after = moved(self._bare, clipped, state, params)
        require_arrival(arrived, self._taken)
        try:
            _require_gradients(used, self._taken.grads)
        except StepMismatch:
            # Where gradients are down to rounding, as at the end of training, their effect on the weights decides.
            if not _agree(moved(self._bare, own, state, params)[0], self._taken):
                raise
        return tree.map(lambda _, x: x, params, dict(self._taken.after)), after

    def _gradients_used(self, grads: Any, own: Any) -> tuple[Any, Any]:
        """(ours as the optimizer's stood before its step: clipped by then or not, the optimizer's after clipping)."""
        theirs = dict(self._taken.grads)
        if self._clip is None or _largest_gap(own, theirs) < _largest_gap(grads, theirs):
            return own, theirs
        return grads, self._clip(theirs)


def clipper(max_norm: float) -> Callable[[Any], Any]:
    """g -> g · min(1, max_norm / (|g| + 1e-6)), |g| over all params, as torch.nn.utils.clip_grad_norm_ does."""

    def clip(grads: Any) -> Any:
        norm = torch.stack([torch.linalg.vector_norm(g) for g in tree.leaves(grads)]).norm()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return tree.map(lambda g: g * factor, grads)

    return clip


def moved(rule: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """(next params, next state) by a functional rule."""
    if hasattr(rule, "step"):
        return rule.step(grads, state, params)
    updates, after = rule.update(grads, state, params)
    return tree.map(torch.add, params, updates), after


def require_arrival(arrived: Any, taken: Step) -> None:
    """Raise StepMismatch unless these are the weights that the optimizer arrived at."""
    found = _excess(arrived, taken)
    if found is not None:
        name, gap, limit = found
        raise StepMismatch(
            f"LiveOnePass: the optimizer moved {name!r} to other weights than its formula does: largest difference "
            f"{gap:.3g}, limit {limit:.3g}. Remedy: pass clip_grad_norm if gradients are clipped after before_step; "
            "call before_step right before optimizer.step() and after_step right after it; no scheduler, closure or "
            "other code may change settings or weights in between."
        )


def _agree(arrived: Any, taken: Step) -> bool:
    return _excess(arrived, taken) is None


def _excess(arrived: Any, taken: Step) -> tuple[str, float, float] | None:
    """(name, largest difference, limit) of the first param that ends elsewhere; the limit is that of its own step.

    To the limit's part of the step come four roundings of the weights themselves, which hide a smaller step.
    """
    for name, there in tree.named_leaves(arrived).items():
        before, after = taken.before[name], taken.after[name]
        eps = torch.finfo(after.dtype).eps
        limit = LIMITS[after.dtype] * _size(after - before) + 4.0 * eps * max(_size(before), _size(after))
        gap = _gap(there, after)
        if not gap <= limit:
            return name, gap, limit
    return None


def _require_gradients(ours: Any, theirs: Named) -> None:
    """Raise StepMismatch unless the inner loss's gradients are those that the optimizer was given."""
    gaps = {name: _gap(g, theirs[name]) for name, g in tree.named_leaves(ours).items()}
    name = max(gaps, key=gaps.__getitem__)
    limit = LIMITS[theirs[name].dtype] * max(_size(g) for g in theirs.values())
    if not gaps[name] <= limit:
        raise StepMismatch(
            f"LiveOnePass: inner_loss's gradient on the batch is not the one the optimizer was given: largest "
            f"difference {gaps[name]:.3g} in {name!r}, limit {limit:.3g}. Remedy: pass before_step the batch of this "
            "step, an inner_loss that is the one trained on, and clip_grad_norm if gradients are clipped; no gradient "
            "accumulation, autocast or loss scaling; draw random numbers inside the module only; where a pass may lead "
            "to no step, call before_forward as each step starts."
        )


def _largest_gap(ours: Any, theirs: Named) -> float:
    return max(_gap(g, theirs[name]) for name, g in tree.named_leaves(ours).items())


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest |a - b|; entries that are the same infinity, or both NaN, do not differ."""
    a, b = _real(a), _real(b)
    same = (a == b) | (a.isnan() & b.isnan())
    gaps = torch.where(same, 0.0, (a - b).abs())
    return float(gaps.max()) if gaps.numel() else 0.0


def _size(x: Tensor) -> float:
    """Largest finite |entry|."""
    x = _real(x)
    finite = torch.where(x.isfinite(), x.abs(), 0.0)
    return float(finite.max()) if finite.numel() else 0.0


def _real(x: Tensor) -> Tensor:
    """Counts and flags among buffers as numbers."""
    return x if x.is_floating_point() else x.double()


def require_buffers(ours: Named, theirs: Named) -> None:
    """Raise StepMismatch unless the pass that was done again left the buffers as the loop's own pass did."""
    for name, buffer in theirs.items():
        limit = LIMITS.get(buffer.dtype, 0.0) * _size(buffer)
        gap = _gap(ours[name], buffer)
        if not gap <= limit:
            raise StepMismatch(
                f"LiveOnePass: buffer {name!r} is not as one pass over the batch leaves it: largest difference "
                f"{gap:.3g}, limit {limit:.3g}. Remedy: one pass in training mode for each step; call before_forward "
                "at the start of a step in which the module itself is not called."
            )
