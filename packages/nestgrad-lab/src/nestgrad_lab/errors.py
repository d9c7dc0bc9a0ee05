"""The lab's errors: each message names the thing, the number beside its limit, and one remedy."""

from __future__ import annotations

from nestgrad import NestgradError


class LabError(NestgradError):
    """Base of every error that the lab raises on purpose."""


class OptionError(LabError, ValueError):
    """An option has a value that it cannot have, alone or beside the others."""


class DataError(LabError, ValueError):
    """A data set is missing, or holds what cannot be trained on."""


class RunFolderError(LabError):
    """A run folder exists already or cannot be written."""


class MissingPackage(LabError):
    """A package that the command needs is not installed."""


class TrainingDiverged(LabError, ArithmeticError):
    """A loss or a hypergradient became NaN or infinite during a run; what was measured before it is kept."""


class CheckpointCorrupt(LabError):
    """A checkpoint is not what was written: a bit, a byte or a file of it changed or is missing."""


class CheckpointFormat(LabError):
    """A checkpoint was written by a later version of the lab."""
