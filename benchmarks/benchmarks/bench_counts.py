"""Exact counts: products with J, calls of the user's losses, compilations. Any change is an event."""

from __future__ import annotations

from typing import Any

from benchmarks.common import BACKENDS, SOLVERS, Setting, setting

STEPS = 10


class Hypergradient:
    """One hypergradient of 501 decays, by each solver."""

    params = (BACKENDS, tuple(SOLVERS))
    param_names = ("backend", "solver")

    def setup(self, backend: str, solver: str) -> None:
        self.setting: Setting = setting(backend)
        self.call = self.setting.hypergradient(SOLVERS[solver])

    def track_products(self, backend: str, solver: str) -> int:
        """Products with J or its transpose, as the result reports them."""
        return int(self.call().stats.products)

    track_products.unit = "products"

    def track_inner_loss_calls(self, backend: str, solver: str) -> int:
        """Calls of the inner loss in a second hypergradient: 1 in torch (one gradient), 0 in jax (compiled before)."""
        self.call()
        before = self.setting.calls.inner
        self.call()
        return self.setting.calls.inner - before

    track_inner_loss_calls.unit = "calls"

    def track_outer_loss_calls(self, backend: str, solver: str) -> int:
        """Calls of the outer loss in a second hypergradient."""
        self.call()
        before = self.setting.calls.outer
        self.call()
        return self.setting.calls.outer - before

    track_outer_loss_calls.unit = "calls"


class OnePass:
    """Ten training steps with one hyper step, after ten others."""

    params = (BACKENDS,)
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.setting: Setting = setting(backend)
        self.tuner, self.state = self.setting.one_pass()
        self._steps()

    def _steps(self) -> tuple[int, int, Any]:
        calls, info = self.setting.calls, None
        before = calls.inner, calls.outer
        for _ in range(STEPS):
            self.state, info = self.tuner.step(self.state, self.setting.train, self.setting.valid)
        return calls.inner - before[0], calls.outer - before[1], info

    def track_inner_loss_calls(self, backend: str) -> int:
        """10 in torch, no more than plain training makes; 0 in jax."""
        return self._steps()[0]

    track_inner_loss_calls.unit = "calls"

    def track_outer_loss_calls(self, backend: str) -> int:
        """1 in torch, 0 in jax."""
        return self._steps()[1]

    track_outer_loss_calls.unit = "calls"

    def track_products(self, backend: str) -> int:
        """Look-back 5 takes 4 products."""
        return int(self._steps()[2].hypergradient.stats.products)

    track_products.unit = "products"
