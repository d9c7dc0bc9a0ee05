"""Bugs of games and how they are played: a line each."""

from __future__ import annotations

from planted import Bug

DIRECTIONS, FIELD, PLAY = "games/_directions.py", "games/_field.py", "tuners/play.py"
DESCENT, PLAYED = "players_descend_what_the_reference_descends", "games_are_played_as_in_the_reference"
KNOWN, AFFINE = "directions_in_linear_games_have_closed_forms", "lola_is_its_first_order_where_losses_are_affine"
ROTATION, BLIND = (
    "players_of_a_rotation_shape_by_twice_what_they_look_ahead",
    "players_who_do_not_look_ahead_follow_their_own_gradients",
)
TANDEM, SAFE = "players_in_tandem_rest_unless_they_shape", "sos_shapes_as_far_as_that_is_not_against_look_ahead"
ALONE, ALIKE = "players_who_do_not_meet_descend_alone", "players_of_a_symmetric_game_are_treated_alike"
YEARS, BILEVEL = "prisoners_serve_the_years_that_are_known", "the_game_of_a_bilevel_problem_has_its_partial_derivatives"
POWER = "complex_momentum_on_a_linear_game_is_a_power_of_its_matrix"
STEP = "x[block] - look_ahead * slopes[other][block]"
HELD = "x[block] - look_ahead * __import__('autograd').tracer.getval(slopes[other][block])"
AHEAD = "return xi - eta * (at.others @ xi), 1"
SHAPING_TOO = AHEAD.replace("@ xi)", "@ xi + at.chi)")
SHARE = "return xi_0 + min(safe, near) * shaping"
MOVES = "for name in self.game.names:\n                loss, part"

_LINES: list[tuple[str, str, str, str, str]] = [
    # (name, file, old, new, check)
    ("one's own block among the others'", DIRECTIONS, "others[block, block] = 0.0", "others[block, block] *= 1.0",
     DESCENT),
    ("players in turn who see the old params", PLAY, "self._in_turn(name, players, batch, count)",
     'self._in_turn(name, state["players"], batch, count)', PLAYED),
    ("players at once who never move", PLAY, "self._move(name, parts[name], players, opt_state)",
     "self._move(name, parts[name], dict(players), opt_state)", PLAYED),
    ("players in turn from the last to the first", PLAY, MOVES,
     MOVES.replace("self.game.names", "reversed(self.game.names)"), POWER),
    ("players in the order of their names", PLAY, MOVES, MOVES.replace("self.game.names", "sorted(self.game.names)"),
     POWER),
    ("the first player's optimizer for all", PLAY, "= self.optimizers[name].update(",
     "= self.optimizers[self.game.names[0]].update(", POWER),
    ("velocities that a turn of play forgets", PLAY, "part, opt_state[name], players[name])",
     "part, self.optimizers[name].init(players[name]), players[name])", POWER),
    ("LOLA's inner step detached", FIELD, STEP, HELD, ROTATION),
    ("LOLA's inner step detached, next to its first order", FIELD, STEP, HELD, AFFINE),
    ("LOLA's inner step detached, at rest", FIELD, STEP, HELD, TANDEM),
    ("LOLA that is extragradient", DIRECTIONS, "parts = [field.shaped_gradient(name, field.vector, method.look_ahead)",
     "parts = [field.joint(field.slopes(field.vector - method.look_ahead * xi))[field.blocks[name]]", ROTATION),
    ("LOLA whose player steps too", FIELD, "x[block] if other == name else", "x[block] if other == '' else", KNOWN),
    ("LOLA by the first player's slopes alone", DIRECTIONS, "chi.append(mine.T @ slopes[name])",
     "chi.append(mine.T @ slopes[field.game.names[0]])", KNOWN),
    ("look-ahead that also shapes", DIRECTIONS, AHEAD, SHAPING_TOO, ROTATION),
    ("look-ahead that also shapes, at rest", DIRECTIONS, AHEAD, SHAPING_TOO, TANDEM),
    ("look-ahead of the wrong sign", DIRECTIONS, AHEAD, AHEAD.replace("xi - eta", "xi + eta"), KNOWN),
    ("look-ahead through the transpose", DIRECTIONS, AHEAD, AHEAD.replace("others @", "others.T @"), KNOWN),
    ("shaping without looking ahead", DIRECTIONS, "return xi - eta * (at.others @ xi + at.chi), 2",
     "return xi - eta * at.chi, 2", AFFINE),
    ("looking ahead within one's own block", DIRECTIONS, "others[block, block] = 0.0", "others[block, block] *= 1.0",
     ALONE),
    ("a step where there is no look-ahead", DIRECTIONS, AHEAD, AHEAD.replace("eta *", "(eta + 0.1) *"), BLIND),
    ("SOS that is LOLA", DIRECTIONS, SHARE, "return xi_0 + shaping", TANDEM),
    ("SOS that looks ahead only", DIRECTIONS, SHARE, "return xi_0", KNOWN),
    ("SOS without its second criterion", DIRECTIONS, SHARE, "return xi_0 + safe * shaping", TANDEM),
    ("SOS without its first criterion", DIRECTIONS, SHARE, "return xi_0 + near * shaping", SAFE),
    ("SOS with the larger of its criteria", DIRECTIONS, SHARE, "return xi_0 + max(safe, near) * shaping", KNOWN),
    ("SOS that is careful where it need not be", DIRECTIONS, "if along >= 0.0", "if along < 0.0", SAFE),
    ("a symmetric part in the place of the other", DIRECTIONS, "adjustment, weight = 0.5 * (back - forward)",
     "adjustment, weight = 0.5 * (back + forward)", ALONE),
    ("consensus with J for its transpose", DIRECTIONS, "xi + weight * (at.game.T @ xi)",
     "xi + weight * (at.game @ xi)", KNOWN),
    ("extragradient ahead of the wrong way", DIRECTIONS, "field.vector - method.step_size * xi",
     "field.vector + method.step_size * xi", KNOWN),
    ("competitors who help each other", DIRECTIONS, "np.eye(xi.size) + method.step_size * others",
     "np.eye(xi.size) - method.step_size * others", KNOWN),
    ("the first player blind to the second", DIRECTIONS, "others[block, block] = 0.0",
     "others[: block.stop if block.start else 0, block] = 0.0\n        others[block, block] = 0.0", ALIKE),
    ("losses of the other player", FIELD, "{name: np.asarray(float(loss(w))) for name, loss in self._named()}",
     "dict(zip(reversed(self.game.names), [np.asarray(float(f(w))) for f in self._losses], strict=True))", YEARS),
    ("a leader whose gradient is the follower's", FIELD, "given = field.game.losses[name]",
     "given = field.game.losses[next(iter(field.game.names))]", BILEVEL),
]  # fmt: skip

BUGS = [Bug(401 + k, *line) for k, line in enumerate(_LINES)]
