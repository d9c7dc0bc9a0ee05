"""Trees, shapes, frozen, tied and unused params."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import Neumann, tree
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems import Case
from nestgrad_conformance.problems.ridge import RidgeInner, SquaredError
from nestgrad_conformance.registry import check

_SERIES = Neumann(num_terms=3, step_size=0.1)


@dataclass(frozen=True)
class NestedLoss:
    """A smooth loss of a deep tree: ½ mean (x ⊙ tanh(w) ⊙ s₀ + s₁ - y)² + ½ exp(r) |w|²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        w = params["deep"][0]["w"]
        scale, (none, shift) = hparams["z"][0], hparams["a"]
        assert none is None
        error = batch["x"] * (self.xp.tanh(w) * scale) + shift["s"] - batch["y"]
        decay = self.xp.sum(self.xp.exp(hparams["z"][1]) * w**2)
        return 0.5 * self.xp.sum(error**2) / batch["x"].shape[0] + 0.5 * decay + 0.1 * params["bias"] ** 2 * scale


@check("Minimize", "Neumann")
def trees_of_any_shape_keep_their_structure(ctx: Context, draw: Draw) -> None:
    """Dicts with keys out of order, lists, tuples, None and 0-d leaves: same paths, shapes and dtype, right numbers."""
    case = Case(
        inner_loss=NestedLoss,
        outer_loss=NestedLoss,
        params={"deep": [{"w": draw.normal(3)}], "bias": draw.normal()},
        hparams={"z": [1.0 + 0.2 * draw.normal(), 0.3 * draw.normal(3)], "a": (None, {"s": draw.normal(1)})},
        inner_batch={"x": draw.normal(5, 3), "y": draw.normal(5, 3)},
        outer_batch={"x": draw.normal(4, 3), "y": draw.normal(4, 3)},
    )
    found = ctx.agree(case, _SERIES)
    for part in (found.total, found.direct, found.indirect):
        assert isinstance(part["z"], list), f"structure: {part}"
        assert isinstance(part["a"], tuple), f"structure: {part}"
        assert part["a"][0] is None, f"structure: {part}"
    assert np.shape(ctx.harness.to_numpy(found.outer_loss)) == (), "outer_loss is not 0-d"


@dataclass(frozen=True)
class BlockLoss:
    """½wᵀHw - (c + Cλ)ᵀw with w made of a free and a held block."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        free, held = params["free"], params["held"]
        both = self.xp.sum(free * (batch["mix"] @ held))
        own = self.xp.sum(0.5 * free * (batch["H"] @ free)) + 0.5 * self.xp.sum(held**2)
        return own + both - self.xp.sum((batch["c"] + batch["C"] @ hparams["shift"]) * free)


@dataclass(frozen=True)
class FreeLoss:
    """BlockLoss with the held block among the data."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return BlockLoss(self.xp)({"free": params["free"], "held": batch["held"]}, hparams, batch)


@check("WeightUpdate", "Neumann", "sgd")
def frozen_params_act_as_constants(ctx: Context, draw: Draw) -> None:
    """A block with rate zero, as part of params, gives the numbers that it gives as part of the data.

    Its own rate still has a hypergradient: what letting go of the block would do.
    """
    inner = {"H": draw.hessian(3, 4.0), "mix": draw.normal(3, 2), "c": draw.normal(3), "C": draw.normal(3, 2)}
    outer = {**inner, "H": draw.hessian(3, 4.0), "c": draw.normal(3)}
    free, held, rates = draw.normal(3), draw.normal(2), 0.5 * np.exp(0.3 * draw.normal(3))
    whole = Case(
        inner_loss=BlockLoss,
        outer_loss=BlockLoss,
        params={"free": free, "held": held},
        hparams={"shift": draw.normal(2), "lr": {"free": rates, "held": np.zeros(2)}},
        inner_batch=inner,
        outer_batch=outer,
        kind="update",
    )
    reduced = Case(
        inner_loss=FreeLoss,
        outer_loss=FreeLoss,
        params={"free": free},
        hparams={"shift": whole.hparams["shift"], "lr": {"free": rates}},
        inner_batch={**inner, "held": held},
        outer_batch={**outer, "held": held},
        kind="update",
    )
    solver = Neumann(num_terms=4, step_size=1.0)
    found, right = (ctx.agree(case, solver).total for case in (whole, reduced))
    point = ctx.materialize(reduced)
    size = 4.0 * float(np.abs(point.mixed).sum() * np.linalg.norm(point.outer_gradient))
    pick = {"shift": found["shift"], "lr": found["lr"]["free"]}
    right = {"shift": ctx.numpy(right)["shift"], "lr": ctx.numpy(right)["lr"]["free"]}
    ctx.close(pick, right, tolerances.rtol(solver, ctx.dtype), what="total", scale=np.full(5, size))


@dataclass(frozen=True)
class TiedLoss:
    """mean (tanh(x w) wᵀ - x)² + ½ exp(λ) |w|²: one weight used in two layers."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        w = params["w"]
        rebuilt = self.xp.tanh(batch @ w) @ w.T
        decay = 0.5 * self.xp.exp(hparams["decay"]) * self.xp.sum(w**2)
        return self.xp.sum((rebuilt - batch) ** 2) / batch.shape[0] + decay


@check("Minimize", "Neumann")
def tied_weights_count_once(ctx: Context, draw: Draw) -> None:
    """A weight used in two places has one entry in the Hessian, with both uses in it."""
    case = Case(
        inner_loss=TiedLoss,
        outer_loss=TiedLoss,
        params={"w": 0.5 * draw.normal(3, 2)},
        hparams={"decay": 0.3 * draw.normal()},
        inner_batch=draw.normal(5, 3),
        outer_batch=draw.normal(4, 3),
    )
    ctx.agree(case, _SERIES)


@dataclass(frozen=True)
class IgnoringLoss:
    """Ridge loss on w that ignores params["idle"]."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return RidgeInner(self.xp)({"w": params["w"]}, hparams, batch)


@dataclass(frozen=True)
class AttentiveLoss:
    """½ mean (X(w + idle) - y)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return SquaredError(self.xp)({"w": params["w"] + params["idle"]}, hparams, batch)


@check("Minimize", "Neumann")
def unused_params_have_a_zero_block(ctx: Context, draw: Draw) -> None:
    """A param that the inner loss ignores contributes nothing to the indirect term, and breaks nothing."""
    base = problems.ridge(draw, 3, shared=False)
    case = base.with_(
        inner_loss=IgnoringLoss, outer_loss=AttentiveLoss, params={"idle": draw.normal(3), "w": base.params["w"]}
    )
    ctx.agree(case, _SERIES)


@check("Minimize", "Neumann")
def memory_order_is_irrelevant(ctx: Context, draw: Draw) -> None:
    """Batches whose arrays lie column by column in memory give the same number."""
    case = problems.tanh_network(draw)
    changed = {name: tree.map(_by_columns, getattr(case, name)) for name in ("params", "inner_batch", "outer_batch")}
    ctx.agree(case.with_(**changed), _SERIES)


def _by_columns(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="F")


@dataclass(frozen=True)
class BatchlessInner:
    """½(w - 2)² + ½λw², with nothing in the batch."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        assert batch is None
        return 0.5 * (params - 2.0) ** 2 + 0.5 * hparams * params**2


@dataclass(frozen=True)
class BatchlessOuter:
    """½w² + λw, with nothing in the batch."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        assert batch is None
        return 0.5 * params**2 + hparams * params


@check("Minimize", "Neumann")
def batches_and_trees_may_be_absent(ctx: Context, draw: Draw) -> None:
    """params and hparams that are bare 0-d arrays, and losses that take no batch, give their number: direct term w."""
    case = Case(
        inner_loss=BatchlessInner,
        outer_loss=BatchlessOuter,
        params=draw.normal(),
        hparams=np.exp(draw.normal()),
        inner_batch=None,
        outer_batch=None,
    )
    ctx.agree(case, _SERIES)
