"""How much memory a graph holds on to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Names(dict[type[Any], tuple[str, ...]]):
    """Under what names a kind of node shows what it has saved; remembered, as asking takes longer than reading."""

    def __missing__(self, kind: type[Any]) -> tuple[str, ...]:
        names = [name for name in dir(kind) if name.startswith("_saved_") or name == "saved_tensors"]
        self[kind] = tuple(names)
        return self[kind]


_NAMES = _Names()


def saved_bytes(root: Tensor) -> int:
    """Of the distinct storages that the nodes above the root have saved for their derivatives."""
    storages: dict[int, int] = {}
    seen: set[Any] = {None}
    queue: list[Any] = [root.grad_fn]
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        for name in _NAMES[type(node)]:
            saved = getattr(node, name)
            for value in saved if isinstance(saved, (tuple, list)) else (saved,):
                if isinstance(value, Tensor):
                    place, size = _storage(value)
                    storages[place] = size
        queue.extend(following for following, _ in node.next_functions)
    return sum(storages.values())


def _storage(value: Tensor) -> tuple[int, int]:
    """(where it is, its size in bytes)."""
    if value.layout is not torch.strided:
        return id(value), value.numel() * value.element_size()
    storage = value.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
