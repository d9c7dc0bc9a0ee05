"""The core's result types as pytrees, registered once, so that jit, vmap and scan can return them."""

from __future__ import annotations

from dataclasses import fields

import jax

from nestgrad import (
    ExponentGradient,
    GameDirection,
    HyperGradient,
    HyperGradientJVP,
    LyapunovExponents,
    OnePassInfo,
    PlayInfo,
    Stats,
)

_STATIC: dict[type, tuple[str, ...]] = {Stats: ("eps",)}

_KINDS = (
    Stats,
    HyperGradient,
    HyperGradientJVP,
    OnePassInfo,
    GameDirection,
    PlayInfo,
    LyapunovExponents,
    ExponentGradient,
)

for _kind in _KINDS:
    _static = _STATIC.get(_kind, ())
    jax.tree_util.register_dataclass(
        _kind,
        data_fields=[field.name for field in fields(_kind) if field.name not in _static],
        meta_fields=list(_static),
    )
