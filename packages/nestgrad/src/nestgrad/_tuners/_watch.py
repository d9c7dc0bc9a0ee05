"""Watching the hypergradients of one run for one that is out of all proportion."""

from __future__ import annotations

import math
import warnings
from collections import deque

from nestgrad._errors import ExplodingHypergradient

FACTOR = 1e3
_LEAST, _KEPT = 5, 50


class Watch:
    """The norms of a run's last hypergradients."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=_KEPT)

    def see(self, norm: float, *, step: int) -> None:
        """Warn with ExplodingHypergradient when the norm exceeds a thousand times the running median."""
        if len(self._norms) >= _LEAST:
            ordered = sorted(self._norms)
            median = 0.5 * (ordered[len(ordered) // 2] + ordered[~(len(ordered) // 2)])
            if median > 0.0 and norm > FACTOR * median:
                warnings.warn(
                    f"training step {step}: hypergradient norm {norm:.3g}, limit {FACTOR * median:.3g} "
                    f"({FACTOR:g} times the running median). Remedy: a smaller outer step, a clip on the space, or "
                    "fewer Neumann terms.",
                    ExplodingHypergradient,
                    stacklevel=3,
                )
        if math.isfinite(norm):
            self._norms.append(norm)
