"""A best response inside a best response: three levels, with a closed form."""

import jax
import jax.numpy as jnp
import pytest

import nestgrad_jax as ng

pytestmark = pytest.mark.usefixtures("x64")
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

    m, hparams = jnp.asarray(C / (C**2 + LEVEL)), {"decay": jnp.asarray(LEVEL)}
    right = (m - 2.0) * -C / (C**2 + LEVEL) ** 2
    found = ng.hypergradient(ng.BilevelProblem(ng.Minimize(middle), top), m, hparams, method=METHOD)
    assert found.total["decay"] == pytest.approx(float(right), rel=1e-12)

    m_of = ng.best_response(lambda h, batch: C / (C**2 + h["decay"]), inner=ng.Minimize(middle), method=METHOD)
    slope = jax.jit(jax.grad(lambda h: top(m_of(h), h, None)))(hparams)
    assert slope["decay"] == pytest.approx(float(right), rel=1e-12)
