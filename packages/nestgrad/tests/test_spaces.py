"""Hyperparameter spaces: bijections, their derivatives, their intervals and the errors at their ends."""

import math

import pytest

from nestgrad import (
    Bounded,
    InvalidInput,
    Log,
    Log10,
    Logit,
    OutOfSpace,
    Real,
    Softplus,
    Space,
    initial_values,
    map_spaces,
    require_initial,
)


class MathOps:
    """The elementary functions on Python floats: no array library is needed to state what a space is."""

    exp = staticmethod(math.exp)
    log = staticmethod(math.log)
    expm1 = staticmethod(math.expm1)

    @staticmethod
    def sigmoid(x: float) -> float:
        return 1.0 / (1.0 + math.exp(-x))

    @staticmethod
    def softplus(x: float) -> float:
        return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


OPS = MathOps()
INSIDE = {
    Real(0.0): [-1e6, -1.0, 0.0, 0.5, 3.0],
    Log(1.0): [1e-12, 1e-3, 1.0, 20.0],
    Log10(1.0): [1e-12, 1e-3, 1.0, 20.0],
    Logit(0.5): [1e-9, 0.1, 0.5, 0.9, 1.0 - 1e-9],
    Softplus(1.0): [1e-9, 1e-3, 0.7, 1.0, 30.0],
    Bounded(-2.0, 3.0): [-2.0 + 1e-6, 0.0, 0.5, 3.0 - 1e-6],
}
POINTS = [
    pytest.param(space, value, id=f"{type(space).__name__}-{value:g}") for space, vs in INSIDE.items() for value in vs
]
DERIVATIVES = {
    Real: lambda space, value: 1.0,
    Log: lambda space, value: value,
    Log10: lambda space, value: math.log(10.0) * value,
    Logit: lambda space, value: value * (1.0 - value),
    Softplus: lambda space, value: -math.expm1(-value),
    Bounded: lambda space, value: (value - space.low) * (space.high - value) / (space.high - space.low),
}
OUTSIDE = [
    (Log, 0.0, "0 and inf"),
    (Log, -1.0, "0 and inf"),
    (Log10, 0.0, "0 and inf"),
    (Log10, math.inf, "0 and inf"),
    (Softplus, 0.0, "0 and inf"),
    (Logit, 0.0, "0 and 1"),
    (Logit, 1.0, "0 and 1"),
    (Logit, 1.5, "0 and 1"),
    (lambda v: Bounded(-2.0, 3.0, v), -2.0, "-2 and 3"),
    (lambda v: Bounded(-2.0, 3.0, v), 3.5, "-2 and 3"),
    (Real, math.inf, "-inf and inf"),
    (Real, math.nan, "-inf and inf"),
]


@pytest.mark.parametrize(("space", "value"), POINTS)
def test_natural_undoes_unconstrained(space, value):
    leaf = space.unconstrained(value, OPS)
    assert space.natural(leaf, OPS) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("leaf", [-3.0, -0.5, 0.0, 0.25, 2.0])
@pytest.mark.parametrize("space", INSIDE, ids=lambda space: type(space).__name__)
def test_unconstrained_undoes_natural(space, leaf):
    assert space.unconstrained(space.natural(leaf, OPS), OPS) == pytest.approx(leaf, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("space", "value"), [point for point in POINTS if 1e-4 < abs(point.values[1]) < 1e3])
def test_derivative_is_the_one_of_the_docstring(space, value):
    leaf, step = space.unconstrained(value, OPS), 1e-5
    measured = (space.natural(leaf + step, OPS) - space.natural(leaf - step, OPS)) / (2 * step)
    # A central difference errs by step²/6 of the third derivative plus rounding over the step.
    assert measured == pytest.approx(DERIVATIVES[type(space)](space, value), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("leaf", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("space", INSIDE, ids=lambda space: type(space).__name__)
def test_every_leaf_lands_inside_the_interval_or_at_its_end(space, leaf):
    low, high = space.interval
    assert low <= space.natural(leaf, OPS) <= high


@pytest.mark.parametrize("value", [1e-12, 1e-6, 1.0, 40.0, 800.0])
def test_softplus_keeps_its_digits_at_both_ends(value):
    leaf = Softplus(1.0).unconstrained(value, OPS)
    assert leaf == pytest.approx(math.log(math.expm1(value)) if value < 700 else value, rel=1e-14)


@pytest.mark.parametrize(("make", "value", "limit"), OUTSIDE)
def test_a_value_outside_is_refused_with_the_value_and_the_limits(make, value, limit):
    with pytest.raises(OutOfSpace) as caught:
        make(value)
    message = str(caught.value)
    assert repr(value) in message
    assert f"strictly between {limit}" in message
    assert "Remedy: start inside the interval" in message


@pytest.mark.parametrize("value", [True, None, "0.1"])
def test_an_initial_value_that_is_no_number_is_refused(value):
    with pytest.raises(InvalidInput, match=r"Log10: got initial value .*limit: a real number"):
        Log10(value)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), ("a", 1.0)])
def test_bounded_needs_two_finite_ordered_ends(low, high):
    with pytest.raises(InvalidInput, match="two finite numbers, low < high"):
        Bounded(low, high)


def test_bounded_starts_in_the_middle():
    assert Bounded(-1.0, 3.0).initial == 1.0
    assert Bounded(-1.0, 3.0, 2.5).initial == 2.5


def test_clip_ends_must_be_ordered_and_inside():
    assert Log10(1e-3, clip=(1e-10, 1.0)).clip == (1e-10, 1.0)
    with pytest.raises(InvalidInput, match=r"Log10\.clip.*low < high"):
        Log10(1e-3, clip=(1.0, 1e-10))
    with pytest.raises(OutOfSpace, match="strictly between 0 and inf"):
        Log10(1e-3, clip=(0.0, 1.0))


def test_starting_at_keeps_all_but_the_initial_value():
    space = Bounded(0.0, 2.0, 0.5, clip=(0.1, 1.9))
    assert space.starting_at(1.5) == Bounded(0.0, 2.0, 1.5, clip=(0.1, 1.9))


def test_spaces_compare_and_print_by_value():
    assert Log10(1e-3) == Log10(1e-3) != Log(1e-3)
    assert len({Log10(1e-3), Log10(1e-3), Log10(1e-2)}) == 2
    assert "0.001" in repr(Log10(1e-3))


def test_space_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Space()


def test_initial_values_have_the_shape_of_the_spaces():
    assert initial_values({"a": Log10(1e-3), "b": [Real(2.0), Logit(0.5)]}) == {"a": 1e-3, "b": [2.0, 0.5]}


def test_map_spaces_finds_the_space_at_or_above_each_leaf():
    spaces = {"lr": Log10(1.0), "decay": Real(0.0)}
    values = {"decay": {"lr": 2.0, "b": [3.0]}, "lr": 1.0}
    kinds = map_spaces(lambda space, value: (type(space).__name__, value), spaces, values)
    assert kinds == {"decay": {"lr": ("Real", 2.0), "b": [("Real", 3.0)]}, "lr": ("Log10", 1.0)}


def test_map_spaces_takes_a_longer_name_for_another_hyperparameter():
    spaces = {"lr": Log10(1.0), "lr_bias": Real(0.0)}
    assert map_spaces(lambda space, value: type(space).__name__, spaces, {"lr": 1.0, "lr_bias": 2.0}) == {
        "lr": "Log10",
        "lr_bias": "Real",
    }


def test_map_spaces_takes_one_space_for_a_bare_value():
    assert map_spaces(lambda space, value: value * 2, Real(0.0), 3.0) == 6.0


def test_require_initial_names_the_hyperparameter():
    spaces = {"lr": Log10(1.0), "momentum": Logit(0.5)}
    require_initial(spaces, {"lr": 0.1, "momentum": 0.9}, lambda value: (value, value))
    with pytest.raises(
        OutOfSpace, match=r"hyperparameter 'momentum': Logit value 1\.0, limit: strictly between 0 and 1"
    ):
        require_initial(spaces, {"lr": 0.1, "momentum": 1.0}, lambda value: (value, value))


@pytest.mark.parametrize("extremes", [(-1.0, 2.0), (1.0, float("inf"))])
def test_require_initial_looks_at_both_extremes(extremes):
    with pytest.raises(OutOfSpace, match="hyperparameter 'rates'"):
        require_initial({"rates": Log(1.0)}, {"rates": "an array"}, lambda value: extremes)
