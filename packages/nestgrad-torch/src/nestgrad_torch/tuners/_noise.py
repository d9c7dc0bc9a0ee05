"""The noise of tuners that draw: how much of it, a run's own or what it was given, columns that rows share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, shared_columns, tree


def pair_of(noise: Any) -> tuple[Any, Any]:
    """The noise given for the inner and for the outer batch; (None, None) for none."""
    match noise:
        case None:
            return None, None
        case [inner, outer]:
            return inner, outer
        case _:
            raise InvalidInput(
                f"noise of type {type(noise).__name__}, limit: a pair, for the inner and the outer "
                "batch. Remedy: leave it out, or pass (inner_rows, outer_rows)."
            )


def rows_of(batch: Any, name: str) -> int:
    """The size of the first axis of all of a batch's tensors; InvalidInput unless there is one."""
    named = {path: leaf for path, leaf in tree.named_leaves(batch).items() if isinstance(leaf, Tensor)}
    sizes = {path: leaf.shape[0] if leaf.dim() else 0 for path, leaf in named.items()}
    if len(set(sizes.values())) != 1 or not all(sizes.values()):
        found = ", ".join(f"{name}[{path!r}] {tuple(leaf.shape)}" for path, leaf in named.items())
        raise InvalidInput(
            f'SelfTuning with samples="examples": {found or f"{name} of 0 tensors"}, limit: tensors with one first '
            "axis, that of the rows, of at least 1. Remedy: let the loss close over what has none, or pass samples=1."
        )
    return next(iter(sizes.values()))


def given_noise(noise: Any, title: str, shape: tuple[int, int], like: Tensor) -> Tensor:
    """What was given, refused unless it has the shape; title begins the message."""
    found = torch.as_tensor(noise, dtype=like.dtype, device=like.device).detach()
    if tuple(found.shape) != shape:
        raise InvalidInput(
            f"{title} of shape {tuple(found.shape)}, limit: {shape}, samples by hyperparameter entries. "
            "Remedy: leave it out, or draw it in this shape."
        )
    return found


def own_noise(
    seed: int, number: int, shape: tuple[int, int], like: Tensor, draw: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """The draws of a run with this seed that have this number, from a generator of their own."""
    # The CPU generator sees 32 bits of its seed; two numbers of one run never share one.
    generator = torch.Generator("cpu").manual_seed((seed * 0x9E3779B1 + number + 1) % 2**32)
    return draw(shape, generator=generator, dtype=torch.float64, device="cpu").to(like.dtype).to(like.device)


def shared_among_rows(noise: Tensor, hparams: Any, shared: tuple[str, ...]) -> Tensor:
    """The noise with row 0's in all rows of the columns of the shared leaves."""
    if not shared:
        return noise
    named = tree.named_leaves(hparams)
    columns = zip(sorted(named), shared_columns(hparams, shared), strict=True)
    alike = torch.cat([torch.full((named[path].numel(),), same) for path, same in columns])
    return torch.where(alike.to(noise.device), noise[:1], noise)
