"""The command `nestgrad`: one-pass tuning on real data, run folders, and the experiments of the papers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nestgrad_lab.errors import DataError as DataError
from nestgrad_lab.errors import LabError as LabError
from nestgrad_lab.errors import MissingPackage as MissingPackage
from nestgrad_lab.errors import OptionError as OptionError
from nestgrad_lab.errors import RunFolderError as RunFolderError
from nestgrad_lab.errors import TrainingDiverged as TrainingDiverged

if TYPE_CHECKING:
    from nestgrad_lab.estimators import OnePassClassifier as OnePassClassifier
    from nestgrad_lab.estimators import OnePassRegressor as OnePassRegressor
    from nestgrad_lab.experiments.run import run_experiment as run_experiment
    from nestgrad_lab.experiments.spec import Experiment as Experiment
    from nestgrad_lab.settings import Settings as Settings
    from nestgrad_lab.tuning import Outcome as Outcome
    from nestgrad_lab.tuning import tune as tune

__version__ = "0.1.0"

_LATER = {
    "Experiment": "nestgrad_lab.experiments.spec",
    "run_experiment": "nestgrad_lab.experiments.run",
    "OnePassClassifier": "nestgrad_lab.estimators",
    "OnePassRegressor": "nestgrad_lab.estimators",
    "Settings": "nestgrad_lab.settings",
    "Outcome": "nestgrad_lab.tuning",
    "tune": "nestgrad_lab.tuning",
}
"""Imported when first read: `nestgrad --help` imports this package, and need not wait for NumPy."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'nestgrad_lab' has no attribute {name!r}")
