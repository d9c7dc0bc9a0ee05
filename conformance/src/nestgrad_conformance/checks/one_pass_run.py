"""A block of one-pass steps as one call: the numbers, statuses and errors of its steps one by one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, Implicit, InvalidInput, Log10, Logit, Neumann, NonFinite, WeightUpdate, tree
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import SGDFrom
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.registry import check

_NEEDS = ("OnePass.run", "WeightUpdate", "Implicit", "Neumann", "sgd", "adam")
_SERIES = Neumann(num_terms=5, step_size=1.0)
_EVERY, _LENGTH, _ROWS = 2, 5, 6


@functools.cache
def _tuner(ctx: Context) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once."""
    harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss, tuners = SquaredError(harness.xp), harness.backend
    backend: Any = tuners
    return backend.OnePass(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
        hparams={"lr": Log10(0.1), "momentum": Logit(0.5), "weight_decay": Log10(0.01)},
        every=_EVERY,
        method=Implicit(solver=_SERIES),
        outer_optimizer=harness.adam(0.05),
    )


def _batch(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    return draw.normal(_ROWS, 3), draw.normal(_ROWS)


def _begun(ctx: Context, draw: Draw, steps: int) -> Any:
    """A state that has taken so many steps, from drawn weights and leaves."""
    tuner = _tuner(ctx)
    leaves = {
        "lr": np.asarray(-1.0 + 0.2 * draw.normal()),
        "momentum": 0.5 * draw.normal(),
        "weight_decay": np.asarray(-1.5 + 0.3 * draw.normal()),
    }
    state = {**tuner.init(ctx.arrays({"w": draw.normal(3)})), "hparams": ctx.arrays(leaves)}
    for _ in range(steps):
        state, _ = tuner.step(state, ctx.arrays(_batch(draw)), ctx.arrays(_batch(draw)))
    return state


@check(*_NEEDS)
def a_run_equals_its_steps(ctx: Context, draw: Draw) -> None:
    """A block of 5 steps that begins before or at a hyper step ends where its steps do, and tells what they tell."""
    tuner, state = _tuner(ctx), _begun(ctx, draw, draw.pick([0, 1], "steps taken before"))
    batches, outer = [ctx.arrays(_batch(draw)) for _ in range(_LENGTH)], ctx.arrays(_batch(draw))
    arrived, told = tuner.run(state, batches, outer)
    one, seen = state, []
    for batch in batches:
        one, info = tuner.step(one, batch, outer)
        seen.append(info)

    limit, unit = 10 * tolerances.rtol(_SERIES, ctx.dtype), np.ones(3)
    assert int(arrived["step"]) == int(one["step"]), f"step {int(arrived['step'])}, expected {int(one['step'])}"
    for part, like in (("params", {"w": unit}), ("hparams", dict.fromkeys(("lr", "momentum", "weight_decay"), 0.0))):
        ctx.close(arrived[part], ctx.numpy({name: one[part][name] for name in like}), limit, what=part, scale=unit)
    ctx.close(told.hparams, ctx.numpy(tuner.values(one)), limit, what="hparams", scale=unit)
    losses = np.array([float(ctx.numpy(info.inner_loss)) for info in seen])
    ctx.close({"all": told.inner_losses}, {"all": losses}, limit, what="inner_losses", scale=np.ones(_LENGTH))
    hyper_steps = [info.hypergradient for info in seen if bool(info.tuned)]
    assert len(told.hypergradients) == len(hyper_steps), f"{len(told.hypergradients)}, expected {len(hyper_steps)}"
    for found, right in zip(told.hypergradients, hyper_steps, strict=True):
        assert found.status is right.status, f"status {found.status!r}, expected {right.status!r}"
        ctx.close(found.total, ctx.numpy(right.total), limit, what="total", scale=unit)
        ctx.close(found.outer_loss, ctx.numpy(right.outer_loss), limit, what="outer_loss", scale=np.ones(1))


@check(*_NEEDS)
def a_run_leaves_its_state_bit_identical(ctx: Context, draw: Draw) -> None:
    """A block returns a new state: from the old one it goes the same way a second time, bit for bit."""
    tuner, state = _tuner(ctx), _begun(ctx, draw, 0)
    batches, outer = [ctx.arrays(_batch(draw)) for _ in range(_LENGTH)], ctx.arrays(_batch(draw))
    before = ctx.numpy((state["params"], state["hparams"]))
    ends = [ctx.numpy((end["params"], end["hparams"])) for end, _ in (tuner.run(state, batches, outer) for _ in "12")]
    after = ctx.numpy((state["params"], state["hparams"]))
    for one, other in ((before, after), ends):
        pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), f"{one} became {other}"


@check(*_NEEDS)
def a_run_of_no_batches_is_refused(ctx: Context, draw: Draw) -> None:
    """An empty block, and a batch where a list of batches belongs, raise InvalidInput naming inner_batches."""
    tuner, state, batch = _tuner(ctx), _begun(ctx, draw, 0), ctx.arrays(_batch(draw))
    for wrong in ([], batch[0]):
        with refused(InvalidInput, "inner_batches"):
            tuner.run(state, wrong, batch)


@check(*_NEEDS)
def a_nonfinite_hyper_step_of_a_run_is_named(ctx: Context, draw: Draw) -> None:
    """A NaN that enters with the third batch of a block raises NonFinite naming the fourth step, where it tunes."""
    tuner, state = _tuner(ctx), _begun(ctx, draw, 0)
    batches, outer = [_batch(draw) for _ in range(_LENGTH)], ctx.arrays(_batch(draw))
    x, y = batches[2]
    batches[2] = (x, np.where(np.arange(y.size) == 0, np.nan, y))
    with refused(NonFinite, "step 4"):
        tuner.run(state, [ctx.arrays(batch) for batch in batches], outer)
