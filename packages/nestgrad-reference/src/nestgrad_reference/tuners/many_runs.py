"""Many runs, one after the other, with their numbers stacked."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nestgrad import (
    HyperGradient,
    OnePassInfo,
    OnePassRun,
    Stats,
    check_block,
    check_many_runs,
    initial_values,
    map_spaces,
    require_leading_axis,
    tree,
)
from nestgrad_reference._space_ops import OPS
from nestgrad_reference._tree import as_hparams, as_params


class ManyRuns:
    """`runs` independent runs of a tuner on a leading axis; nestgrad._tuners.many_runs defines it."""

    def __init__(self, tuner: Any, *, runs: int, shared_batches: bool = True) -> None:
        check_many_runs(tuner, runs)
        self.tuner, self.runs, self.shared_batches = copy.copy(tuner), runs, shared_batches
        self.tuner.throw = False

    def init(self, params: Any, hparams: Any = None, **options: Any) -> Any:
        """The state before the first step; options are those of the tuner's init, a key becoming one for each run."""
        weights = as_params(params)
        for name, leaf in tree.named_leaves(weights).items():
            require_leading_axis(f"params[{name!r}]", leaf.shape, self.runs)
        states = [self.tuner.init(_taken(weights, r), **_keyed(options, r)) for r in range(self.runs)]
        state = _stacked(states)
        if hparams is not None:
            values = as_hparams(hparams)
            for name, leaf in tree.named_leaves(values).items():
                require_leading_axis(f"hparams[{name!r}]", leaf.shape, self.runs)
            spaces = self.tuner.spaces
            leaves = map_spaces(lambda space, x: np.asarray(space.unconstrained(x, OPS)), spaces, values)
            state["hparams"] = tree.unflatten(state["hparams"], tree.matched(initial_values(spaces), leaves)[0])
        return state

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """The tuner's step in every run; the state passed in is not changed."""
        pairs = [
            self.tuner.step(_of_run(state, r), self._batch(inner_batch, r), self._batch(outer_batch, r))
            for r in range(self.runs)
        ]
        return _stacked([after for after, _ in pairs]), _joined([info for _, info in pairs])

    def run(self, state: Any, inner_batches: Any, outer_batch: Any = None) -> tuple[Any, OnePassRun]:
        """`step` on each of inner_batches in turn, with the one outer batch."""
        check_block("ManyRuns", inner_batches)
        infos: list[OnePassInfo] = []
        for batch in inner_batches:
            state, info = self.step(state, batch, outer_batch)
            infos.append(info)
        losses = np.stack([info.inner_loss for info in infos])
        return state, OnePassRun.of(infos, inner_losses=losses, hparams=self.values(state))

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values with a leading axis of runs."""
        return self.tuner.values(state)

    def _batch(self, batch: Any, r: int) -> Any:
        return batch if self.shared_batches else _taken(batch, r)


def _keyed(options: dict[str, Any], r: int) -> dict[str, Any]:
    """A key of its own for every run."""
    return {**options, "key": [options["key"], r]} if "key" in options else options


def _taken(values: Any, r: int) -> Any:
    return tree.map(lambda leaf: np.asarray(leaf)[r], values)


def _of_run(state: Any, r: int) -> Any:
    """Run r's own state. The counts of steps, whole numbers, are one for all."""
    return {name: part if name == "step" else tree.map(lambda x: _entry(x, r), part) for name, part in state.items()}


def _entry(leaf: Any, r: int) -> Any:
    return leaf if isinstance(leaf, int) else leaf[r]


def _stacked(states: list[Any]) -> Any:
    """States on a leading axis; whole numbers that agree stay one, as counts of steps do."""
    return tree.unflatten(states[0], [_together(each) for each in zip(*map(tree.leaves, states), strict=True)])


def _together(leaves: Any) -> Any:
    if all(isinstance(leaf, int) for leaf in leaves) and len(set(leaves)) == 1:
        return leaves[0]
    return np.stack([np.asarray(leaf) for leaf in leaves])


def _joined(infos: list[OnePassInfo]) -> OnePassInfo:
    """One info of all runs."""
    found = [info.hypergradient for info in infos]

    def arrays(part: str) -> Any:
        return tree.map(lambda *leaves: np.stack(leaves), *(getattr(each, part) for each in found))

    fields = Stats.__dataclass_fields__
    stats = {name: np.array([getattr(each.stats, name) for each in found]) for name in fields if name != "eps"}
    return OnePassInfo(
        inner_loss=np.stack([info.inner_loss for info in infos]),
        tuned=infos[0].tuned,
        hypergradient=HyperGradient(
            total=arrays("total"),
            direct=arrays("direct"),
            indirect=arrays("indirect"),
            outer_loss=np.array([each.outer_loss for each in found]),
            status=np.array([int(each.status) for each in found]),
            stats=Stats(**stats, eps=found[0].stats.eps),
        ),
        hparams=tree.map(lambda *leaves: np.stack(leaves), *(info.hparams for info in infos)),
        event=np.array([int(info.event) for info in infos]),
    )
