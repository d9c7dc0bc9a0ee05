"""Differentiation along the steps taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nestgrad._errors import InvalidInput
from nestgrad._validate import require_choice, require_count

Mode = Literal["reverse", "forward", "reversible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """d L_out(w_T, λ)/dλ along s_{t+1} = Φ(s_t, λ, batch_t), t = 0 … T-1, T = num_steps, s_0 = the params given.

    s is w and, for a WeightUpdate, the optimizer state, w ← w + updates (whatever its `carry`); for a FixedPoint Φ is
    its map, for a ProximalGradient one proximal step. With A_t = ∂Φ/∂s and B_t = ∂Φ/∂λ at step t:
    a_T = ∂L_out/∂s_T, a_t = A_tᵀ a_{t+1}, indirect = Σ_t B_tᵀ a_{t+1}, direct = ∂L_out/∂λ at w_T; s_0 does not depend
    on λ. The batches are those of the call: inner_batches, one a step, or inner_batch for every step.

    mode: "reverse", "forward" (as many columns as hyperparameters are carried along, no states stored) and
    "reversible" (states are undone step by step instead of stored; the optimizer must be the backend's
    optim.reversible_sgd, Maclaurin et al. 2015) give the same number. lookback=K keeps the last K terms of the sum:
    truncated unrolling; with K = 1 it is one-step differentiation. checkpoint_every=c stores every c-th state and takes
    the steps between again (reverse only; "sqrt": c = ⌈√T⌉): less memory, the same bits.

    Result: params and opt_state after the steps; adjoint = dL_out/dw_0 (reverse; with a look-back, dL_out/dw_{T-K}),
    None in the other modes. Status TRUNCATED or NONFINITE. With num_steps = 1 it is T1-T2. (Maclaurin et al. 2015;
    Franceschi et al. 2017, alg. 1 and 2; Shaban et al. 2019.)
    """

    num_steps: int
    mode: Mode = "reverse"
    lookback: int | None = None
    checkpoint_every: int | Literal["sqrt"] | None = None

    def __post_init__(self) -> None:
        require_count(self, "num_steps", 1)
        require_choice(self, "mode", ("reverse", "forward", "reversible"))
        if self.lookback is not None:
            require_count(self, "lookback", 1)
            if self.lookback > self.num_steps:
                raise InvalidInput(
                    f"Unrolled.lookback: got {self.lookback}, limit: num_steps={self.num_steps}. Remedy: a smaller one."
                )
        if self.checkpoint_every is None:
            return
        if self.checkpoint_every != "sqrt":
            require_count(self, "checkpoint_every", 1)
        if self.mode != "reverse":
            raise InvalidInput(
                f"Unrolled.checkpoint_every: got {self.checkpoint_every!r} with mode {self.mode!r}, which stores no "
                "states, limit: None. Remedy: leave it out, or use mode='reverse'."
            )

    @property
    def window(self) -> int:
        """How many of the steps, counted from the last, are differentiated."""
        return self.num_steps if self.lookback is None else self.lookback

    @property
    def segment(self) -> int:
        """Steps between stored states within the window: all of it where nothing is recomputed."""
        if self.checkpoint_every is None:
            return self.window
        return math.isqrt(self.window - 1) + 1 if self.checkpoint_every == "sqrt" else self.checkpoint_every
