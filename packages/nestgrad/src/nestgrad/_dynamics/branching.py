"""Branching optimisation: begin where nearby points part, go along the directions in which they do, optimise each.

An archive holds entries of three kinds, and a step of the search takes the first of them by priority:

    start    players as given; ascend an objective of the exponents there, and put the point in their place
    point    branch: for each leading direction d_i of the exponents at x, two branches x ± distance · d_i
    branch   optimise, by the game's own optimizer, until |direction| ≤ tolerance or max_steps are taken

x is the whole state of play, players and optimizer. Where a branch ends is a solution, unless an exponent there is
above least_exponent: then it is a saddle, and a point to branch at. The same may be asked every so many steps on the
way. With one loss, plain descent, one step to an exponent and a Ridge, this is Ridge Rider (Parker-Holder et al. 2020):
the exponent of a direction of curvature h is ln |1 - α h|, positive where h < 0. (Lorraine et al. 2022, with settings
of our own where the paper's are not known.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from nestgrad._dynamics.exponents import ExponentObjective
from nestgrad._errors import InvalidInput
from nestgrad._validate import require_choice, require_count, require_number

Priority = Literal["exponent", "loss", "breadth", "depth"]
"""What is taken from the archive first.

Of a branch: the one along the largest exponent, of the least mean loss, of the least depth or of the greatest. Starts
and points come before branches, but for "depth", where the deepest entry of any kind comes first. Ties: the older.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascent:
    """How a start becomes a point to branch at: players ascend an objective of the exponents from there.

    optimizer: a functional rule of the backend's, given minus the gradient. steps: how many. objective: over the
    num_exponents leading exponents of the Branching's num_steps, found with its refinements.
    """

    optimizer: Any
    steps: int
    objective: ExponentObjective = "largest"
    num_exponents: int = 1

    def __post_init__(self) -> None:
        require_count(self, "steps", 1)
        require_choice(self, "objective", ("largest", "smallest", "sum", "entropy"))
        require_count(self, "num_exponents", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """A branch first goes along its direction, found anew at each place, while its exponent is above least_exponent.

    x ← x ± step_size d, then the leading directions are refined and d is the one nearest the last (by |⟨·, d⟩|), its
    sign that of the last. max_steps: of these.
    """

    step_size: float
    max_steps: int = 1000

    def __post_init__(self) -> None:
        require_number(self, "step_size", positive=True)
        require_count(self, "max_steps", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branching:
    """How the search goes.

    distance: how far from a point its branches begin; directions have length 1 in all of the state. num_directions:
    how many of a point's leading directions are branched along, each to both sides. num_steps, refinements: of the
    exponents that choose them, as in ExponentSpectrum. least_exponent: directions with exponents not above it are left;
    None: none are. max_steps, tolerance: when a branch ends. watch_every: look for a bifurcation every so many steps on
    the way (None: only at the end). max_depth: how often in a row it may branch. max_products, max_branches: the
    budget, of products with Jacobians of a step and of branches optimised; None: no limit. seed: of all that is drawn.
    """

    distance: float
    num_directions: int = 1
    num_steps: int = 10
    refinements: int = 10
    least_exponent: float | None = None
    ascent: Ascent | None = None
    ridge: Ridge | None = None
    max_steps: int = 1000
    tolerance: float = 1e-6
    watch_every: int | None = None
    max_depth: int = 1
    priority: Priority = "exponent"
    max_products: int | None = None
    max_branches: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_number(self, "distance", positive=False)
        for field in ("num_directions", "num_steps", "max_steps", "max_depth"):
            require_count(self, field, 1)
        for field in ("refinements", "seed"):
            require_count(self, field, 0)
        for field in ("watch_every", "max_products", "max_branches"):
            if getattr(self, field) is not None:
                require_count(self, field, 1)
        require_number(self, "tolerance", positive=False)
        require_choice(self, "priority", ("exponent", "loss", "breadth", "depth"))
        least: Any = self.least_exponent
        if least is not None and not (isinstance(least, (int, float)) and math.isfinite(least)):
            raise InvalidInput(
                f"Branching.least_exponent: got {least!r}, limit: a finite number or None. Remedy: pass 0.0."
            )
        if self.ridge is not None and least is None:
            raise InvalidInput(
                "Branching.ridge: got a Ridge with least_exponent None, limit: a number, at which it leaves the ridge. "
                "Remedy: pass least_exponent=0.0."
            )
