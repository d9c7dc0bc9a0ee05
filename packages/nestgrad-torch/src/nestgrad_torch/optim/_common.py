"""What the rules share: settings spread over params, sums in torch.optim's rounding, roots with a derivative at 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, UnsupportedOptimizer, tree


def is_zero(setting: Any) -> bool:
    """Whether it is the number 0, so that what it multiplies can be left out."""
    return isinstance(setting, (int, float)) and setting == 0


def is_scalar(setting: Any) -> bool:
    """Whether it is one number for all params."""
    return isinstance(setting, (float, int)) or (isinstance(setting, Tensor) and setting.dim() == 0)


def spread(setting: Any, params: Any, weights: list[Tensor], name: str, *, rule: str = "sgd") -> list[Any]:
    """The setting, one entry a param; weights are the leaves of params."""
    if is_scalar(setting):
        return [setting] * len(weights)
    (spread,) = tree.matched(params, setting)
    for path, value, param in zip(tree.named_leaves(params), spread, weights, strict=True):
        if not isinstance(value, Tensor) or (value.dim() and value.shape != param.shape):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(
                f"{rule} {name}[{path!r}]: got {shape}, limit: shape () or {tuple(param.shape)}. "
                "Remedy: nestgrad_torch.per_parameter."
            )
    return spread


def decayed(grads: list[Tensor], weights: list[Tensor], decay: Any, params: Any, *, rule: str) -> list[Tensor]:
    """g + weight_decay · w; the gradients themselves where there is no decay."""
    if is_zero(decay):
        return grads
    rows = zip(grads, weights, spread(decay, params, weights, "weight_decay", rule=rule), strict=True)
    return [add_scaled(g, w, xi) for g, w, xi in rows]


def add_scaled(base: Tensor, other: Tensor, scale: Any, sign: int = 1) -> Tensor:
    """base + sign · scale · other in one rounding, as torch.optim's add with alpha does."""
    if isinstance(scale, Tensor):
        scale = scale if scale.dtype == base.dtype else scale.to(base.dtype)
        return torch.addcmul(base, other, scale, value=sign)
    return torch.add(base, other, alpha=sign * scale)


def mixed(old: Tensor, new: Tensor, share: Any) -> Tensor:
    """share · old + (1 - share) · new."""
    return share * old + (1 - share) * new


def root(x: Tensor) -> Tensor:
    """√x, 0 for x ≤ 0; its derivatives there are taken to be zero."""
    positive = x > 0.0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def zeros(params: Any) -> Any:
    """A tree of zeros like params."""
    return tree.map(torch.zeros_like, params)


def joined(values: Any) -> Tensor:
    """All entries of a tree in one vector."""
    return torch.cat([x.reshape(-1) for x in tree.leaves(values)])


def as_number(setting: Any, name: str, *, rule: str) -> float:
    """The setting for torch.optim; UnsupportedOptimizer unless it is one number for all params."""
    if is_scalar(setting):
        return float(setting)
    raise UnsupportedOptimizer(
        f"{rule} {name}: {len(tree.leaves(setting))} values, limit: 1, since torch.optim holds one number a group. "
        "Remedy: go on with the functional rule, or tune one scalar."
    )


def step_count(count: Any) -> Tensor:
    """A count of steps as torch.optim keeps it."""
    double = torch.get_default_dtype() is torch.float64
    return torch.tensor(float(count), dtype=torch.float64 if double else torch.float32)


def handed_over(optimizer: Any, named_params: Any, moments: dict[str, Any], **others: Any) -> Any:
    """The optimizer, whose state for each param is copies of its entries of the moments, and of the others."""
    named = {key: tree.named_leaves(values) for key, values in moments.items()}
    for name, param in named_params.items():
        copies = {key: values[name].detach().clone() for key, values in named.items()}
        optimizer.state[param] = {**{key: x.clone() for key, x in others.items()}, **copies}
    return optimizer
