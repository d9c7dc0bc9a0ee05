"""The Ray cluster that an experiment runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from nestgrad_lab.errors import MissingPackage

LOCAL = "local"
"""The address of a cluster that is begun on this machine and ends with the process."""


_asked: Callable[[], bool] = lambda: False  # noqa: E731


def watch_for(stop: Callable[[], bool]) -> None:
    """From now on `asked_to_stop` asks this, which Ray could not save with a search."""
    global _asked  # noqa: PLW0603  (one process, one search at a time)
    _asked = stop


def asked_to_stop() -> bool:
    """Whether the search at work is to stop."""
    return _asked()


def import_ray() -> Any:
    """The module, with Ray Tune; MissingPackage where it is not installed."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the experiment's to take
    try:
        import ray  # noqa: PLC0415  (two seconds)
        import ray.tune  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackage(f"Ray Tune is not installed: {error}. Remedy: pip install 'nestgrad-lab[ray]'.") from error
    return ray


def load_ray(address: str | None = None) -> Any:
    """Ray, connected: to the address, else to RAY_ADDRESS, else to a cluster of this machine.

    A process has one cluster; once connected it stays so. Raises MissingPackage where Ray is not installed.
    """
    ray = import_ray()
    if not ray.is_initialized():
        chosen = address or os.environ.get("RAY_ADDRESS") or LOCAL
        dashboard = False if chosen == LOCAL else None  # None: whatever that cluster has
        ray.init(address=chosen, log_to_driver=False, configure_logging=False, include_dashboard=dashboard)
    return ray
