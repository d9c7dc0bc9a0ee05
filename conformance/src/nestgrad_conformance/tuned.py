"""A network whose updates' settings and gains are tuned: its spaces, and leaves drawn near them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import Log10, Logit, Real
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw


def network_spaces(ctx: Context) -> Any:
    """Rate, momentum and decay of SGD, and the network's gains."""
    gain = Real(ctx.arrays(np.ones(2)))
    return {"lr": Log10(0.1), "momentum": Logit(0.5), "weight_decay": Real(0.1), "gain": gain}


def network_leaves(draw: Draw) -> Any:
    """Unconstrained leaves of these spaces."""
    return {
        "lr": -1.0 + 0.2 * draw.normal(),
        "momentum": 0.3 * draw.normal(),
        "weight_decay": np.asarray(0.05),
        "gain": 1.0 + 0.1 * draw.normal(2),
    }
