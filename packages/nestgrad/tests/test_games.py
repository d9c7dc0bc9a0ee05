"""Games: what they are built from is checked, a bilevel problem is one, and each player has an optimizer."""

import math

import pytest

from nestgrad import (
    LOLA,
    SOS,
    BilevelProblem,
    CompetitiveGradient,
    Consensus,
    Extragradient,
    FixedPoint,
    Game,
    InvalidInput,
    LookAhead,
    Minimize,
    Simultaneous,
    SymplecticAdjustment,
    check_play,
    check_players,
)


def one(players, batch):
    return players["x"] * players["y"]


def other(players, batch):
    return -one(players, batch)


GAME = Game({"x": one, "y": other})


@pytest.mark.parametrize("losses", [{}, [one, other], {"x": one, "y": 1.0}, None])
def test_a_game_has_a_player_or_more_each_with_a_loss(losses):
    with pytest.raises(InvalidInput, match=r"Game\.losses: got .* limit: a mapping of 1 or more"):
        Game(losses)


@pytest.mark.parametrize(
    ("players", "given"), [({"x": 1.0}, "x"), ({"x": 1.0, "z": 2.0}, "x, z"), ([1.0, 2.0], "list")]
)
def test_players_are_those_of_the_game(players, given):
    with pytest.raises(InvalidInput, match=f"players: got {given}, limit: the game's x, y"):
        check_players(GAME, players)
    check_players(GAME, {"y": 1.0, "x": 2.0})


def test_games_of_the_same_losses_are_one():
    assert Game({"x": one, "y": other}) == GAME
    assert hash(Game({"x": one, "y": other})) == hash(GAME)
    assert GAME.names == ("x", "y")


def test_a_bilevel_problem_is_a_game_of_params_and_hparams():
    problem = BilevelProblem(Minimize(lambda w, h, batch: w + 10 * h + 100 * batch), lambda w, h, batch: w - h - batch)
    game = Game.of(problem)
    players, batch = {"params": 1.0, "hparams": 2.0}, (3.0, 5.0)
    assert [game.losses[name](players, batch) for name in game.names] == [321.0, -6.0]
    assert Game.of(problem) == game
    with pytest.raises(InvalidInput, match=r"Game\.of: inner problem FixedPoint, limit: Minimize"):
        Game.of(BilevelProblem(FixedPoint(one), problem.outer_loss))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Extragradient(step_size=0.0), r"Extragradient\.step_size: got 0\.0"),
        (lambda: Consensus(weight=-1.0), r"Consensus\.weight: got -1\.0"),
        (lambda: SymplecticAdjustment(weight=math.nan), r"SymplecticAdjustment\.weight: got nan"),
        (lambda: LookAhead(look_ahead=True), r"LookAhead\.look_ahead: got True"),
        (lambda: LOLA(look_ahead=-0.1), r"LOLA\.look_ahead: got -0\.1"),
        (lambda: SOS(look_ahead=0.1, a=0.0), r"SOS\.a: got 0\.0"),
        (lambda: SOS(look_ahead=0.1, b=math.inf), r"SOS\.b: got inf"),
        (lambda: CompetitiveGradient(step_size=0.1, rtol=0.0), r"CompetitiveGradient\.rtol: got 0\.0"),
        (lambda: CompetitiveGradient(step_size=0.1, max_steps=0), r"CompetitiveGradient\.max_steps: got 0"),
        (lambda: check_play(one, None, Simultaneous(), "simultaneous"), r"Play\.game: got .* limit: a Game"),
        (lambda: check_play(GAME, None, Simultaneous, "simultaneous"), r"Play\.direction: got .* limit: one of"),
        (
            lambda: check_play(GAME, None, Simultaneous(), "random"),
            "turns: got 'random', limit: simultaneous",
        ),
        (lambda: check_play(GAME, {"x": 1}, Simultaneous(), "simultaneous"), r"Play\.optimizer: got one for x, limit"),
    ],
)
def test_what_cannot_be_played_is_named(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()


def test_one_optimizer_is_for_all_players_and_a_mapping_for_each():
    assert check_play(GAME, "sgd", LOLA(look_ahead=0.1), "alternating") == {"x": "sgd", "y": "sgd"}
    assert list(check_play(GAME, {"y": 1, "x": 2}, Simultaneous(), "simultaneous").items()) == [("x", 2), ("y", 1)]
