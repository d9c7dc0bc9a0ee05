"""Exponents and the search that branches: settings are checked, and the archive is taken from as they say."""

import copy
import math
from dataclasses import replace

import pytest

from nestgrad import (
    Ascent,
    Branching,
    Cost,
    Descent,
    ExponentSpectrum,
    InvalidInput,
    LargestExponent,
    Ridge,
    Spread,
    TunedDirection,
    begin_search,
    check_exponents,
    search_step,
)

STEP = 0.1


def loss(w):
    return 0.25 * w**4 - 0.5 * w**2


def slope(w):
    return w**3 - w


class OneWeight:
    """Descent of a loss with minima at ±1 and a maximum at 0, whose state is a dict of one number."""

    def begin(self, players):
        return {"players": players}

    def mean_loss(self, state):
        return loss(state["players"])

    def ascend(self, state, ascent, seed):
        return {"players": 0.0}, Cost(products=3, updates=ascent.steps)

    def spread(self, state, num_exponents, seed):
        exponent = math.log(abs(1.0 - STEP * (3.0 * state["players"] ** 2 - 1.0)))
        return Spread(exponents=[exponent], directions=[1.0], cost=Cost(products=1))

    def moved(self, state, directions, which, distance):
        return {"players": state["players"] + distance * directions[which]}

    def ride(self, state, directions, which, sign):
        return {"players": sign * 0.7}, 5, Cost(products=5)

    def descend(self, state, max_steps):
        w, steps = state["players"], 0
        while abs(slope(w)) > 1e-6 and steps < max_steps:
            w, steps = w - STEP * slope(w), steps + 1
        norm = abs(slope(w))
        return Descent(
            state={"players": w}, losses={"w": loss(w)}, direction_norm=norm, steps=steps, cost=Cost(updates=steps + 1)
        )


def searched(how, starts=(0.3,), explorer=None):
    """Every entry in the order in which it is taken, and the last state."""
    explorer, order = explorer or OneWeight(), []
    state = begin_search(explorer, list(starts))
    while True:
        state, info = search_step(explorer, how, state)
        order += [info.taken]
        if info.stopped:
            return order, state, info.stopped


ALL = Branching(distance=0.01, ascent=Ascent(optimizer=None, steps=4))


def test_both_sides_of_a_separatrix_are_found_from_one_start():
    order, state, stopped = searched(ALL)
    assert [entry["kind"] for entry in order] == ["start", "point", "branch", "branch"]
    assert stopped == "archive empty"
    assert [round(found["players"], 5) for found in state["solutions"]] == [1.0, -1.0]
    assert [found["path"] for found in state["solutions"]] == [[(0, 1)], [(0, -1)]]
    assert all(found["converged"] and found["losses"] == {"w": pytest.approx(-0.25)} for found in state["solutions"])
    steps = [found["steps"] for found in state["solutions"]]
    assert (state["products"], state["updates"]) == (4, 4 + sum(steps) + 2)
    assert (state["entries"], state["branches"]) == (4, 2)


def test_a_branch_at_no_distance_is_the_optimizer_alone():
    _, state, _ = searched(Branching(distance=0.0))
    plain = OneWeight().descend({"players": 0.3}, 1000)
    assert [found["players"] for found in state["solutions"]] == [plain.state["players"]] * 2


def test_a_step_leaves_the_state_that_it_was_given():
    state = begin_search(OneWeight(), [0.3, 0.4])
    for _ in range(5):
        before = copy.deepcopy(state)
        after, _ = search_step(OneWeight(), ALL, state)
        assert state == before
        state = after


def test_the_same_search_goes_the_same_way_from_wherever_it_is_taken_up():
    _, whole, _ = searched(ALL, (0.3, 0.4))
    state = begin_search(OneWeight(), [0.3, 0.4])
    for _ in range(3):
        state, _ = search_step(OneWeight(), ALL, state)
    state = copy.deepcopy(state)
    while not search_step(OneWeight(), ALL, state)[1].stopped:
        state, _ = search_step(OneWeight(), ALL, state)
    state, _ = search_step(OneWeight(), ALL, state)
    assert state == whole


@pytest.mark.parametrize(
    ("priority", "numbers"),
    [("exponent", [2, 3, 0, 1]), ("loss", [0, 1, 2, 3]), ("breadth", [0, 1, 2, 3]), ("depth", [0, 1, 2, 3])],
)
def test_branches_are_taken_by_priority_and_the_older_of_two_alike_first(priority, numbers):
    """Of two starts, 0.6 and 0.3, the second's branches have the larger exponents and the higher losses."""
    order, state, _ = searched(Branching(distance=0.001, priority=priority), (0.6, 0.3))
    starts = [entry["number"] for entry in order if entry["kind"] == "branch"]
    made = sorted(starts)
    by_loss = sorted(made, key=lambda n: next(e["loss"] for e in order if e["number"] == n))
    wanted = by_loss if priority == "loss" else [made[k] for k in numbers]
    assert starts == wanted
    if priority == "depth":
        assert [entry["kind"] for entry in order] == ["start", "start", "point", "branch", "branch", "point"] + [
            "branch"
        ] * 2
    assert len(state["solutions"]) == 4


@pytest.mark.parametrize(
    ("limit", "stopped", "branches"),
    [({"max_branches": 1}, "branches", 1), ({"max_products": 4}, "products", 0)],
)
def test_the_budget_ends_the_search_and_what_was_found_stays(limit, stopped, branches):
    _, state, why = searched(replace(ALL, **limit))
    assert why == stopped
    assert len(state["solutions"]) == branches
    again, info = search_step(OneWeight(), replace(ALL, **limit), state)
    assert again == state
    assert (info.taken, info.stopped) == (None, stopped)


def test_only_directions_above_the_least_exponent_are_branched_along():
    _, state, _ = searched(Branching(distance=0.01, least_exponent=0.0), (0.9,))
    assert state["branches"] == 0
    _, state, _ = searched(Branching(distance=0.01, least_exponent=0.0), (0.3,))
    assert state["branches"] == 2


def test_a_branch_that_ends_at_a_saddle_branches_again():
    """At no distance from the maximum, descent stays there; at the next depth the same place is branched at anew."""
    how = Branching(distance=0.0, least_exponent=0.0, max_depth=2)
    order, state, _ = searched(how, (0.0,))
    assert [entry["kind"] for entry in order].count("point") == 3
    assert [len(found["path"]) for found in state["solutions"]] == [2] * 4
    assert all(math.isnan(found["exponent"]) for found in state["solutions"])


def test_a_minimum_at_the_end_of_a_branch_is_a_solution_with_its_exponent():
    _, state, _ = searched(Branching(distance=0.01, least_exponent=0.0, max_depth=2), (0.0,))
    assert [found["exponent"] for found in state["solutions"]] == [pytest.approx(math.log(0.8), abs=1e-5)] * 2


def test_a_bifurcation_on_the_way_ends_a_branch_there():
    how = Branching(distance=0.01, least_exponent=0.0, max_depth=2, watch_every=3)
    order, state, _ = searched(how, (0.0,))
    points = [entry for entry in order if entry["kind"] == "point"]
    assert len(points) == 3
    assert all(0.01 < abs(entry["state"]["players"]) < 0.1 for entry in points[1:])
    assert {round(found["players"], 5) for found in state["solutions"]} == {1.0, -1.0}


def test_a_ridge_is_ridden_before_the_optimizer_takes_over():
    _, state, _ = searched(replace(ALL, ridge=Ridge(step_size=0.1), least_exponent=0.0))
    assert [found["ridden"] for found in state["solutions"]] == [5, 5]
    assert state["products"] == 3 + 1 + 10


def test_a_lost_branch_is_told_of_and_the_search_goes_on():
    class Lost(OneWeight):
        def descend(self, state, max_steps):
            down = super().descend(state, max_steps)
            return replace(down, direction_norm=math.nan) if state["players"] > 0 else down

    _, state, stopped = searched(replace(ALL, max_depth=2, least_exponent=0.0), explorer=Lost())
    assert stopped == "archive empty"
    assert [found["converged"] for found in state["solutions"]] == [False, True]
    assert math.isnan(state["solutions"][0]["direction_norm"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ExponentSpectrum(num_exponents=0), r"ExponentSpectrum\.num_exponents: got 0"),
        (lambda: ExponentSpectrum(refinements=-1), r"ExponentSpectrum\.refinements: got -1"),
        (lambda: ExponentSpectrum(seed=-1), r"ExponentSpectrum\.seed: got -1"),
        (lambda: LargestExponent(rtol=0.0), r"LargestExponent\.rtol: got 0\.0"),
        (lambda: LargestExponent(max_refinements=0), r"LargestExponent\.max_refinements: got 0"),
        (lambda: TunedDirection(at="last step"), r"TunedDirection\.at: got 'last step', limit: one of 'every step'"),
        (lambda: check_exponents("f", 0, LargestExponent()), r"f: num_steps=0, limit: an int of at least 1"),
        (lambda: check_exponents("f", 3, "QR"), r"f: method 'QR', limit: one of nestgrad\.ExponentMethod"),
        (lambda: check_exponents("f", 3, LargestExponent(), "mean"), r"f: objective 'mean', limit: largest, smallest"),
        (lambda: Branching(distance=-1.0), r"Branching\.distance: got -1\.0"),
        (lambda: Branching(distance=0.1, num_directions=0), r"Branching\.num_directions: got 0"),
        (lambda: Branching(distance=0.1, watch_every=0), r"Branching\.watch_every: got 0"),
        (lambda: Branching(distance=0.1, priority="best"), r"Branching\.priority: got 'best'"),
        (lambda: Branching(distance=0.1, least_exponent=math.nan), r"Branching\.least_exponent: got nan"),
        (lambda: Branching(distance=0.1, ridge=Ridge(step_size=0.1)), r"Branching\.ridge: got a Ridge with least_expo"),
        (lambda: Ridge(step_size=0.0), r"Ridge\.step_size: got 0\.0"),
        (lambda: Ascent(optimizer=None, steps=0), r"Ascent\.steps: got 0"),
        (lambda: Ascent(optimizer=None, steps=1, objective="mean"), r"Ascent\.objective: got 'mean'"),
        (lambda: begin_search(OneWeight(), []), r"BranchingSearch\.init: starts is \[\], limit: a list of 1 or more"),
        (lambda: begin_search(OneWeight(), {"w": 0.3}), r"BranchingSearch\.init: starts is \{'w': 0\.3\}"),
    ],
)
def test_what_cannot_be_is_refused_by_name(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()
