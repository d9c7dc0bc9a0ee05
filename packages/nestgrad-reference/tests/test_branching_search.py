"""Branching optimisation: which branches begin where, where they end, and what they cost."""

import copy
import math
import pickle

import autograd.numpy as anp
import numpy as np
import pytest
from played_games import bilinear, ipd, small_ipd

import nestgrad_reference as ng

optim, tree = ng.optim, ng.tree
PLAIN = optim.sgd(0.1)
CURVATURES = np.array([-2.0, 1.5, -0.5])


def saddle():
    """Curvatures -2, 1.5, -1/2 along the axes."""
    return ng.Game({"w": lambda p, _: 0.5 * anp.sum(CURVATURES * p["w"] ** 2)})


def double_well():
    """¼w⁴ - ½w² in each entry: minima where all are ±1."""
    return ng.Game({"w": lambda p, _: anp.sum(0.25 * p["w"] ** 4 - 0.5 * p["w"] ** 2)})


def search(game=None, **settings):
    """With plain descent, unless an optimizer, turns, a direction or throw is among the settings."""
    own = {name: settings.pop(name) for name in ("optimizer", "turns", "direction", "throw") if name in settings}
    branching = ng.Branching(**{"distance": 0.01, **settings})
    return ng.BranchingSearch(game or double_well(), **{"optimizer": PLAIN, **own}, branching=branching)


def taken(searching, starts):
    """All that is taken from the archive, and the last state."""
    state, entries = searching.init(starts), []
    while not searching.finished(state):
        state, info = searching.step(state)
        entries.append(info.taken)
    return entries, state


def same(first, second):
    """Two trees of the same paths and numbers, NaN for NaN."""
    a, b = tree.named_leaves(first), tree.named_leaves(second)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) or a[path] != a[path] for path in a)


def test_branches_begin_on_either_side_along_each_direction():
    start = {"w": np.zeros(3)}
    entries, _ = taken(search(saddle(), num_directions=2, num_steps=1, refinements=60, max_steps=1), [start])
    assert [entry["kind"] for entry in entries] == ["start", "point", "branch", "branch", "branch", "branch"]
    assert [entry["path"] for entry in entries[2:]] == [[(0, 1)], [(0, -1)], [(1, 1)], [(1, -1)]]
    places = np.stack([entry["state"]["players"]["w"] for entry in entries[2:]]) / 0.01
    assert np.abs(places[0]) == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)  # the gap of the singular values to the 60
    assert np.abs(places[2]) == pytest.approx([0.0, 0.0, 1.0], abs=1e-4)
    assert places[1::2] == pytest.approx(-places[::2], abs=1e-14)
    exponents = [entry["exponent"] for entry in entries[2:]]
    assert exponents == pytest.approx([math.log(1.2), math.log(1.2), math.log(1.05), math.log(1.05)], abs=1e-6)


def test_directions_that_do_not_part_are_left():
    settings = {"num_directions": 3, "num_steps": 1, "refinements": 60, "max_steps": 1}
    entries, _ = taken(search(saddle(), least_exponent=0.1, **settings), [{"w": np.zeros(3)}])
    assert [entry["path"] for entry in entries[2:]] == [[(0, 1)], [(0, -1)]]
    entries, state = taken(search(saddle(), least_exponent=0.5, **settings), [{"w": np.zeros(3)}])
    assert [entry["kind"] for entry in entries] == ["start", "point"]
    assert state["solutions"] == []


def test_a_branch_of_no_distance_is_plain_optimisation():
    rule = optim.complex_adam(0.05, 0.6, 0.3)
    searching = search(small_ipd(), optimizer=rule, distance=0.0, max_steps=25, max_branches=1, turns="alternating")
    start = {"one": np.array(0.3), "two": np.array(-0.2)}
    state = searching.run(searching.init([start]))
    play = ng.Play(small_ipd(), optimizer=rule, turns="alternating")
    plain = play.init(start)
    for _ in range(25):
        plain, _ = play.step(plain)
    (solution,) = state["solutions"]
    assert solution["players"] == plain["players"]
    found = ng.game_direction(small_ipd(), plain["players"])
    assert solution["losses"] == {name: float(loss) for name, loss in found.losses.items()}
    assert solution["direction_norm"] == pytest.approx(math.hypot(*tree.leaves(found.direction)), rel=1e-14)
    assert (solution["steps"], solution["converged"]) == (25, False)


def test_both_minima_of_a_double_well_are_found_from_beside_its_maximum():
    searching = search()
    state = searching.run(searching.init([{"w": np.array(1e-3)}]))
    assert searching.finished(state) == "archive empty"
    ends = sorted(float(solution["players"]["w"]) for solution in state["solutions"])
    assert ends == pytest.approx([-1.0, 1.0], abs=1e-5)
    for solution in state["solutions"]:
        assert solution["converged"]
        assert solution["direction_norm"] <= 1e-6
        assert solution["losses"] == {"w": pytest.approx(-0.25, abs=1e-9)}
    assert state["products"] == 10 * (2 * 10 + 1)
    assert state["updates"] == 10 + sum(solution["steps"] for solution in state["solutions"])
    assert (state["entries"], state["branches"]) == (4, 2)


def test_an_end_that_still_parts_is_a_saddle_and_is_branched_at():
    """In two dimensions: from the axis, where one entry rests at its maximum, to all four minima."""
    settings = {"num_steps": 1, "refinements": 40, "least_exponent": 0.0, "max_depth": 2, "num_directions": 2}
    searching = search(distance=0.05, **settings)
    state = searching.run(searching.init([{"w": np.zeros(2)}]))
    corners = {tuple(np.sign(solution["players"]["w"])) for solution in state["solutions"]}
    assert corners == {(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)}
    assert all(
        np.abs(solution["players"]["w"]) == pytest.approx(np.ones(2), abs=1e-5) for solution in state["solutions"]
    )


def test_a_ridge_on_a_quadratic_saddle_is_a_ray():
    """It never turns, and ends where max_steps say."""
    settings = {"num_directions": 1, "num_steps": 1, "refinements": 60, "least_exponent": 0.0, "max_steps": 1}
    searching = search(saddle(), ridge=ng.Ridge(step_size=0.05, max_steps=20), tolerance=1e9, **settings)
    entries, state = taken(searching, [{"w": np.zeros(3)}])
    for entry, solution in zip(entries[2:], state["solutions"], strict=True):
        begun, ended = entry["state"]["players"]["w"], solution["players"]["w"]
        assert ended == pytest.approx(begun / 0.01 * (0.01 + 20 * 0.05), abs=1e-4)
        assert (solution["ridden"], solution["steps"]) == (20, 0)
    one = 2 * 60 + 1
    assert state["products"] == one + 2 * 20 * one  # the point, and two ridges


def test_a_ridge_is_left_where_it_no_longer_parts():
    """The double well's curvature 3w² - 1 is 0 at 1/√3."""
    settings = {"num_steps": 1, "refinements": 2, "least_exponent": 0.0}
    searching = search(ridge=ng.Ridge(step_size=0.05), **settings)
    state = searching.run(searching.init([{"w": np.array(0.0)}]))
    assert sorted(float(s["players"]["w"]) for s in state["solutions"]) == pytest.approx([-1.0, 1.0], abs=1e-5)
    assert [solution["ridden"] for solution in state["solutions"]] == [12, 12]  # 0.01 + 12 · 0.05 is the first beyond


def test_a_ridge_keeps_to_its_direction_where_another_overtakes_it():
    """Curvatures -1 along x, and -½ - y² along y: beyond y = 0.7 the ridge along y has the larger exponent."""
    game = ng.Game({"w": lambda p, _: -0.5 * p["w"][0] ** 2 - 0.25 * p["w"][1] ** 2 - p["w"][1] ** 4 / 12.0})
    settings = {"num_directions": 2, "num_steps": 1, "refinements": 60, "least_exponent": 0.0, "max_steps": 1}
    searching = search(game, ridge=ng.Ridge(step_size=0.1, max_steps=12), tolerance=1e9, **settings)
    _, state = taken(searching, [{"w": np.zeros(2)}])
    ends = [np.abs(solution["players"]["w"]) for solution in state["solutions"]]
    assert ends[0] == pytest.approx([1.21, 0.0], abs=2e-3)
    assert ends[2] == pytest.approx([0.0, 1.21], abs=2e-3)


def test_ascent_goes_where_nearby_points_part_most():
    """The double well's is its maximum, where ln |1 - α L''| is largest; in the players alone."""
    ascent = ng.Ascent(optimizer=optim.sgd(0.5), steps=30)
    searching = search(ascent=ascent, num_steps=1, refinements=1, optimizer=optim.sgd(0.1, 0.5), max_steps=1)
    state, info = searching.step(searching.init([{"w": np.array(0.4)}]))
    (point,) = state["archive"]
    assert info.taken["kind"] == "start"
    assert point["kind"] == "point"
    assert abs(float(point["state"]["players"]["w"])) < 1e-3
    assert point["state"]["opt_state"] == {"w": {"trace": 0.0}}
    assert state["products"] == 30 * (3 + 2)
    assert state["updates"] == 30


@pytest.mark.parametrize("objective", ["smallest", "sum", "entropy"])
def test_ascent_follows_its_objective(objective):
    ascent = ng.Ascent(optimizer=optim.sgd(0.1), steps=2, objective=objective, num_exponents=2)
    searching = search(ascent=ascent, num_steps=2, refinements=1, seed=3)
    start = {"w": np.array([0.3, -0.2])}
    state, _ = searching.step(searching.init([start]))
    play, players = ng.Play(double_well(), optimizer=PLAIN), start
    for _ in range(2):
        method = ng.ExponentSpectrum(num_exponents=2, refinements=1, seed=3)
        found = ng.lyapunov_gradient(play.update, play.init(players), num_steps=2, objective=objective, method=method)
        players = {"w": players["w"] + 0.1 * found.gradient["players"]["w"]}
    assert state["archive"][0]["state"]["players"]["w"] == pytest.approx(players["w"], abs=1e-14)


def test_prisoners_defect_by_descent_and_branching_also_finds_tit_for_tat():
    """One logit each, from one start, in a number of products that is counted."""
    start = {"one": np.array(0.1257302210933933), "two": np.array(-0.1321048632913019)}
    ascent = ng.Ascent(optimizer=optim.sgd(2.0), steps=3)
    settings = {"num_steps": 10, "refinements": 1, "tolerance": 0.01, "max_steps": 100}
    searching = search(small_ipd(), optimizer=optim.sgd(5.0), distance=1.0, ascent=ascent, **settings)
    state = searching.run(searching.init([start]))
    losses = sorted(tuple(solution["losses"].values()) for solution in state["solutions"])
    assert losses == [pytest.approx((1.0, 1.0), abs=0.03), pytest.approx((1.959, 1.959), abs=0.03)]
    assert all(solution["converged"] for solution in state["solutions"])
    assert state["products"] == 3 * 10 * (3 + 2) + 10 * 3
    without = search(small_ipd(), optimizer=optim.sgd(5.0), distance=0.0, max_branches=1, **settings)
    (alone,) = without.run(without.init([start]))["solutions"]
    assert tuple(alone["losses"].values()) == pytest.approx((1.959, 1.959), abs=0.03)


def test_prisoners_of_five_logits_do_so_too():
    game, rng = ipd(), np.random.default_rng(0)
    tit_for_tat = np.array([30.0, 30.0, -30.0, 30.0, -30.0])
    for logits, years in ((tit_for_tat, 1.0), (np.full(5, -30.0), 2.0)):
        found = ng.game_direction(game, {"one": logits, "two": logits}).losses
        assert found == {"one": pytest.approx(years, abs=1e-9), "two": pytest.approx(years, abs=1e-9)}
    start = {"one": rng.normal(size=5), "two": rng.normal(size=5)}
    settings = {"num_steps": 10, "refinements": 1, "tolerance": 0.01, "max_steps": 200}
    ascent = ng.Ascent(optimizer=optim.adam(0.5), steps=4)
    searching = search(game, optimizer=optim.sgd(5.0), distance=2.0, ascent=ascent, **settings)
    state = searching.run(searching.init([start]))
    losses = sorted(tuple(solution["losses"].values()) for solution in state["solutions"])
    assert losses == [pytest.approx((1.0, 1.0), abs=0.03), pytest.approx((2.0, 2.0), abs=0.03)]
    assert all(solution["converged"] for solution in state["solutions"])
    assert state["products"] == 4 * 10 * (3 + 2) + 10 * 3
    without = search(game, optimizer=optim.sgd(5.0), distance=0.0, max_branches=1, **settings)
    (alone,) = without.run(without.init([start]))["solutions"]
    assert tuple(alone["losses"].values()) == pytest.approx((2.0, 2.0), abs=0.03)


def test_a_search_is_decided_by_its_seed():
    def found(seed):
        searching = search(num_steps=3, refinements=0, seed=seed, max_steps=5, num_directions=2)
        return searching.run(searching.init([{"w": np.array([0.3, -0.2])}]))

    first, again, other = found(1), found(1), found(2)
    assert same(first, again)
    assert not np.array_equal(first["solutions"][0]["players"]["w"], other["solutions"][0]["players"]["w"])


def test_a_state_can_be_put_away_and_taken_up_and_is_not_changed():
    searching = search(num_directions=2, max_steps=30)
    state, before = searching.init([{"w": np.array([0.3, -0.2])}, {"w": np.array([0.1, 0.4])}]), []
    whole = searching.run(state)
    while not searching.finished(state):
        before.append((state, copy.deepcopy(state)))
        state, _ = searching.step(pickle.loads(pickle.dumps(state)))  # noqa: S301  (written here)
    assert all(same(kept, copied) for kept, copied in before)
    assert same(state, whole)
    after, info = searching.step(state)
    assert after is state
    assert (info.taken, info.stopped) == (None, "archive empty")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_a_branch_that_is_lost_is_told_of(turns):
    game = ng.Game({"x": lambda p, _: -(p["x"] ** 4), "y": lambda p, _: p["y"] ** 2})
    searching = search(game, optimizer=optim.sgd(0.5), turns=turns, distance=0.5, num_steps=1, max_branches=1)
    state = searching.run(searching.init([{"x": np.array(1.5), "y": np.array(2.0)}]))
    (solution,) = state["solutions"]
    assert not math.isfinite(solution["direction_norm"])
    assert not solution["converged"]
    assert 0 < solution["steps"] < 1000
    assert searching.finished(state) == "branches"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_exponents_that_are_not_finite_raise_unless_told_not_to():
    steep = ng.Game({"w": lambda p, _: -anp.exp(p["w"])})
    settings = {"optimizer": optim.sgd(1.0), "num_steps": 20, "least_exponent": 0.0}
    searching = search(steep, **settings)
    state, _ = searching.step(searching.init([{"w": np.array(3.0)}]))
    with pytest.raises(ng.NonFinite, match="at step"):
        searching.step(state)
    quiet = search(steep, throw=False, **settings)
    assert quiet.run(quiet.init([{"w": np.array(3.0)}]))["solutions"] == []


def test_a_solve_that_does_not_converge_raises():
    competitive = ng.CompetitiveGradient(step_size=5.0, rtol=1e-12, max_steps=1)
    settings = {"direction": competitive, "num_steps": 1, "refinements": 0}
    start = {"x": np.array(1.0), "y": np.array(0.3)}
    with pytest.raises(ng.NotConverged):
        taken(search(bilinear(), **settings), [start])
    _, state = taken(search(bilinear(), throw=False, max_steps=3, **settings), [start])
    assert len(state["solutions"]) == 2


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (
            lambda: ng.BranchingSearch(double_well(), optimizer=PLAIN, branching=0.1),
            ng.InvalidInput,
            "BranchingSearch.branching: got 0.1, limit: a Branching. Remedy: ",
        ),
        (
            lambda: search(ascent=ng.Ascent(optimizer="adam", steps=1)),
            ng.UnsupportedOptimizer,
            "BranchingSearch.branching.ascent.optimizer: got str, limit: ",
        ),
        (lambda: search(optimizer="sgd"), ng.UnsupportedOptimizer, "Play.optimizer of 'w': got str"),
        (lambda: search().init({"w": np.zeros(2)}), ng.InvalidInput, "BranchingSearch.init: starts is .*limit: a list"),
        (lambda: search().init([{"v": np.zeros(2)}]), ng.InvalidInput, "players: got v, limit: the game's w"),
    ],
)
def test_what_is_wrong_is_named(made, error, message):
    with pytest.raises(error, match=message):
        made()
