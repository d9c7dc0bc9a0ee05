"""Second derivatives: the kernels that have them, and a name for the operations that do not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn
from torch.overrides import TorchFunctionMode

from nestgrad import DoubleBackwardUnsupported, NestgradError

_FUSED = (
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
)

_WEIGHT_NORM = "a parametrization that writes it out, g * v / v.flatten(1).norm(dim=1)"

_NAMED: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("hardsigmoid", ("Hardsigmoid",), "hardsigmoid", "nn.Sigmoid, or (x / 6 + 0.5).clamp(0, 1)"),
    ("hardswish", ("Hardswish",), "hardswish", "nn.SiLU, or x * (x / 6 + 0.5).clamp(0, 1)"),
    ("multi_margin_loss", ("MultiMarginLoss",), "multi_margin_loss", "clamped differences of scores, written out"),
    ("multilabel_margin_loss", ("MultiLabelMarginLoss",), "multilabel_margin_loss", "MultiLabelSoftMarginLoss"),
    ("_embedding_bag", ("EmbeddingBag",), "embedding_bag", "nn.Embedding, then .sum(1), .mean(1) or .amax(1)"),
    ("ctc_loss", ("CTCLoss",), "ctc_loss", "the forward recursion written with torch.logsumexp"),
    ("cdist", ("PairwiseDistance",), "cdist", "(a[:, None] - b[None]).square().sum(-1)"),
    ("pdist", (), "pdist", "(a[:, None] - a[None]).square().sum(-1)"),
    ("segment_reduce", (), "segment_reduce", "torch.zeros(...).index_add(0, segments, values)"),
    ("_cudnn_rnn", ("LSTM", "GRU", "RNN"), "the cuDNN recurrent kernel", "torch.backends.cudnn.flags(enabled=False)"),
    ("scaled_dot_product", ("MultiheadAttention",), "fused attention", "sdpa_kernel(SDPBackend.MATH)"),
    ("double backward", (), "a function compiled by torch.compile", "the function as it was before torch.compile"),
    ("use_reentrant", (), "reentrant checkpointing", "checkpoint(..., use_reentrant=False)"),
    ("sparse", ("Embedding",), "a sparse gradient", "nn.Embedding(..., sparse=False)"),
    ("weight_norm", ("_WeightNorm",), "weight norm's kernel (torch's second derivative of it is wrong)", _WEIGHT_NORM),
    ("once_differentiable", (), "a once_differentiable backward", "a backward made of differentiable operations"),
)
"""(what the message of torch holds, layer types, the operation, what to use in its place)."""

_UNKNOWN = re.compile(r"derivative for (?:aten::)?'?(\w+?)'? is not implemented|the derivative for '(\w+)' is not")


@contextlib.contextmanager
def second_order(module: nn.Module | None) -> Iterator[None]:
    """Attention and recurrent kernels with second derivatives; DoubleBackwardUnsupported for what has none."""
    with _kernels(module):
        try:
            yield
        except NestgradError:
            raise
        except (RuntimeError, NotImplementedError) as failure:
            named = _named(str(failure), module)
            if named is None:
                raise
            raise named from failure


@contextlib.contextmanager
def _kernels(module: nn.Module | None) -> Iterator[None]:
    """The mathematical attention kernel, and on a GPU no cuDNN where the module has recurrent layers."""
    before = [enabled() for enabled, _ in _FUSED]
    recurrent = cudnn.enabled and module is not None and _on_gpu(module) and _has_recurrent(module)
    try:
        for _, switch in _FUSED:
            switch(False)
        with cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext():
            yield
    finally:
        for (_, switch), value in zip(_FUSED, before, strict=True):
            switch(value)


class lean_squares(TorchFunctionMode):  # noqa: N801  (a context)
    """x² by a node of its own: pow's holds 2x besides x, and its second derivative makes powers of 1 and 0."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _POWERS and not kwargs and _is_square(*args) and args[0].is_floating_point():
            return _Square.apply(args[0])
        return func(*args, **(kwargs or {}))


_POWERS = {torch.square, Tensor.square, torch.pow, Tensor.pow, Tensor.__pow__}
_TWO = 2


def _is_square(x: Any, exponent: Any = _TWO) -> bool:
    return isinstance(x, Tensor) and isinstance(exponent, (int, float)) and exponent == _TWO


class _Square(torch.autograd.Function):
    """x · x, in the bits of x.pow(2) in every derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (slope * ctx.saved_tensors[0]).mul(_TWO)

    @staticmethod
    def jvp(ctx: Any, along: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (along * ctx.saved_tensors[0]).mul(_TWO)


def _on_gpu(module: nn.Module) -> bool:
    return any(p.is_cuda for p in module.parameters())


def _has_recurrent(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.RNNBase) for layer in module.modules())


_TRAPS = {
    "torch::autograd::Error": "once_differentiable",
    "CheckpointFunctionBackward": "use_reentrant",
    "WeightNormInterfaceBackward0": "weight_norm",
}
"""Nodes of a graph that torch passes by or differentiates wrongly without a word: the gradient of a backward that may
run once, layers whose params are no inputs of the checkpoint that they ran in, weight norm's second derivative."""


def require_differentiable(outer_loss: Tensor, module: nn.Module | None) -> None:
    """Raise DoubleBackwardUnsupported where a first derivative of the outer loss would be cut."""
    _walk(outer_loss, module, {"CheckpointFunctionBackward": "use_reentrant"})


def require_twice_differentiable(result: Tensor, module: nn.Module | None) -> None:
    """Raise DoubleBackwardUnsupported where the graph of an inner loss or a residual holds one of the traps."""
    _walk(result, module, _TRAPS)


def _walk(result: Tensor, module: nn.Module | None, traps: dict[str, str]) -> None:
    seen: set[Any] = {None}
    queue: list[Any] = [result.grad_fn]
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        trap = traps.get(node.name())
        if trap is not None:
            for held, kinds, operation, remedy in _NAMED:
                if held == trap:
                    raise _error(operation, layers_named(module, kinds), remedy)
        for following, _ in node.next_functions:
            if following not in seen:
                queue.append(following)


def layers_named(module: nn.Module | None, kinds: tuple[str, ...]) -> list[str]:
    """The paths of a module's layers of these types."""
    if module is None:
        return []
    return [name or "the module itself" for name, layer in module.named_modules() if type(layer).__name__ in kinds]


def _named(message: str, module: nn.Module | None) -> DoubleBackwardUnsupported | None:
    """The error for a message of torch; None where the message is about something else."""
    lowered = message.lower()
    for held, kinds, operation, remedy in _NAMED:
        if held in lowered and _is_about_derivatives(lowered, held):
            return _error(operation, layers_named(module, kinds), remedy)
    found = _UNKNOWN.search(message)
    if found is None:
        return None
    operation = next(group for group in found.groups() if group).removesuffix("_backward").lstrip("_")
    return _error(operation, [], "an operation with a second derivative, or a custom autograd Function with one")


def _is_about_derivatives(lowered: str, held: str) -> bool:
    if held in {"double backward", "use_reentrant", "once_differentiable"}:
        return True
    of_sparse = held == "sparse" and any(word in lowered for word in ("transpose", "layout", "stride"))
    return of_sparse or "derivative" in lowered


def _error(operation: str, layers: list[str], remedy: str) -> DoubleBackwardUnsupported:
    where = f"layer {', '.join(repr(layer) for layer in layers)}" if layers else "a loss"
    return DoubleBackwardUnsupported(
        f"{where}: {operation} has 1 derivative, limit: at least 2 on the way from params to the inner loss. "
        f"Remedy: use {remedy}."
    )
