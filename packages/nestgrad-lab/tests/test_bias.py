"""The first hypergradient against reverse mode through the same steps."""

import math
import os

import pytest

from nestgrad_lab.accuracy.bias import first_move, measure
from nestgrad_lab.errors import OptionError

needs_data = pytest.mark.skipif("NESTGRAD_DATA" not in os.environ, reason="NESTGRAD_DATA is not set")


@needs_data
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_carrying_the_state_takes_the_bias_away(backend):
    """A third of weight decay's and momentum's derivative is lost without it; signs are right either way."""
    found = measure(draws=12, backend=backend, dtype="float64", seed=1)
    for name in ("weight_decay", "momentum"):
        held, carried = found["weights"][name], found["weights_and_state"][name]
        assert carried.relative_error < 0.5 * held.relative_error
        assert abs(carried.ratio - 1.0) < 0.1 < abs(held.ratio - 1.0)
        assert carried.same_sign >= 0.75
    assert found["weights"]["learning_rate"].relative_error < 0.1


@needs_data
def test_both_backends_measure_the_same():
    one, other = (measure(draws=3, backend=backend, dtype="float64") for backend in ("torch", "jax"))
    for carry, each in one.items():
        for name, deviation in each.items():
            assert deviation.ratio == pytest.approx(other[carry][name].ratio, rel=1e-6)


def test_no_draws_are_refused():
    with pytest.raises(OptionError, match="--draws 0, limit: at least 1"):
        measure(draws=0)


def test_adams_first_move_is_that_of_the_paper():
    """Of the order of a sign: 5 % of a decade, or of a unit of logit, whatever the gradient's size."""
    for gradient in (3.0, 0.003):
        assert first_move("learning_rate", 0.01, gradient) == pytest.approx(0.01 * (10**-0.05 - 1), rel=1e-3)
        assert first_move("momentum", 0.5, -gradient) == pytest.approx(1 / (1 + math.exp(-0.05)) - 0.5, rel=1e-3)
    assert abs(first_move("weight_decay", 1e-6, 1e-3)) < 1e-6 * (10**0.05 - 1)  # below eps it is graded
