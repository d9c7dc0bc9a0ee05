"""Seconds: compared commit with commit on one machine, never across machines."""

from __future__ import annotations

from benchmarks.common import BACKENDS, SOLVERS, setting, wait


class Hypergradient:
    """One hypergradient of 501 decays."""

    params = (BACKENDS, tuple(SOLVERS))
    param_names = ("backend", "solver")

    def setup(self, backend: str, solver: str) -> None:
        self.call = setting(backend).hypergradient(SOLVERS[solver])
        wait(self.call().total)

    def time_hypergradient(self, backend: str, solver: str) -> None:
        wait(self.call().total)


class OnePass:
    """Ten training steps, one of them a hyper step."""

    params = (BACKENDS,)
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.setting = setting(backend)
        self.tuner, self.state = self.setting.one_pass()
        self.time_ten_steps(backend)

    def time_ten_steps(self, backend: str) -> None:
        for _ in range(10):
            self.state, _ = self.tuner.step(self.state, self.setting.train, self.setting.valid)
        wait(self.state["params"])
