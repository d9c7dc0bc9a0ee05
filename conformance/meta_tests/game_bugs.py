"""Bugs of games and how they are played: a line each."""

from __future__ import annotations

from planted import Bug

DIRECTIONS, PLAY = "games/_directions.py", "tuners/play.py"
DESCENT, PLAYED = "players_descend_what_the_reference_descends", "games_are_played_as_in_the_reference"

_LINES: list[tuple[str, str, str, str, str]] = [
    # (name, file, old, new, check)
    ("one's own block among the others'", DIRECTIONS, "others[block, block] = 0.0", "others[block, block] *= 1.0",
     DESCENT),
    ("players in turn who see the old params", PLAY, "self._in_turn(name, players, batch, count)",
     'self._in_turn(name, state["players"], batch, count)', PLAYED),
    ("players at once who never move", PLAY, "self._move(name, parts[name], players, opt_state)",
     "self._move(name, parts[name], dict(players), opt_state)", PLAYED),
]  # fmt: skip

BUGS = [Bug(401 + k, *line) for k, line in enumerate(_LINES)]
