"""The branching search: branches and ridges exactly, ends that are told as they are, and the prisoner's dilemma."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

pytestmark = pytest.mark.usefixtures("x64")

WELL = ng.Game({"w": lambda players, batch: jnp.sum(0.25 * players["w"] ** 4 - 0.5 * players["w"] ** 2)})
RULE = optax.sgd(0.1)


def search_of(game, optimizer=RULE, batch=None, direction=None, turns="simultaneous", throw=True, **branching):
    how = ng.Branching(**{"distance": 0.01, "num_steps": 1, "refinements": 0, **branching})
    return ng.BranchingSearch(
        game,
        optimizer=optimizer,
        branching=how,
        direction=direction or ng.Simultaneous(),
        turns=turns,
        batch=batch,
        throw=throw,
    )


def until(search, state, kind):
    """The state once an entry of this kind has been put in the archive."""
    while not [entry for entry in state["archive"] if entry["kind"] == kind]:
        state, _ = search.step(state)
    return state


def test_t1_branches_are_the_directions_to_both_sides():
    search = search_of(WELL, num_directions=2, refinements=3, seed=5)
    point = search.play.init({"w": jnp.asarray([0.2, 0.9])})
    state = until(search, search.init([point["players"]]), "branch")
    method = ng.ExponentSpectrum(num_exponents=2, refinements=3, seed=5 + 1)
    found = ng.lyapunov_exponents(search.play.update, point, num_steps=1, method=method)
    order = np.argsort(-found.exponents)
    branches = [entry for entry in state["archive"] if entry["kind"] == "branch"]
    assert [entry["path"] for entry in branches] == [[(0, 1)], [(0, -1)], [(1, 1)], [(1, -1)]]
    for entry in branches:
        ((which, sign),) = entry["path"]
        np.testing.assert_allclose(entry["exponent"], found.exponents[order[which]], rtol=1e-13)
        expected = point["players"]["w"] + sign * 0.01 * found.directions["players"]["w"][order[which]]
        np.testing.assert_allclose(entry["state"]["players"]["w"], expected, rtol=1e-13)
    assert branches[0]["exponent"] >= branches[-1]["exponent"]
    assert state["products"] == found.products == 2 * (2 * 3 + 1)
    assert state["updates"] == 1


def test_t2_a_branch_that_begins_nowhere_else_is_plain_optimisation():
    search = search_of(WELL, optimizer=optim.sgd(0.1, 0.5), distance=0.0, max_steps=20, tolerance=0.0)
    start = {"w": jnp.asarray([0.2, 0.9])}
    state = search.run(search.init([start]))
    played = search.play.init(start)
    for _ in range(20):
        played, _ = search.play.step(played)
    _, info = search.play.step(played)
    for end in state["solutions"]:
        np.testing.assert_allclose(end["players"]["w"], played["players"]["w"], rtol=1e-13)
        np.testing.assert_allclose(end["direction_norm"], info.direction_norm, rtol=1e-10)
        np.testing.assert_allclose(end["losses"]["w"], info.losses["w"], rtol=1e-12)
        assert (end["steps"], end["converged"]) == (20, False)
    assert len(state["solutions"]) == 2
    assert state["updates"] == 1 + 2 * 20


def test_t3_both_sides_of_a_hill_are_found_and_t4_by_its_seed_alone():
    search, again, other = (search_of(WELL, num_directions=2, seed=seed) for seed in (3, 3, 4))
    begun = search.init([{"w": jnp.asarray([1e-3, -1e-3])}])
    state = search.run(begun)
    assert search.finished(begun) == ""
    assert search.finished(state) == "archive empty"
    ends = {tuple(np.round(end["players"]["w"]).astype(int).tolist()) for end in state["solutions"]}
    assert len(ends) >= 3
    assert ends <= {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    for end in state["solutions"]:
        assert end["converged"]
        assert end["direction_norm"] <= 1e-6
        slope = np.asarray(end["players"]["w"]) ** 3 - np.asarray(end["players"]["w"])
        np.testing.assert_allclose(end["direction_norm"], np.linalg.norm(slope), rtol=1e-6)
    # Stopped on the way, stored, and gone on with by another search of the same settings.
    halfway = until(again, begun, "branch")
    halfway, _ = again.step(halfway)
    resumed = again.run(pickle.loads(pickle.dumps(halfway)))  # noqa: S301  (written here)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    elsewhere = until(other, begun, "branch")["archive"][0]["state"]["players"]["w"]
    assert np.abs(elsewhere - until(search, begun, "branch")["archive"][0]["state"]["players"]["w"]).max() > 1e-4


SADDLE = ng.Game({"w": lambda players, batch: 0.5 * jnp.sum(batch * players["w"] ** 2)})


def test_a_ridge_of_a_quadratic_saddle_never_turns_and_is_a_ray():
    """Exponents are ln |1 - 0.1 h|, above 0 along the first axis alone."""
    search = search_of(
        SADDLE,
        batch=np.array([-3.0, 2.0, 1.0]),
        refinements=60,
        least_exponent=0.0,
        ridge=ng.Ridge(step_size=0.05, max_steps=7),
        max_steps=1,
    )
    state = search.run(search.init([{"w": jnp.zeros(3)}]))
    assert [end["ridden"] for end in state["solutions"]] == [7, 7]
    for sign, end in zip((1, -1), state["solutions"], strict=True):
        ridden = 0.01 + 7 * 0.05
        along = np.asarray(end["players"]["w"])
        np.testing.assert_allclose(np.abs(along), [1.3 * ridden, 0.0, 0.0], atol=1e-12)
        assert end["path"] == [(0, sign)]
    first, second = (end["players"]["w"] for end in state["solutions"])
    np.testing.assert_allclose(first, -second, atol=1e-12)
    assert state["products"] == (1 + 2 * 7) * (2 * 60 + 1)


def test_ridge_rider_finds_the_four_minima_around_a_saddle():
    search = search_of(
        WELL,
        num_directions=2,
        refinements=4,
        least_exponent=0.0,
        max_depth=2,
        ridge=ng.Ridge(step_size=0.02),
        seed=1,
    )
    state = search.run(search.init([{"w": jnp.asarray([0.0, 0.0])}]))
    ends = {tuple(np.round(end["players"]["w"], 4).tolist()) for end in state["solutions"]}
    assert ends == {(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)}
    for end in state["solutions"]:
        assert end["ridden"] > 1
        assert not end["exponent"] > 0.0


COUPLED = ng.Game(
    {
        "x": lambda players, batch: jnp.sum(players["x"] ** 2 + 0.5 * players["x"] * players["y"]),
        "y": lambda players, batch: jnp.sum(players["y"] ** 2 - 0.4 * players["x"] * players["y"]),
    }
)


def test_what_is_told_of_players_in_turn_is_of_the_state_returned():
    search = search_of(COUPLED, optimizer=optax.sgd(0.2), turns="alternating", max_steps=6, tolerance=0.0)
    state = search.run(search.init([{"x": 0.3, "y": -0.7}]))
    for end in state["solutions"]:
        here = ng.game_direction(COUPLED, end["players"])
        np.testing.assert_allclose(end["direction_norm"], np.hypot(*here.direction.values()), rtol=1e-10)
        np.testing.assert_allclose(list(end["losses"].values()), list(here.losses.values()), rtol=1e-12)
    branch = next(e for e in until(search, search.init([{"x": 0.3, "y": -0.7}]), "branch")["archive"])
    played = branch["state"]
    for _ in range(6):
        played, _ = search.play.step(played)
    np.testing.assert_allclose(state["solutions"][0]["players"]["y"], played["players"]["y"], rtol=1e-12)


def test_a_branch_that_is_lost_raises_nothing():
    """Descent of a bounded saddle leaves it for good."""
    search = search_of(SADDLE, batch=np.array([-30.0, 2.0, 1.0]), least_exponent=0.0, refinements=60, max_depth=2)
    state = search.run(search.init([{"w": jnp.zeros(3)}]))
    assert len(state["solutions"]) == 2
    for end in state["solutions"]:
        assert not end["converged"]
        assert not np.isfinite(end["direction_norm"])


def small_ipd(discount=0.9):
    """One logit a player; after the other's defection both cooperate with σ(-3)."""
    frozen = jax.nn.sigmoid(jnp.asarray(-3.0))

    def strategies(players):
        p, q = jax.nn.sigmoid(players["x"]), jax.nn.sigmoid(players["y"])
        return (p, q), jnp.stack([p, frozen, p, frozen]), jnp.stack([q, q, frozen, frozen])

    return repeated(strategies, discount)


def full_ipd(discount=0.96):
    """Five logits each: at the start, and after CC, CD, DC and DD as each sees it, its own move first."""

    def strategies(players):
        p, q = jax.nn.sigmoid(players["x"]), jax.nn.sigmoid(players["y"])
        return (p[0], q[0]), p[1:], q[jnp.asarray([1, 3, 2, 4])]

    return repeated(strategies, discount)


def repeated(strategies, discount):
    rewards = {"x": [-1.0, -3.0, 0.0, -2.0], "y": [-1.0, 0.0, -3.0, -2.0]}

    def chances(p, q):
        return jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=-1)

    def loss_of(name):
        def loss(players, batch):
            start, first, second = strategies(players)
            visits = jnp.linalg.solve(jnp.eye(4) - discount * chances(first, second), jnp.asarray(rewards[name]))
            return -(1 - discount) * chances(*start) @ visits

        return loss

    return ng.Game({"x": loss_of("x"), "y": loss_of("y")})


def test_the_prisoners_dilemma_has_its_known_losses():
    defect, copy = np.full(5, -800.0), np.array([800.0, 800.0, -800.0, 800.0, -800.0])
    for strategy, loss in ((defect, 2.0), (copy, 1.0)):
        found = ng.game_direction(full_ipd(), {"x": strategy, "y": strategy})
        np.testing.assert_allclose(list(found.losses.values()), [loss, loss], rtol=1e-12)


def end_of(losses):
    """Defection or tit for tat, by what both lose."""
    losses = np.array(list(losses.values()))
    near = {"tit for tat": np.abs(losses - 1.0).max() < 0.1, "defection": np.abs(losses - 1.97).max() < 0.04}
    return next((name for name, found in near.items() if found), str(losses))


IPDS = {
    # game, start of both, seed, learning rate, of the ascent, its steps, refinements, distance, products
    "small": (small_ipd(), (), 3, 5.0, 10.0, 8, 1, 2.0, 8 * 10 * 5 + 10 * 3),
    "full": (full_ipd(), (5,), 1, 10.0, 8.0, 15, 2, 3.0, 15 * 10 * 7 + 10 * 5),
}


@pytest.mark.parametrize("which", IPDS)
def test_random_starts_lead_to_defection_and_branching_to_tit_for_tat_too(which):
    """In a stated number of products: an ascended exponent takes 2 r + 3 a step, that of the branching 2 r + 1.

    In the small game plain descent finds either, by the start.
    """
    game, shape, seed, rate, climb, steps, refinements, distance, products = IPDS[which]
    numbers = np.random.default_rng(seed)
    starts = [{"x": numbers.normal(size=shape), "y": numbers.normal(size=shape)} for _ in range(10)]
    search = search_of(
        game,
        optimizer=optax.sgd(rate),
        distance=distance,
        num_steps=10,
        refinements=refinements,
        max_steps=2000,
        tolerance=1e-3,
        seed=seed,
        ascent=ng.Ascent(optimizer=optim.sgd(climb), steps=steps),
    )
    explorer = search._explorer
    plain = {
        end_of(explorer.descend(explorer.begin(start), 2000).losses) for start in starts[: 10 if which == "full" else 1]
    }
    assert plain == {"defection"}
    state = search.run(search.init(starts[:1]))
    assert {end_of(end["losses"]) for end in state["solutions"]} == {"defection", "tit for tat"}
    assert state["products"] == products
    assert state["branches"] == 2


def refused(call, message, kind=ng.InvalidInput):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "limit" in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_what_cannot_be_searched_is_refused_by_name():
    refused(lambda: ng.BranchingSearch(WELL, optimizer=RULE, branching=0.1), "BranchingSearch.branching: got 0.1")
    refused(lambda: search_of(WELL, optimizer="sgd"), "Play.optimizer", ng.UnsupportedOptimizer)
    ascent = ng.Ascent(optimizer="sgd", steps=1)
    refused(lambda: search_of(WELL, ascent=ascent), "branching.ascent.optimizer: got str", ng.UnsupportedOptimizer)
    held = ng.Ascent(optimizer=optim.reversible_sgd(0.1, 0.9), steps=1)
    refused(lambda: search_of(WELL, ascent=held), "branching is not hashable")
    refused(lambda: search_of(WELL).init({"w": jnp.zeros(2)}), "starts is")
    refused(lambda: search_of(WELL).init([{"v": jnp.zeros(2)}]), "players: got v")


def test_exponents_that_are_not_finite_are_said_or_lead_nowhere():
    root = ng.Game({"w": lambda players, batch: jnp.sum(jnp.sqrt(players["w"]))})
    start = [{"w": jnp.asarray([1.0, -1.0])}]
    refused(lambda: search_of(root).run(search_of(root).init(start)), "step 1 of 1", ng.NonFinite)
    ascent = ng.Ascent(optimizer=optax.sgd(0.1), steps=2)
    search = search_of(root, ascent=ascent)
    refused(lambda: search.run(search.init(start)), "ascent step 1 of 2", ng.NonFinite)
    quiet = search_of(root, throw=False)
    assert all(not np.isfinite(end["direction_norm"]) for end in quiet.run(quiet.init(start))["solutions"])


def test_nothing_given_is_changed():
    search, start = search_of(WELL, max_steps=2), {"w": np.array([0.2, 0.9])}
    state = search.init([start])
    before = pickle.dumps(state)
    search.run(state)
    assert pickle.dumps(state) == before
    np.testing.assert_array_equal(start["w"], [0.2, 0.9])
