"""Peak memory of one call over rest, in units of a training step's peak; Linux."""

from __future__ import annotations

from benchmarks.frameworks import BACKENDS
from benchmarks.memory import UNIT, peak

ROWS = ("neumann", "unrolled, sqrt")


class Call:
    """One warm call on P2."""

    params = (BACKENDS, ROWS)
    param_names = ("backend", "method")

    def setup_cache(self) -> dict[str, int]:
        found = {}
        for backend in BACKENDS:
            try:
                found[backend] = peak(backend, "P2", UNIT)
            except NotImplementedError:
                continue
        return found

    def setup(self, units: dict[str, int], backend: str, row: str) -> None:
        if backend not in units:
            raise NotImplementedError(f"{backend} or the account of memory is missing")

    def track_peak(self, units: dict[str, int], backend: str, row: str) -> float:
        """To a tenth: pages and the allocator's own blocks are in it."""
        return round(peak(backend, "P2", row) / units[backend], 1)

    track_peak.unit = "training steps' peaks"
