"""The error for a step that is not the one which would be differentiated."""

from __future__ import annotations

from nestgrad import NestgradError


class StepMismatch(NestgradError, ValueError):
    """The optimizer's step, or the gradient or the buffers it came with, is not what the tuner would differentiate."""
