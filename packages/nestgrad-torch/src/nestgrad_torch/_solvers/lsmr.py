"""LSMR: the Golub-Kahan process, with two sets of rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import LSMR, Status
from nestgrad_torch._solvers._common import SOLVERS, Goal, Solve, System, begin, finish, goal, of_zero


@SOLVERS.register(LSMR)
def lsmr(spec: LSMR, system: System) -> Solve:
    """Two products a step, one at the start, one for the recomputed residual."""
    aim = goal(spec, system)
    if (zero := of_zero(system, aim)) is not None:
        return zero
    solution, residual, products = begin(system)
    run = _Run(system, solution, residual)
    while run.steps < spec.max_steps and run.goes_on(aim):
        run.step()
    return finish(
        system,
        aim,
        run.solution,
        steps=run.steps,
        products=products + run.products,
        named=run.named,
        steps_left=run.steps < spec.max_steps,
    )


def _unit(vector: Tensor) -> tuple[Tensor, float]:
    length = float(vector_norm(vector))
    return (vector / length if length else vector), length


def _turn(a: float, b: float) -> tuple[float, float, float]:
    """(c, s, r) with c·a + s·b = r ≥ 0 and c·b - s·a = 0."""
    r = math.hypot(a, b)
    return (a / r, b / r, r) if r else (1.0, 0.0, 0.0)


class _Run:
    """The bidiagonal process A V = U B and the rotations that solve min |Bᵀ(B y - β₁ e₁)|."""

    def __init__(self, system: System, solution: Tensor, residual: Tensor) -> None:
        self.system, self.solution = system, solution
        self.left_vector, beta = _unit(residual)
        self.right_vector, alpha = _unit(system.adjoint(self.left_vector))
        self.steps, self.products, self.size = 0, 1, alpha
        self.left, self.slope = beta, alpha * beta
        self.named: Status | None = None
        self._alpha, self._alpha_bar, self._zeta_bar = alpha, alpha, alpha * beta
        self._rho, self._rho_bar, self._c_bar, self._s_bar = 1.0, 1.0, 1.0, 0.0
        self._h, self._h_bar = self.right_vector, torch.zeros_like(residual)
        self._rest = _Residual(beta)
        if not math.isfinite(alpha):
            self.named = Status.NONFINITE
        elif alpha == 0.0 and beta > 0.0:
            self.named = Status.SINGULAR

    def goes_on(self, aim: Goal) -> bool:
        """Whether another step may help; names the end at a least-squares solution with a residual."""
        if self.named is not None or self.left <= aim.stop:
            return False
        if self.slope <= self.system.noise * self.size * self.left:
            self.named = Status.SINGULAR
            return False
        return True

    def step(self) -> None:
        image = torch.sub(self.system.apply(self.right_vector), self.left_vector, alpha=self._alpha)
        self.left_vector, beta = _unit(image)
        image = torch.sub(self.system.adjoint(self.left_vector), self.right_vector, alpha=beta)
        self.right_vector, alpha = _unit(image)
        self.products += 2
        if not math.isfinite(alpha + beta):
            self.named = Status.NONFINITE
            return
        self.size = max(self.size, math.hypot(self._alpha, beta))
        rho_old, rho_bar_old = self._rho, self._rho_bar
        c, s, self._rho = _turn(self._alpha_bar, beta)
        theta, self._alpha_bar = s * alpha, c * alpha
        theta_bar = self._s_bar * self._rho
        self._c_bar, self._s_bar, self._rho_bar = _turn(self._c_bar * self._rho, theta)
        zeta = self._c_bar * self._zeta_bar
        self._zeta_bar = -self._s_bar * self._zeta_bar
        if not self._rho or not self._rho_bar:
            self.named = Status.SINGULAR
            return
        self._h_bar = self._h - (theta_bar * self._rho / (rho_old * rho_bar_old)) * self._h_bar
        self.solution = torch.add(self.solution, self._h_bar, alpha=zeta / (self._rho * self._rho_bar))
        self._h = torch.sub(self.right_vector, self._h, alpha=theta / self._rho)
        self._alpha = alpha
        self.steps += 1
        self.slope = abs(self._zeta_bar)
        self.left = self._rest.after(c, s, theta_bar, zeta, self._rho_bar)


class _Residual:
    """|A x - b| from the same rotations (Fong and Saunders 2011, sec. 5)."""

    def __init__(self, beta: float) -> None:
        self._beta_dd, self._beta_d, self._rho_d_old = beta, 0.0, 1.0
        self._tau_old = self._theta_tilde = self._zeta_old = 0.0

    def after(self, c: float, s: float, theta_bar: float, zeta: float, rho_bar: float) -> float:
        beta_hat, self._beta_dd = c * self._beta_dd, -s * self._beta_dd
        theta_tilde_old = self._theta_tilde
        c_t, s_t, rho_t = _turn(self._rho_d_old, theta_bar)
        self._theta_tilde = s_t * rho_bar
        self._rho_d_old = c_t * rho_bar
        self._beta_d = -s_t * self._beta_d + c_t * beta_hat
        self._tau_old = (self._zeta_old - theta_tilde_old * self._tau_old) / rho_t if rho_t else 0.0
        tau = (zeta - self._theta_tilde * self._tau_old) / self._rho_d_old if self._rho_d_old else 0.0
        self._zeta_old = zeta
        return math.hypot(self._beta_d - tau, self._beta_dd)
