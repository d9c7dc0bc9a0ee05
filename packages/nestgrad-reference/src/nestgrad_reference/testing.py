"""The harness by which the conformance suite judges this backend."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

import nestgrad_reference
from nestgrad_conformance import Harness

_XP: Any = anp  # its names are made at import, out of a type checker's sight

harness = Harness(
    backend=nestgrad_reference,
    xp=_XP,
    from_numpy=np.array,
    to_numpy=np.asarray,
    dtypes=("float64",),
    sgd=nestgrad_reference.optim.sgd,
    adam=nestgrad_reference.optim.adam,
    detach=getval,
    reversible=nestgrad_reference.optim.reversible_sgd,
    optim=nestgrad_reference.optim,
)
