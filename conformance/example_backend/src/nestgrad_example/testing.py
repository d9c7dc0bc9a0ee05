"""The harness of the example backend."""

import numpy as np
from autograd.tracer import getval

import nestgrad_example
from nestgrad_conformance import Harness
from nestgrad_reference.optim import sgd

harness = Harness(
    backend=nestgrad_example,
    xp=nestgrad_example.xp,
    from_numpy=np.array,
    to_numpy=np.asarray,
    dtypes=("float64",),
    sgd=sgd,
    detach=getval,
)
