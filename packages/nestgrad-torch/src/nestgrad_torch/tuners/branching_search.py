"""Branching optimisation in torch."""

from __future__ import annotations

from typing import Any

from nestgrad import (
    Branching,
    Direction,
    Game,
    InvalidInput,
    SearchInfo,
    SearchState,
    Simultaneous,
    begin_search,
    search_step,
    why_stopped,
)
from nestgrad_torch._derivatives import functional_rule
from nestgrad_torch._dynamics.explorer import PlayExplorer
from nestgrad_torch.tuners.play import Play


class BranchingSearch:
    """Look for several solutions of a game: branch where nearby points part, and optimise each branch by playing it.

    optimizer, direction and turns are those of Play, branching says where to branch and when to stop, and the core's
    nestgrad._dynamics.branching what each step does. batch: that of every step. throw: raise NonFinite where exponents
    or their derivatives are not finite, and the errors of solves; a branch that is not finite where it ends is told of
    in its Solution either way. (Parker-Holder et al. 2020; Lorraine et al. 2022.)
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        branching: Branching,
        direction: Direction = Simultaneous(),  # noqa: B008
        turns: str = "simultaneous",
        batch: Any = None,
        throw: bool = True,
    ) -> None:
        if not isinstance(branching, Branching):
            raise InvalidInput(
                f"BranchingSearch.branching: got {branching!r}, limit: a Branching. Remedy: Branching(distance=0.01)."
            )
        if branching.ascent is not None:
            functional_rule(branching.ascent.optimizer, "Branching.ascent.optimizer: got")
        self.play = Play(game, optimizer=optimizer, direction=direction, turns=turns, throw=throw)
        self.branching, self._explorer = branching, PlayExplorer(self.play, branching, batch, throw=throw)

    def __repr__(self) -> str:
        return f"BranchingSearch({self.play!r}, {self.branching})"

    def init(self, starts: list[Any]) -> SearchState:
        """An archive of the starts, each {name: tree of tensors}; their values are copied."""
        return begin_search(self._explorer, starts)

    def step(self, state: SearchState) -> tuple[SearchState, SearchInfo]:
        """Take one entry of the archive; the state passed in is not changed, and returned once all is over."""
        return search_step(self._explorer, self.branching, state)

    def run(self, state: SearchState) -> SearchState:
        """Steps until the archive is empty or a budget is spent."""
        while not self.finished(state):
            state, _ = self.step(state)
        return state

    def finished(self, state: SearchState) -> str:
        """Why the search is over, as SearchInfo.stopped says it; "" while it is not."""
        return why_stopped(self.branching, state)
