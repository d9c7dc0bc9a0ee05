"""Exact counts of the main methods; any change is an event. The gate, benchmarks.counts, has all of them."""

from __future__ import annotations

from benchmarks.amount import some
from benchmarks.counts import Counted, Counts
from benchmarks.frameworks import BACKENDS

ENTRIES = some(("neumann", "cg", "unrolled", "one-pass, steps", "one-pass, run"), "neumann", "one-pass, run")
Found = dict[tuple[str, str], Counts]


class Call:
    """One warm call on P1; for a tuner, ten steps with one hyper step."""

    params = (BACKENDS, ENTRIES)
    param_names = ("backend", "method")

    def setup_cache(self) -> Found:
        found: Found = {}
        for backend in BACKENDS:
            for name in ENTRIES:
                try:
                    found[backend, name] = Counted(backend).of(name)
                except NotImplementedError:
                    continue
        return found

    setup_cache.timeout = 600

    def setup(self, found: Found, backend: str, name: str) -> None:
        if (backend, name) not in found:
            raise NotImplementedError(f"{backend} has no {name}")

    def track_products(self, found: Found, backend: str, name: str) -> int:
        """Products with J or its transpose; a tuner's result is not asked."""
        return found[backend, name].get("products", 0)

    track_products.unit = "products"

    def track_matrix_work(self, found: Found, backend: str, name: str) -> int:
        """torch: FLOP of matrix products; jax: matrix products in the jaxpr."""
        counts = found[backend, name]
        return counts.get("matrix FLOP", counts.get("matrix products", 0))

    track_matrix_work.unit = "operations"

    def track_graphs(self, found: Found, backend: str, name: str) -> int:
        """Calls of the inner loss: graphs built in torch, traces in jax."""
        return found[backend, name]["inner losses"]

    track_graphs.unit = "calls"

    def track_host_reads(self, found: Found, backend: str, name: str) -> int:
        """Values that the host reads."""
        return found[backend, name]["host reads"]

    track_host_reads.unit = "reads"
