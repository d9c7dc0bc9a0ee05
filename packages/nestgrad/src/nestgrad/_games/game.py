"""Games: players who each descend a loss of their own, which depends on the params of all.

With ω = (ω_1, ..., ω_n) the params of all players, L_i the loss of player i:

    ĝ(ω) = (∂L_1/∂ω_1, ..., ∂L_n/∂ω_n)      the joint gradient, of no function of ω in general
    Ĝ(ω) = ∂ĝ/∂ω                            the game Jacobian, not symmetric in general; H_o its blocks off the diagonal

A point with ĝ = 0 is one that no player leaves by a small step of its own. Whether all of them together go there is
told by the eigenvalues of Ĝ, whose imaginary parts are rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nestgrad._errors import InvalidInput
from nestgrad._problem import BilevelProblem, Minimize

Turns = Literal["simultaneous", "alternating"]
"""Whether players move at once, each seeing the others' old params, or in turn, seeing the new ones."""


@dataclass(frozen=True, slots=True)
class Game:
    """losses: {player: loss(players, batch) -> real scalar}, in the order in which players take turns.

    Of one player it is plain minimisation, so that all that is here for games is there for one loss too.
    players, wherever it is asked for, is a mapping of the same names to trees of arrays.
    """

    losses: Mapping[str, Callable[[Any, Any], Any]]

    def __post_init__(self) -> None:
        losses: Any = self.losses
        if not isinstance(losses, Mapping) or not losses or not all(map(callable, losses.values())):  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidInput(
                f"Game.losses: got {losses!r}, limit: a mapping of 1 or more players to functions. "
                "Remedy: pass {'generator': loss, 'discriminator': other_loss}."
            )

    def __hash__(self) -> int:
        return hash(tuple(self.losses.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The players, in the order of their turns."""
        return tuple(self.losses)

    @classmethod
    def of(cls, problem: BilevelProblem) -> Game:
        """The game of a bilevel problem: "params" descend the inner loss, "hparams" the outer one.

        Its batch is a pair, inner and outer. A hypergradient is more than the game's own gradient of "hparams",
        ∂L_out/∂λ: it has the follower answer in full, dw/dλ = -H⁻¹ ∂²L_in/∂w∂λ. The inner problem must be a Minimize.
        """
        inner, outer = problem.inner, problem.outer_loss
        if not isinstance(inner, Minimize):
            raise InvalidInput(
                f"Game.of: inner problem {type(inner).__name__}, limit: Minimize, as a player descends a loss. "
                "Remedy: pass Minimize(loss)."
            )
        return cls({"params": _Follower(inner.loss), "hparams": _Leader(outer)})


def check_players(game: Game, players: Any) -> None:
    """Raise InvalidInput unless there are params of each player, and of no other."""
    if not isinstance(players, Mapping) or set(players) != set(game.names):  # pyright: ignore[reportUnknownArgumentType]
        given = ", ".join(map(str, players)) if isinstance(players, Mapping) else type(players).__name__  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        raise InvalidInput(
            f"players: got {given}, limit: the game's {', '.join(game.names)}. Remedy: a mapping of each to its params."
        )


def check_turns(turns: Any) -> None:
    """Raise InvalidInput unless it is one of Turns."""
    if turns not in get_args(Turns):
        raise InvalidInput(f'turns: got {turns!r}, limit: {", ".join(get_args(Turns))}. Remedy: "simultaneous".')


@dataclass(frozen=True, slots=True)
class _Follower:
    loss: Callable[[Any, Any, Any], Any]

    def __call__(self, players: Any, batch: Any) -> Any:
        return self.loss(players["params"], players["hparams"], batch[0])


@dataclass(frozen=True, slots=True)
class _Leader:
    loss: Callable[[Any, Any, Any], Any]

    def __call__(self, players: Any, batch: Any) -> Any:
        return self.loss(players["params"], players["hparams"], batch[1])
