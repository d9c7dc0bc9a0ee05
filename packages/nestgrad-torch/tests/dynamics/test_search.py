"""Branching: where branches begin, that each is the plain optimizer, what is found of known landscapes and games."""

import math
import pickle

import pytest
import torch

import nestgrad_torch as ng

D = torch.float64
SGD = ng.optim.sgd(0.1)


def one(loss):
    return ng.Game({"w": lambda p, _: loss(p["w"])})


WELLS = one(lambda w: 0.25 * w**4 - 0.5 * w**2)
FOUR = one(lambda w: (0.25 * w**4 - 0.5 * torch.tensor([1.0, 0.8], dtype=D) * w**2).sum())
SADDLE = one(lambda w: 0.5 * (w @ torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=D) @ w))


def at(*numbers):
    return {"w": torch.tensor(numbers if len(numbers) > 1 else numbers[0], dtype=D)}


def solved(search, *starts):
    return search.run(search.init(list(starts)))


def ends(state, name="w"):
    return sorted(torch.round(s["players"][name], decimals=3).tolist() for s in state["solutions"])


def test_t1_branches_begin_at_the_distance_along_each_direction_to_both_sides():
    how = ng.Branching(distance=0.25, num_directions=2, num_steps=3, refinements=5)
    search = ng.BranchingSearch(FOUR, optimizer=ng.optim.sgd(0.1, momentum=0.5), branching=how)
    state, _ = search.step(search.init([at(0.1, 0.2)]))
    state, info = search.step(state)
    point = info.taken["state"]
    assert info.taken["kind"] == "point"
    found = ng.lyapunov_exponents(
        search.play.update, point, num_steps=3, method=ng.ExponentSpectrum(num_exponents=2, refinements=5, seed=1)
    )
    order = sorted(range(2), key=lambda i: -float(found.exponents[i]))
    assert [entry["path"] for entry in state["archive"]] == [[(i, sign)] for i in (0, 1) for sign in (1, -1)]
    for entry in state["archive"]:
        which, sign = entry["path"][0]
        for part in (("players", "w"), ("opt_state", "w", "trace")):
            now, then, direction = entry["state"], point, found.directions
            for name in part:
                now, then, direction = now[name], then[name], direction[name]
            assert torch.allclose(now, then + sign * 0.25 * direction[order[which]], rtol=0, atol=1e-15)
        assert entry["exponent"] == pytest.approx(float(found.exponents[order[which]]), abs=1e-14)
        assert entry["state"]["step"] == 0
    assert state["products"] == found.products == 3 * 2 * 11


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_t2_a_branch_of_no_distance_is_the_plain_optimizer(turns):
    game = ng.Game({"w": WELLS.losses["w"], "v": lambda p, _: (p["v"] - p["w"]) ** 2})
    rules = {"w": ng.optim.adam(0.05), "v": ng.optim.sgd(0.1, momentum=0.5)}
    how = ng.Branching(distance=0.0, num_steps=2, max_steps=40, tolerance=1e-3)
    search = ng.BranchingSearch(game, optimizer=rules, branching=how, turns=turns)
    players = {**at(0.3), "v": torch.tensor(0.7, dtype=D)}
    found = solved(search, players)["solutions"]
    play = ng.Play(game, optimizer=rules, turns=turns)
    state = play.init(players)
    for _ in range(found[0]["steps"]):
        state, _ = play.step(state)
    assert found[0]["steps"] == 40
    for solution in found:
        assert all(torch.equal(solution["players"][name], state["players"][name]) for name in ("w", "v"))
        direction = ng.game_direction(game, state["players"])
        assert solution["losses"] == {name: float(loss) for name, loss in direction.losses.items()}
        assert solution["direction_norm"] == pytest.approx(
            math.hypot(*(float(x) for x in direction.direction.values())), rel=1e-14
        )
        assert not solution["converged"]


def test_a_branch_ends_where_its_direction_is_within_the_tolerance():
    how = ng.Branching(distance=0.5, num_steps=2, tolerance=1e-4)
    state = solved(ng.BranchingSearch(WELLS, optimizer=SGD, branching=how), at(0.0))
    for solution in state["solutions"]:
        w = float(solution["players"]["w"])
        assert solution["converged"]
        assert solution["direction_norm"] == pytest.approx(abs(w**3 - w), abs=1e-15)
        assert solution["direction_norm"] <= 1e-4
        before, steps = 0.5, 0
        while abs(before**3 - before) > 1e-4:
            before, steps = before - 0.1 * (before**3 - before), steps + 1
        assert solution["steps"] == steps
    assert state["updates"] == sum(s["steps"] for s in state["solutions"]) + 2


def test_t3_both_wells_are_found():
    how = ng.Branching(distance=0.01, num_steps=5, least_exponent=0.0)
    state = solved(ng.BranchingSearch(WELLS, optimizer=SGD, branching=how), at(1e-3))
    assert ends(state) == [-1.0, 1.0]
    assert all(s["converged"] and s["exponent"] != s["exponent"] for s in state["solutions"])


def test_all_four_minima_are_found_from_the_maximum_between_them():
    how = ng.Branching(distance=0.05, num_directions=2, num_steps=3, least_exponent=0.0, max_depth=3)
    search = ng.BranchingSearch(FOUR, optimizer=SGD, branching=how)
    state = solved(search, at(0.0, 0.0))
    edge = math.sqrt(0.8)
    corners = [(x, y) for x in (-1.0, 1.0) for y in (-edge, edge)]
    found = [s["players"]["w"].tolist() for s in state["solutions"]]
    for corner in corners:
        assert any(math.dist(corner, w) < 1e-4 for w in found)
    assert all(any(math.dist(corner, w) < 1e-4 for corner in corners) for w in found)
    assert search.finished(state) == "archive empty"


def test_an_ascent_goes_up_the_exponent_in_the_players_alone():
    how = ng.Branching(
        distance=0.1,
        num_steps=4,
        refinements=3,
        least_exponent=0.0,
        ascent=ng.Ascent(optimizer=ng.optim.sgd(0.5), steps=30),
    )
    rule = ng.optim.sgd(0.1, momentum=0.3)
    search = ng.BranchingSearch(WELLS, optimizer=rule, branching=how)
    state, _ = search.step(search.init([at(0.5)]))
    point = state["archive"][0]["state"]
    assert abs(float(point["players"]["w"])) < 0.05
    assert point["step"] == 0
    assert float(point["opt_state"]["w"]["trace"]) == 0.0
    assert state["products"] == 30 * (4 * 7 + 8)
    assert state["updates"] == 30 * 4
    assert ends(search.run(state)) == [-1.0, 1.0]


def test_on_a_quadratic_saddle_the_ridge_is_the_ray():
    direction = torch.tensor([1.0, -2.0], dtype=D) / math.sqrt(5.0)  # of curvature -1
    how = ng.Branching(
        distance=0.0,
        num_steps=1,
        refinements=40,
        least_exponent=0.0,
        ridge=ng.Ridge(step_size=0.02, max_steps=25),
        max_steps=1,
    )
    search = ng.BranchingSearch(SADDLE, optimizer=SGD, branching=how)
    state = search.init([at(0.0, 0.0)])
    for _ in range(2):
        state, _ = search.step(state)
    for entry in state["archive"]:
        assert entry["exponent"] == pytest.approx(math.log(1.1), abs=1e-12)
    rays = set()
    for solution in search.run(state)["solutions"]:
        w = solution["players"]["w"] / 1.1  # before the one step of descent along it
        assert solution["ridden"] == 25
        assert torch.allclose(w.abs(), 0.5 * direction.abs(), rtol=0, atol=1e-6)
        assert abs(float(w @ direction)) == pytest.approx(0.5, abs=1e-12)
        rays.add(math.copysign(1.0, float(w @ direction)))
    assert rays == {-1.0, 1.0}


def test_a_ridge_ends_where_its_exponent_does():
    how = ng.Branching(distance=0.0, num_steps=1, least_exponent=0.0, ridge=ng.Ridge(step_size=0.05), tolerance=1e-8)
    state = solved(ng.BranchingSearch(WELLS, optimizer=SGD, branching=how), at(0.0))
    # The curvature 3w² - 1 is first not negative at 0.6 of these steps.
    assert [s["ridden"] for s in state["solutions"]] == [12, 12]
    assert ends(state) == [-1.0, 1.0]


def test_t4_a_search_is_determined_by_its_seed_and_goes_on_from_a_pickle():
    def searched(seed, *, pickled):
        how = ng.Branching(
            distance=0.3,
            num_steps=2,
            refinements=1,
            max_steps=30,
            seed=seed,
            ascent=ng.Ascent(optimizer=ng.optim.adam(0.05), steps=2),
        )
        search = ng.BranchingSearch(FOUR, optimizer=SGD, branching=how)
        state = search.init([at(0.3, -0.2), at(0.1, 0.4)])
        while not search.finished(state):
            state = pickle.loads(pickle.dumps(state)) if pickled else state  # noqa: S301
            state, _ = search.step(state)
        return [s["players"]["w"].tolist() for s in state["solutions"]]

    assert searched(0, pickled=False) == searched(0, pickled=True)
    assert searched(0, pickled=False) != searched(1, pickled=False)


def test_a_step_does_not_change_the_state_and_a_lost_branch_is_told_of():
    how = ng.Branching(distance=3.0, num_steps=1, max_steps=50)
    search = ng.BranchingSearch(WELLS, optimizer=ng.optim.sgd(1.0), branching=how)
    state = search.init([at(0.0)])
    first = state
    while not search.finished(state):
        state, _ = search.step(state)
    assert [entry["kind"] for entry in first["archive"]] == ["start"]
    assert float(first["archive"][0]["state"]["players"]["w"]) == 0.0
    assert [math.isfinite(s["direction_norm"]) for s in state["solutions"]] == [False, False]
    assert not any(s["converged"] for s in state["solutions"])


def test_losses_may_take_derivatives_themselves_and_gradients_may_be_off():
    def penalised(p, _):
        energy = 0.25 * p["w"] ** 4 - 0.5 * p["w"] ** 2
        (slope,) = torch.autograd.grad(energy, p["w"], create_graph=True)
        return energy + 0.01 * slope**2

    how = ng.Branching(distance=0.1, num_steps=2, refinements=1, least_exponent=0.0, tolerance=1e-5)
    search = ng.BranchingSearch(ng.Game({"w": penalised}), optimizer=SGD, branching=how)
    with torch.no_grad():
        state = solved(search, at(0.0))
    assert ends(state) == [-1.0, 1.0]
    assert not any(s["players"]["w"].requires_grad for s in state["solutions"])


def test_what_cannot_be_searched_is_named():
    how = ng.Branching(distance=0.1)
    with pytest.raises(ng.InvalidInput, match=r"BranchingSearch\.branching: got 'x', limit: a Branching"):
        ng.BranchingSearch(WELLS, optimizer=SGD, branching="x")
    with pytest.raises(ng.InvalidInput, match=r"starts is .*, limit: a list of 1 or more"):
        ng.BranchingSearch(WELLS, optimizer=SGD, branching=how).init(at(0.0))
    with pytest.raises(ng.UnsupportedOptimizer, match=r"ascent\.optimizer: got float"):
        ng.BranchingSearch(
            WELLS, optimizer=SGD, branching=ng.Branching(distance=0.1, ascent=ng.Ascent(optimizer=0.1, steps=1))
        )
    far = ng.BranchingSearch(WELLS, optimizer=ng.optim.sgd(1.0), branching=how)
    with pytest.raises(ng.NonFinite, match="lyapunov_exponents: step 5 of 10"):
        solved(far, at(1e3))


def chances(logits, *, other):
    """(5, 2): of cooperating and not, at the start and after CC, CD, DC, DD, from the first player's view."""
    p = logits.sigmoid()
    p = p[[0, 1, 3, 2, 4]] if other else p
    return torch.stack([p, 1.0 - p], dim=1)


def dilemma(one, two, which, discount):
    """The iterated prisoner's dilemma of two (5, 2)s."""
    after = (one[:, :, None] * two[:, None, :]).reshape(5, 4)
    rewards = torch.tensor([[-1.0, -3.0, 0.0, -2.0], [-1.0, 0.0, -3.0, -2.0]][which], dtype=D)
    worth = torch.linalg.solve(torch.eye(4, dtype=D) - discount * after[1:], rewards)
    return -(1.0 - discount) * after[0] @ worth


def full(p, which):
    return dilemma(chances(p["one"], other=False), chances(p["two"], other=True), which, 0.96)


def small(p, which):
    """One logit each; who has just been defected against cooperates with σ(-3)."""
    rare = torch.tensor(-3.0, dtype=D)
    one, two = (torch.stack([p[name], p[name], rare, p[name], rare]) for name in ("one", "two"))
    return dilemma(chances(one, other=False), chances(two, other=True), which, 0.9)


def played_by_two(loss):
    return ng.Game({"one": lambda p, _: loss(p, 0), "two": lambda p, _: loss(p, 1)})


def both(loss, one, two):
    players = {"one": torch.as_tensor(one, dtype=D), "two": torch.as_tensor(two, dtype=D)}
    return [float(x) for x in ng.game_direction(played_by_two(loss), players).losses.values()]


def test_the_dilemmas_have_their_known_losses():
    always, back = [-1e3] * 5, [1e3, 1e3, -1e3, 1e3, -1e3]
    assert both(full, always, always) == pytest.approx([2.0, 2.0], rel=1e-12)
    assert both(full, back, back) == pytest.approx([1.0, 1.0], rel=1e-12)
    assert both(small, 0.0, 0.0) == pytest.approx([1.8436208881352993] * 2, rel=1e-12)
    assert both(small, 30.0, -30.0) == pytest.approx([2.102345068718576, 1.6894059319451813], rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "shape", "seed", "rate", "ascent", "distance", "products"),
    [
        (small, (), 4, 5.0, ng.Ascent(optimizer=ng.optim.sgd(10.0), steps=8), 2.0, 8 * 10 * 5 + 10 * 3),
        (full, (5,), 2, 10.0, ng.Ascent(optimizer=ng.optim.sgd(8.0), steps=15), 3.0, 15 * 10 * 7 + 10 * 5),
    ],
    ids=["small", "full"],
)
def test_a_random_start_leads_to_defection_and_branching_to_retaliation_too(
    loss, shape, seed, rate, ascent, distance, products
):
    """In a stated number of products: ascended exponents take 2 r + 3 a step, those of the branching 2 r + 1."""
    generator = torch.Generator().manual_seed(seed)
    start = {name: torch.randn(shape, dtype=D, generator=generator) for name in ("one", "two")}
    refinements = 1 if loss is small else 2

    def outcomes(**how):
        branching = ng.Branching(num_steps=10, refinements=refinements, max_steps=400, tolerance=1e-3, **how)
        search = ng.BranchingSearch(played_by_two(loss), optimizer=ng.optim.sgd(rate), branching=branching)
        state = solved(search, start)
        return state["products"], [sum(s["losses"].values()) / 2 for s in state["solutions"]]

    _, plain = outcomes(distance=0.0)
    assert all(x > 1.9 for x in plain)
    taken, found = outcomes(distance=distance, ascent=ascent)
    assert min(found) < 1.05
    assert max(found) > 1.9
    assert taken == products
