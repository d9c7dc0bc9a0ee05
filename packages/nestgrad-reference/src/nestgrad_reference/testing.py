"""The harness by which the conformance suite judges this backend."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

import nestgrad_reference
from nestgrad_conformance import Harness

harness = Harness(
    backend=nestgrad_reference,
    xp=anp,
    from_numpy=np.array,
    to_numpy=np.asarray,
    dtypes=("float64",),
    sgd=nestgrad_reference.optim.sgd,
    adam=nestgrad_reference.optim.adam,
    detach=getval,
)
