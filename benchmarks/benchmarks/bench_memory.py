"""Bytes that one call keeps, as a ratio to those of one plain training step: exact, and free of the allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.common import SOLVERS, Setting, setting


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that torch's autograd saves for backward passes during the call."""
    import torch

    storages: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for storage in storages.values())


def compiled_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Temporary bytes of the compiled program."""
    import jax

    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    if analysis is None:
        raise NotImplementedError("this platform does not analyse memory")
    return int(analysis.temp_size_in_bytes)


class Hypergradient:
    """One hypergradient of 501 decays over one gradient of the same loss."""

    params = (("torch", "jax"), ("neumann", "cg"))
    param_names = ("backend", "solver")

    def setup(self, backend: str, solver: str) -> None:
        self.setting: Setting = setting(backend)

    def track_memory_ratio(self, backend: str, solver: str) -> float:
        """Saved bytes in torch, temporary bytes of the program in jax."""
        here = self.setting
        if backend == "torch":
            step = here.plain(here.penalised, here.train, here.decays, momentum=False)
            return saved_bytes(here.hypergradient(SOLVERS[solver])) / saved_bytes(step)
        import jax

        problem, method = here.problem(), here.ng.Implicit(solver=SOLVERS[solver])

        def ours(params: Any, hparams: Any, train: Any, valid: Any) -> Any:
            return here.ng.hypergradient(
                problem, params, hparams, method=method, inner_batch=train, outer_batch=valid
            ).total

        unit = compiled_bytes(jax.grad(here.penalised), here.params, here.decays, here.train)
        return compiled_bytes(ours, here.params, here.decays, here.train, here.valid) / unit

    track_memory_ratio.unit = "gradients"
