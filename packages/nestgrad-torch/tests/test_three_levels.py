"""A best response inside a best response: three levels, with a closed form."""

import pytest
import torch

import nestgrad_torch as ng

METHOD = ng.Implicit(solver=ng.Dense())
A, LEVEL = 0.5, 0.3
C = 1.0 / (1.0 + A)  # w*(m) = C m; m*(λ) = C / (C² + λ)


def test_the_middle_level_answers_through_the_lowest():
    def lowest(w, h, batch):
        return 0.5 * (w - h["m"]) ** 2 + 0.5 * A * w**2

    w_of = ng.best_response(lambda h, batch: C * h["m"], inner=ng.Minimize(lowest), method=METHOD)

    def middle(m, h, batch):
        return 0.5 * (w_of({"m": m}) - 1.0) ** 2 + 0.5 * h["decay"] * m**2

    def top(m, h, batch):
        return 0.5 * (m - 2.0) ** 2

    decay = torch.tensor(LEVEL, dtype=torch.float64, requires_grad=True)
    m = (C / (C**2 + decay)).detach()
    right = float((m - 2.0) * -C / (C**2 + LEVEL) ** 2)
    found = ng.hypergradient(ng.BilevelProblem(ng.Minimize(middle), top), m, {"decay": decay.detach()}, method=METHOD)
    assert float(found.total["decay"]) == pytest.approx(right, rel=1e-12)

    m_of = ng.best_response(lambda h, batch: C / (C**2 + h["decay"]), inner=ng.Minimize(middle), method=METHOD)
    (slope,) = torch.autograd.grad(top(m_of({"decay": decay}), None, None), decay)
    assert float(slope) == pytest.approx(right, rel=1e-12)
