"""The look-back and interval that one-pass tuning finds by itself: each rule of the definition."""

import math

import pytest

from nestgrad import GMRES, Guard, Identity, Implicit, Neumann, Unrolled, choosing

AGREES, DISAGREES = [1.0, 1.0], [1.0, 0.0]
FAR, NEAR = 0.9999, 0.9
TROUBLES = [
    {"contraction": 1.0},
    {"contraction": 2.5},
    {"contraction": math.inf},
    {"contraction": math.nan},
    {"contraction": FAR, "finite": False},
    {"contraction": NEAR, "finite": False},
]


def after(chosen=None, *, below=AGREES, now=AGREES, contraction=FAR, finite=True, free=True):
    start = choosing.first_choice(None) if chosen is None else chosen
    return choosing.after_probe(start, below=below, now=now, contraction=contraction, finite=finite, free=free)


def at(level, *, near=False):
    every = choosing.interval(level, near=near)
    return {**choosing.first_choice(None), "num_terms": level, "near": near, "every": every}


def test_a_run_begins_far_from_the_edge_with_one_term_the_shortest_interval_and_a_probe():
    assert choosing.first_choice(None) == {"every": 5, "num_terms": 1, "near": False, "since": 0, "until_probe": 0}
    assert choosing.first_choice(7)["every"] == 7


def test_levels_are_odd_and_rise():
    assert all(level % 2 == 1 for level in choosing.LEVELS)
    assert list(choosing.LEVELS) == sorted(set(choosing.LEVELS))
    assert choosing.NEAR_TERMS in choosing.LEVELS


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("terms", choosing.LEVELS)
def test_the_interval_is_the_shortest_that_keeps_to_the_overhead_and_to_the_least(terms, near):
    cost, least = 1 + 2 * (terms - 1), 10 if near else 5
    every = choosing.interval(terms, near=near)
    assert cost / every <= choosing.OVERHEAD
    assert every >= least
    assert every == least or cost / (every - 1) > choosing.OVERHEAD


@pytest.mark.parametrize(
    ("method", "every"),
    [
        (Implicit(solver=Neumann(num_terms=5, step_size=1.0)), 10),
        (Implicit(solver=Neumann(num_terms=9, step_size=1.0)), 19),
        (Implicit(solver=Identity()), 10),
        (Implicit(solver=GMRES(rtol=0.0, atol=0.0, max_steps=9)), 19),
        (Unrolled(num_steps=1), 10),
        (Unrolled(num_steps=9), 19),
    ],
)
def test_a_given_method_has_the_interval_of_its_cost_and_at_least_that_near_the_edge(method, every):
    assert choosing.interval_for(method) == every


def test_only_a_look_back_found_by_measuring_is_guarded_unasked():
    mine, method = Guard(max_norm=3.0), Implicit(solver=Identity())
    assert choosing.guard_for(None, None) == Guard()
    assert choosing.guard_for(method, None) is None
    assert choosing.guard_for(None, mine) is mine
    assert choosing.guard_for(method, mine) is mine


def test_a_probe_compares_with_the_level_below_and_a_look_back_four_times_as_far():
    assert [method.solver.num_terms for method in choosing.probed(at(5))] == [3, 5, 21]
    assert [method.solver.num_terms for method in choosing.probed(at(1))] == [1, 1, 5]
    assert all(method.solver.step_size == 1.0 for method in choosing.probed(at(5)))


def test_a_look_back_whose_direction_differs_from_the_far_one_goes_up_a_level():
    found = after(at(3), now=DISAGREES)
    assert (found["num_terms"], found["every"], found["near"]) == (5, 10, False)
    assert after(at(13), now=DISAGREES)["num_terms"] == 13
    assert after(at(3), below=DISAGREES, now=[1.0, choosing.AGREEMENT])["num_terms"] == 3


def test_a_look_back_goes_down_only_where_the_level_below_agrees_as_well():
    found = after(at(3))
    assert (found["num_terms"], found["every"], found["near"]) == (1, 5, False)
    assert after(at(3), below=DISAGREES)["num_terms"] == 3
    assert after(at(3), below=[1.0, choosing.AGREEMENT])["num_terms"] == 1
    assert after(at(3), below=DISAGREES)["every"] == 6
    assert after(at(1))["num_terms"] == 1


@pytest.mark.parametrize(("contraction", "near"), [(0.9991, False), (choosing.SLOW, True), (0.5, True), (0.0, True)])
def test_a_run_is_far_from_the_edge_only_where_terms_shrink_slowly(contraction, near):
    found = after(at(1, near=not near), contraction=contraction)
    assert found["near"] is near
    assert (found["num_terms"], found["every"]) == ((5, 10) if near else (1, 5))
    assert found["until_probe"] == (19 if near else 4)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_far_series_that_grows_or_is_not_finite_is_near_the_edge(trouble):
    found = after(at(1), **trouble)
    assert found == {"every": 10, "num_terms": 5, "near": True, "since": 0, "until_probe": 19}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("now", [AGREES, DISAGREES])
@pytest.mark.parametrize("terms", choosing.LEVELS)
def test_where_the_far_series_tells_nothing_the_look_back_is_five_whatever_the_directions(terms, now, trouble):
    assert after(at(terms, near=True), now=now, **trouble)["num_terms"] == 5


@pytest.mark.parametrize(
    ("terms", "now", "then"),
    [(1, DISAGREES, 5), (3, AGREES, 5), (5, AGREES, 5), (5, DISAGREES, 9), (9, AGREES, 5), (13, AGREES, 9)],
)
def test_near_the_edge_directions_move_the_look_back_and_it_stays_five_or_more(terms, now, then):
    found = after(at(terms), now=now, contraction=NEAR)
    assert (found["num_terms"], found["near"]) == (then, True)
    assert found["every"] == max(10, math.ceil((2 * then - 1) / 0.9))


def test_a_run_that_leaves_the_edge_gets_its_short_look_back_again_level_by_level():
    chosen, seen = at(5, near=True), []
    for _ in range(3):
        chosen = after(chosen)
        seen.append((chosen["num_terms"], chosen["every"], chosen["near"]))
    assert seen == [(3, 6, False), (1, 5, False), (1, 5, False)]


@pytest.mark.parametrize("contraction", [FAR, NEAR, 2.0])
def test_a_given_interval_stays(contraction):
    found = after(choosing.first_choice(7), now=DISAGREES, contraction=contraction, free=False)
    assert found["every"] == 7
    assert found["num_terms"] == (3 if contraction == FAR else 5)


@pytest.mark.parametrize(("contraction", "hyper_steps"), [(FAR, 5), (NEAR, 20)])
def test_counts_run_on_between_probes(contraction, hyper_steps):
    chosen = after(contraction=contraction)
    taken = 1
    while chosen["until_probe"]:
        chosen = choosing.after_step(chosen)
        assert chosen["since"] == 1
        counted = choosing.after_hyper_step(chosen)
        assert counted == {**chosen, "since": 0, "until_probe": chosen["until_probe"] - 1}
        chosen, taken = counted, taken + 1
    assert taken == hyper_steps


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
