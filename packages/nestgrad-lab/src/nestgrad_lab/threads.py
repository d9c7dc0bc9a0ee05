"""One thread for small matrices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside for NumPy's and torch's matrix products, unless OMP_NUM_THREADS says otherwise.

    Matrices this small gain nothing from more; threads of one library that wait for work slow the other down; and the
    number of threads changes the order of sums: the same seed would give other numbers on another machine. The
    libraries must be loaded before. JAX has threads of its own, which this leaves alone.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    with threadpool_limits(limits=1):
        yield
