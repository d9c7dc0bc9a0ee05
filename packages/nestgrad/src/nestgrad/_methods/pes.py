"""Evolution strategies, plain and persistent."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._errors import InvalidInput
from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class PES:
    """Persistent evolution strategies on the loss of an unroll cut into K = num_steps / truncation windows.

    The objective is f = Σ_{k=1}^{K} L_out(w_{kτ}, λ_k), τ = truncation, λ_k the hyperparameters in window k (the last
    window's for the loss at its end). Particle i perturbs window k by σ ε_ik, its antithetic partner by -σ ε_ik, and
    each keeps its own weights and optimizer state over the windows. With ξ_ik = Σ_{j≤k} ε_ij and N = num_pairs,

        total = 1/(2σN) Σ_i Σ_k ξ_ik [L_k(i, +) - L_k(i, -)].

    Its mean is Σ_k Σ_{j≤k} ∂L_k/∂λ_j for losses affine in λ. The rows (ε_i1 … ε_iK), i < N, come in blocks of up to K·m
    orthogonal vectors of length √(K·m), uniform by the call's key, m the number of hyperparameter entries; with
    N = K·m the estimate is exact for affine losses. truncation = num_steps is plain ES. No derivative is taken, so
    direct = 0 and indirect = total; outer_loss is f / K at the unperturbed hparams, params and opt_state those of that
    run. Inner problems: those of Unrolled. Status TRUNCATED or NONFINITE. (Vicol, Metz and Sohl-Dickstein 2021, eq. 10;
    Salimans et al. 2017.)
    """

    num_steps: int
    truncation: int
    sigma: float
    num_pairs: int

    def __post_init__(self) -> None:
        for field in ("num_steps", "truncation", "num_pairs"):
            require_count(self, field, 1)
        require_number(self, "sigma", positive=True)
        if self.num_steps % self.truncation:
            raise InvalidInput(
                f"PES.truncation: got {self.truncation}, limit: a divisor of num_steps={self.num_steps}. "
                "Remedy: pass truncation=num_steps for plain evolution strategies."
            )

    @property
    def windows(self) -> int:
        """K."""
        return self.num_steps // self.truncation
