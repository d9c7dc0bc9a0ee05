"""Random choices of a check: a few labelled hypothesis draws, and arrays from one drawn seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

T = TypeVar("T")


class Draw:
    """What a check draws from: hypothesis chooses the seed and the few numbers that matter, the seed makes the arrays.

    So a failure shrinks to a readable problem, and shapes stay few, which a compiling backend needs.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def pick(self, options: Sequence[T], label: str) -> T:
        """One of the options."""
        return self._data.draw(st.sampled_from(list(options)), label=label)

    def number(self, low: float, high: float, label: str) -> float:
        """A float in the closed interval."""
        return self._data.draw(st.floats(low, high, allow_subnormal=False), label=label)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal entries; a 0-d array for no shape."""
        return np.asarray(self.rng.normal(size=shape))

    def hessian(self, n: int, condition: float) -> np.ndarray:
        """A random symmetric positive definite matrix with eigenvalues from 1/condition to 1."""
        return self.symmetric(np.geomspace(1.0 / condition, 1.0, n) if n > 1 else np.ones(1))

    def symmetric(self, eigenvalues: np.ndarray) -> np.ndarray:
        """A random symmetric matrix with these eigenvalues."""
        basis, _ = np.linalg.qr(self.normal(eigenvalues.size, eigenvalues.size))
        matrix = basis @ np.diag(eigenvalues) @ basis.T
        return 0.5 * (matrix + matrix.T)
