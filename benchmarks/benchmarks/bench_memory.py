"""Peak memory of one call over rest, in units of a training step's peak; Linux."""

from __future__ import annotations

from benchmarks.amount import some
from benchmarks.frameworks import BACKENDS, require
from benchmarks.memory import UNIT, peaks

ROWS = some(("neumann", "unrolled", "unrolled, sqrt"), "neumann")


class Call:
    """One warm call on P2."""

    params = (BACKENDS, ROWS)
    param_names = ("backend", "method")

    def setup_cache(self) -> dict[str, dict[str, int]]:
        found = {}
        for backend in BACKENDS:
            try:
                require(backend)
                found[backend] = peaks(backend, "P2", [UNIT, *ROWS])
            except NotImplementedError:
                continue
        return found

    setup_cache.timeout = 600

    def setup(self, found: dict[str, dict[str, int]], backend: str, row: str) -> None:
        if row not in found.get(backend, {}):
            raise NotImplementedError(f"{backend}, {row}, or the kernel's account of memory is missing")

    def track_peak(self, found: dict[str, dict[str, int]], backend: str, row: str) -> float:
        """To a tenth: pages and the allocator's own blocks are in it."""
        return round(found[backend][row] / found[backend][UNIT], 1)

    track_peak.unit = "training steps' peaks"
