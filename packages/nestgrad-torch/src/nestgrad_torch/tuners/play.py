"""Play in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import Direction, Game, PlayInfo, PlayState, Simultaneous, UnsupportedOptimizer, check_play, tree
from nestgrad_torch._games.directions import Found, found_at, require_finite, require_solved
from nestgrad_torch._games.point import Point
from nestgrad_torch._second_order import second_order
from nestgrad_torch.tuners._common import advanced, stepped, with_gradients


class Play:
    """Let the players of a game move, each by an optimizer; nestgrad._games.play defines each step.

    optimizer: one functional rule for all, or {name: rule}. turns: "simultaneous" or "alternating". throw: raise when a
    direction is NaN or infinite, or its solve failed.
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        direction: Direction = Simultaneous(),  # noqa: B008
        turns: str = "simultaneous",
        throw: bool = True,
    ) -> None:
        self._rules = check_play(game, optimizer, direction, turns)
        for name, rule in self._rules.items():
            if not all(callable(getattr(rule, method, None)) for method in ("init", "update")):
                raise UnsupportedOptimizer(
                    f"Play.optimizer of {name!r}: got {type(rule).__name__}, limit: a rule with init and update. "
                    "Remedy: nestgrad_torch.optim.sgd(0.1)."
                )
        self.game, self.direction, self.turns, self.throw = game, direction, turns, throw
        self._audited = False

    def __repr__(self) -> str:
        return f"Play({', '.join(self.game.names)}; {self.direction}, turns={self.turns!r})"

    @torch.inference_mode(mode=False)
    def init(self, players: Any) -> PlayState:
        """The state before the first step. players: {name: tree of tensors}; their values are copied."""
        whole = Point(self.game, players, None).whole.tree
        copies = tree.map(lambda x: x.detach().clone(), whole)
        with torch.no_grad():
            opt_state = {name: rule.init(copies[name]) for name, rule in self._rules.items()}
        return {"players": copies, "opt_state": opt_state, "step": 0}

    def step(self, state: PlayState, batch: Any = None) -> tuple[PlayState, PlayInfo]:
        """One move of every player; the state passed in is not changed."""
        after, losses, parts = with_gradients(self._moved, state, batch, throw=self.throw)
        return after, PlayInfo(losses=losses, direction_norm=vector_norm(torch.cat(parts)))

    def update(self, state: PlayState, batch: Any = None) -> PlayState:
        """The state that `step` would come to, differentiable in the floating leaves of the state as often as asked.

        These are the tensors of players and opt_state that require grad; where none does, or torch.no_grad() holds, it
        has no graph. Whether numbers are finite, or solves came to their tolerance, is not looked at. The answer of
        CompetitiveGradient is differentiated as that of its system, by GMRES to the same tolerance.
        """
        leaves = tree.leaves([state["players"], state["opt_state"]])
        if torch.is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
            with second_order(None):
                return self._moved(state, batch, throw=False, attached=True)[0]
        return with_gradients(self._moved, state, batch, throw=False)[0]

    def _moved(
        self, state: PlayState, batch: Any, *, throw: bool, attached: bool = False
    ) -> tuple[PlayState, dict[str, Tensor], list[Tensor]]:
        """(the next state, losses, parts of the direction); attached: in the state's graph."""
        after = _next(state)
        losses: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        groups: list[tuple[str, ...]] = [self.game.names]
        if self.turns == "alternating":
            groups = [(name,) for name in self.game.names]
        audit = not self._audited if attached else state["step"] == 0
        for movers in groups:
            point = Point(self.game, after["players"], batch, audit=audit, attached=attached)
            found = self._found(point, movers, throw=throw)
            by_player = dict(zip(point.names, point.split(found.direction), strict=True))
            for name in movers:
                losses[name] = found.losses[point.names.index(name)]
                parts.append(by_player[name])
            self._write(after, point.by_name(found.direction), movers, advanced if attached else stepped)
        self._audited = self._audited or attached
        return after, losses, parts

    def seen(self, state: PlayState, batch: Any = None) -> tuple[Any, Tensor, Callable[[], PlayState]]:
        """(each player's loss, the norm of the joint direction, the state after a step, when asked for) at a state.

        None of it need be finite; with throw, the error of a solve that failed is raised.
        """
        point = Point(self.game, state["players"], batch, audit=state["step"] == 0)
        found = with_gradients(found_at, self.direction, point, throw=False)
        if self.throw and found.solve is not None and bool(found.direction.isfinite().all()):
            require_solved(self.direction, found)
        losses = dict(zip(point.names, found.losses, strict=True))
        return losses, vector_norm(found.direction), lambda: self._after(state, batch, point, found)

    def _after(self, state: PlayState, batch: Any, point: Point, found: Found) -> PlayState:
        """The state that `step` would come to, the direction at it being known."""
        if self.turns == "alternating":
            return with_gradients(self._moved, state, batch, throw=False)[0]
        after = _next(state)
        self._write(after, point.by_name(found.direction), self.game.names, stepped)
        return after

    def _write(self, after: PlayState, slopes: Any, movers: tuple[str, ...], move: Callable[..., Any]) -> None:
        """The movers' params and optimizer state after a step along the slopes, written into `after`."""
        for name in movers:
            moved, kept = move(self._rules[name], slopes[name], after["opt_state"][name], after["players"][name])
            after["players"][name], after["opt_state"][name] = moved, kept

    def _found(self, point: Point, movers: tuple[str, ...], *, throw: bool) -> Found:
        """The direction at the point; of the one who moves alone where it asks for no more than its gradient."""
        if len(movers) > 1 or not isinstance(self.direction, Simultaneous):
            return found_at(self.direction, point, throw=throw)
        which = next(i for i, name in enumerate(point.names) if name in movers)
        loss, slope = point.slope(which)
        rows = [slope if i == which else leaf.new_zeros(leaf.shape) for i, leaf in enumerate(point.leaves)]
        losses = [loss if i == which else loss.new_full((), torch.nan) for i in range(len(rows))]
        found = Found(losses=losses, gradient=torch.cat(rows), direction=torch.cat(rows))
        if throw:
            require_finite(point, found)
        return found


def _next(state: PlayState) -> PlayState:
    """The next state, nobody having moved yet."""
    return {
        "players": dict(state["players"]),
        "opt_state": dict(state["opt_state"]),
        "step": state["step"] + 1,
    }
