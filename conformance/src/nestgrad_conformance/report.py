"""The JSON record of a run, from which support tables are made."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestgrad import NOT_BUILT, OPTIONAL, SPECS, offers
from nestgrad_conformance.harness import Harness
from nestgrad_conformance.running import CheckResult


def report(harness: Harness, dtype: str, results: Sequence[CheckResult]) -> dict[str, Any]:
    """backend, dtype, versions, supports (spec name to bool) and one record a check."""
    backend = harness.backend
    supports = {name: backend.supports(spec) for name, spec in SPECS.items()}
    supports |= {name: offers(backend, name) for name in OPTIONAL}
    return {
        "backend": backend.__name__,
        "dtype": dtype,
        "versions": _versions(backend.__name__),
        "supports": supports | dict.fromkeys(NOT_BUILT, False),
        "checks": [result.record() for result in results],
    }


def write_report(path: Path, harness: Harness, dtype: str, results: Sequence[CheckResult]) -> None:
    """Write the record, in a folder that is made where it is missing; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(report(harness, dtype, results), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _versions(package: str) -> dict[str, str]:
    names = ["nestgrad", "nestgrad-conformance", package.replace("_", "-"), "numpy", "torch", "jax", "optax"]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
