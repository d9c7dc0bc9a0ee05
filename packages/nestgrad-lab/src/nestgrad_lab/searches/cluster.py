"""The Ray cluster that an experiment runs on."""

from __future__ import annotations

import os
from typing import Any

from nestgrad_lab.errors import MissingPackage

LOCAL = "local"
"""The address of a cluster that is begun on this machine and ends with the process."""


def load_ray(address: str | None = None) -> Any:
    """Ray, connected: to the address, else to RAY_ADDRESS, else to a cluster of this machine.

    A process has one cluster; once connected it stays so. Raises MissingPackage where Ray is not installed.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray  # noqa: PLC0415  (two seconds)
        import ray.tune  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackage(f"Ray Tune is not installed: {error}. Remedy: pip install 'nestgrad-lab[ray]'.") from error
    if not ray.is_initialized():
        chosen = address or os.environ.get("RAY_ADDRESS") or LOCAL
        dashboard = False if chosen == LOCAL else None  # None: whatever that cluster has
        ray.init(address=chosen, log_to_driver=False, configure_logging=False, include_dashboard=dashboard)
    return ray
