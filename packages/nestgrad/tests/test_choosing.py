"""The look-back, interval and step size that one-pass tuning finds by itself: each rule of the definition."""

import math

import pytest

from nestgrad import GMRES, Identity, Implicit, Neumann, Unrolled, choosing

AGREES, DISAGREES = [1.0, 1.0], [1.0, 0.0]


def after(chosen=None, *, below=AGREES, now=AGREES, contraction=0.99, finite=True, free=True):
    start = choosing.first_choice(None) if chosen is None else chosen
    return choosing.after_probe(start, below=below, now=now, contraction=contraction, finite=finite, free=free)


def at(level, step_size=1.0):
    return {**choosing.first_choice(None), "num_terms": level, "step_size": step_size}


def test_a_run_begins_with_one_term_the_shortest_interval_and_a_probe():
    assert choosing.first_choice(None) == {
        "every": 5,
        "num_terms": 1,
        "step_size": 1.0,
        "since": 0,
        "until_probe": 0,
    }
    assert choosing.first_choice(7)["every"] == 7


@pytest.mark.parametrize("terms", choosing.LEVELS)
def test_the_interval_is_the_shortest_that_keeps_to_the_overhead(terms):
    cost = 1 + 2 * (terms - 1)
    every = choosing.interval(terms)
    assert cost / every <= choosing.OVERHEAD
    assert every == choosing.LEAST_EVERY or cost / (every - 1) > choosing.OVERHEAD


@pytest.mark.parametrize(
    ("method", "every"),
    [
        (Implicit(solver=Neumann(num_terms=5, step_size=1.0)), 10),
        (Implicit(solver=Identity()), 5),
        (Implicit(solver=GMRES(rtol=0.0, atol=0.0, max_steps=5)), 10),
        (Unrolled(num_steps=1), 5),
        (Unrolled(num_steps=5), 10),
    ],
)
def test_a_given_method_has_the_interval_of_its_cost(method, every):
    assert choosing.interval_for(method) == every


def test_a_probe_compares_with_the_level_below_and_a_look_back_four_times_as_far():
    assert [method.solver.num_terms for method in choosing.probed(at(3, 0.5))] == [2, 3, 13]
    assert [method.solver.num_terms for method in choosing.probed(at(1))] == [1, 1, 5]
    assert all(method.solver.step_size == 0.5 for method in choosing.probed(at(3, 0.5)))


def test_a_look_back_whose_direction_differs_from_the_far_one_grows():
    assert after(at(2), now=DISAGREES)["num_terms"] == 3
    assert after(at(2), now=DISAGREES)["every"] == choosing.interval(3)
    assert after(at(13), now=DISAGREES)["num_terms"] == 13


def test_a_look_back_shrinks_only_where_the_level_below_agrees_as_well():
    assert after(at(3))["num_terms"] == 2
    assert after(at(3), below=DISAGREES)["num_terms"] == 3
    assert after(at(1))["num_terms"] == 1


def test_a_given_interval_stays():
    assert after(choosing.first_choice(7), now=DISAGREES, free=False)["every"] == 7


@pytest.mark.parametrize("trouble", [{"contraction": 1.0}, {"contraction": math.nan}, {"finite": False}])
def test_a_far_series_that_grows_halves_the_step_and_leaves_the_look_back(trouble):
    found = after(at(3), now=DISAGREES, **trouble)
    assert (found["step_size"], found["num_terms"]) == (0.5, 3)
    assert after(at(3, choosing.LEAST_STEP), **trouble)["step_size"] == choosing.LEAST_STEP


def test_the_step_recovers_where_the_terms_shrink_well():
    assert after(at(1, 0.25), contraction=0.5)["step_size"] == 0.5
    assert after(at(1, 0.25), contraction=0.95)["step_size"] == 0.25
    assert after(at(1, 1.0), contraction=0.5)["step_size"] == 1.0


def test_counts_run_on_between_probes():
    chosen = after()
    assert (chosen["since"], chosen["until_probe"]) == (0, choosing.PROBE_EVERY - 1)
    chosen = choosing.after_step(chosen)
    assert chosen["since"] == 1
    chosen = choosing.after_hyper_step(chosen, grew=False)
    assert (chosen["since"], chosen["until_probe"]) == (0, choosing.PROBE_EVERY - 2)


@pytest.mark.parametrize(
    ("contraction", "terms", "grows"),
    [(0.99, 2, False), (1.0, 2, True), (math.nan, 2, True), (math.inf, 2, True), (math.nan, 1, False)],
)
def test_a_series_grows_unless_its_terms_are_seen_to_shrink(contraction, terms, grows):
    assert choosing.grows(contraction, terms) is grows


def test_a_series_that_grew_halves_its_step_at_any_hyper_step():
    assert choosing.after_hyper_step(at(3), grew=True)["step_size"] == 0.5
    assert choosing.after_hyper_step(at(3, choosing.LEAST_STEP), grew=True)["step_size"] == choosing.LEAST_STEP
    assert choosing.after_hyper_step(at(3, 0.5), grew=False)["step_size"] == 0.5


@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    [
        ([1.0], [5.0], 1.0),
        ([1.0], [-5.0], -1.0),
        ([0.0], [0.0], 1.0),
        ([0.0], [1.0], 0.0),
        ([3.0, 4.0], [4.0, 3.0], 0.96),
    ],
)
def test_a_cosine_is_that_of_the_directions_and_defined_at_zero(one, other, cosine):
    assert choosing.cosine(one, other) == pytest.approx(cosine)


def test_a_cosine_neither_overflows_nor_underflows():
    assert choosing.cosine([1e200, 1e200], [1e-200, 1e-200]) == pytest.approx(1.0)
