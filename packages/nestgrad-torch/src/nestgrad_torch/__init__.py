"""nestgrad on PyTorch; the core's public names are here too, so one import is enough."""

from typing import Any

import nestgrad as _core
from nestgrad import *  # noqa: F403
from nestgrad_torch import optim as optim
from nestgrad_torch._backend import hypergradient as hypergradient
from nestgrad_torch._backend import supports as supports
from nestgrad_torch._modules import ModuleParams as ModuleParams
from nestgrad_torch.tuners.one_pass import OnePass as OnePass
from nestgrad_torch.tuners.one_pass import per_parameter as per_parameter

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    return getattr(_core, name)
