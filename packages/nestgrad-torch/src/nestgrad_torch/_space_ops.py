"""The elementary functions of the hyperparameter spaces, on tensors."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from nestgrad import SpaceOps


class _TorchOps:
    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    expm1 = staticmethod(torch.expm1)
    sigmoid = staticmethod(torch.sigmoid)

    @staticmethod
    def softplus(x: Tensor, /) -> Tensor:
        # torch.nn.functional.softplus is linear above its threshold, which costs nine digits in float64.
        return torch.logaddexp(x, torch.zeros_like(x))


OPS = cast("SpaceOps", _TorchOps())
