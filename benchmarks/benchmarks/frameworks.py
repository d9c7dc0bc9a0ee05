"""Which backend has which modules here: the one place that chooses between frameworks, which are imported when asked.

Threads are set before a framework is imported, so this module comes first.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import nestgrad

BACKENDS = ("torch", "jax")


def require(backend: str) -> None:
    """Skip, as asv understands it, where the backend is not installed."""
    if backend not in nestgrad.available_backends() or importlib.util.find_spec(backend) is None:
        raise NotImplementedError(f"{backend} is not installed")


def side_of(backend: str) -> Any:
    """The module of the problems in this framework."""
    require(backend)
    return importlib.import_module(f"benchmarks.sides.in_{backend}")


def floors_of(backend: str) -> Any:
    """The module of the hand-written code in this framework."""
    require(backend)
    return importlib.import_module(f"benchmarks.floors.in_{backend}")
