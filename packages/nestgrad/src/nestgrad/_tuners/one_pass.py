"""One-pass tuning: hyperparameters move during the one training run, which nothing restarts.

With T = `every` and t counting training steps from 1, each step takes one weight step w_t = w_{t-1} - u(w_{t-1}, λ) on
its inner batch. When T divides t it also moves the hyperparameters:

1. u is linearised at w_{t-1}, on that step's inner batch, with the optimizer state that entered the step held constant;
2. v = ∂L_out/∂w at the new weights w_t, on that step's outer batch; the direct term is ∂L_out/∂λ at w_t;
3. total = direct - (∂u/∂λ)ᵀ p, p being the solver's stand-in for (∂u/∂w)⁻ᵀ v;
4. the chain rule of each space turns it into the gradient in the leaves, and the outer optimizer takes one step on
   them, its state kept for the whole run; then leaves beyond their clip range are set to its end.

With method=Unrolled(num_steps=K), K ≤ T, 1 to 3 are instead: total is `Unrolled` along the last K of the T steps, from
the weights and optimizer state that entered them, on their batches and the T-th step's outer batch; the state keeps
these in `window` meanwhile. (Clarke et al. 2022 call K = 5, T = 10 "diff-through-opt".)

With `every` left out T, and with `method` left out the look-back besides, are found by measuring: see `choosing`.

warm_start=True starts each solve, by a solver that takes one, from the last hyper step's adjoint. guard: see `Guard`.
Without a method and without a guard it is Guard(): a hyper step whose hypergradient is not finite is skipped and its
event says so, and nothing is raised; for a series taken at the edge of stability may overflow in a run that recovers.

Weights, optimizer state and outer optimizer state carry on. `run` is `step` over a block of inner batches with one
outer batch, which lets a backend make one program of the block; a block need not begin or end at a hyper step.
(Clarke, Oldewage and Hernández-Lobato 2022, algorithm 1 with the i terms of eq. 6, plus the direct term.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from nestgrad import tree
from nestgrad._errors import InvalidInput, UnsupportedSpec
from nestgrad._legality import TRAITS, Traits, require_legal
from nestgrad._methods.implicit import Implicit
from nestgrad._methods.unrolled import Unrolled
from nestgrad._problem import BilevelProblem, WeightUpdate
from nestgrad._result import HyperGradient
from nestgrad._spaces import Space
from nestgrad._tuners.guard import Event, Guard


class OnePassState(TypedDict):
    """A plain tree: all there is to know to go on with a run.

    params and opt_state of the training run; hparams the unconstrained leaves; outer_opt_state; step, the number of
    training steps taken so far; buffers, the module's (torch only, empty elsewhere).

    Only where the tuner needs them: adjoint, the last hyper step's (warm_start), zeros before the first; chosen, the
    look-back and interval in force (no method given); events, the guard's counts {"clipped", "skipped"}; window, for
    Unrolled: {"params", "opt_state", "batches"} as they entered the window's first step and since, or {} outside of it.
    """

    params: Any
    opt_state: Any
    hparams: Any
    outer_opt_state: Any
    step: Any
    buffers: Any
    adjoint: NotRequired[Any]
    chosen: NotRequired[Any]
    events: NotRequired[Any]
    window: NotRequired[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePassInfo:
    """What one step saw.

    inner_loss: of this step's inner batch before the step. tuned: whether a hyper step was due. hypergradient: in
    the unconstrained leaves, without an adjoint; on a step without one its arrays are zero, its outer_loss NaN, its
    status IDLE. hparams: natural values after the step. event: what the guard did, NONE without one.
    """

    inner_loss: Any
    tuned: Any
    hypergradient: HyperGradient
    hparams: Any
    event: Event | Any = Event.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePassRun:
    """What a block of steps saw, the same numbers as its steps one by one.

    inner_losses: one a step, each before the step, an array (steps,). hypergradients: one a hyper step of the block, as
    in OnePassInfo, and events likewise. hparams: natural values after the block.
    """

    inner_losses: Any
    hypergradients: tuple[HyperGradient, ...]
    hparams: Any
    events: tuple[Any, ...] = ()

    @classmethod
    def of(cls, infos: Iterable[OnePassInfo], *, inner_losses: Any, hparams: Any) -> OnePassRun:
        """What steps taken one by one saw."""
        tuned = [info for info in infos if info.tuned]
        return cls(
            inner_losses=inner_losses,
            hypergradients=tuple(info.hypergradient for info in tuned),
            hparams=hparams,
            events=tuple(info.event for info in tuned),
        )


def check_block(tuner: str, inner_batches: Any) -> None:
    """Raise InvalidInput unless inner_batches is a list or tuple of one or more batches."""
    if not isinstance(inner_batches, (list, tuple)) or not inner_batches:
        got = "0 batches" if isinstance(inner_batches, (list, tuple)) else type(inner_batches).__name__  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidInput(
            f"{tuner}.run: inner_batches: got {got}, limit: a list of at least 1 batch, one a step. "
            "Remedy: pass [batch, ...], or call step for a single one."
        )


def check_one_pass(
    problem: BilevelProblem,
    hparams: Any,
    every: int | None,
    method: Implicit | Unrolled | None,
    *,
    warm_start: bool = False,
    guard: Guard | None = None,
) -> WeightUpdate:
    """The problem's weight update, once it is checked that a tuner can be built; else InvalidInput, UnsupportedSpec."""
    update = require_weight_update("OnePass", problem.inner)
    if every is not None:
        check_every("OnePass", every)
    _check_method(update, method, every, warm_start=warm_start)
    check_spaces("OnePass", hparams)
    check_guard("OnePass", guard)
    return update


def _check_method(update: WeightUpdate, method: Any, every: int | None, *, warm_start: bool) -> None:
    """Raise unless OnePass can tune this weight update by the method; None is one to be chosen."""
    if method is None:
        if warm_start:
            raise InvalidInput(
                "OnePass.warm_start: True with no method, whose series takes none, limit: a solver with a tolerance. "
                "Remedy: pass method=Implicit(solver=GMRES(...)), or leave warm_start out."
            )
        return
    if not isinstance(method, (Implicit, Unrolled)):
        raise UnsupportedSpec(
            f"OnePass.method: got {method!r}, limit: Implicit or Unrolled. "
            "Remedy: pass Implicit(solver=Neumann(...)), or Unrolled(num_steps=...)."
        )
    if isinstance(method, Implicit) and TRAITS.get(type(method.solver), Traits()).key:
        raise UnsupportedSpec(
            f"OnePass.method: {type(method.solver).__name__} draws at random, limit: a solver without a key. "
            "Remedy: use Neumann(num_terms=5, step_size=1.0)."
        )
    require_legal(update, method, warm_start=True if warm_start else None)
    if isinstance(method, Unrolled) and every is not None and method.num_steps > every:
        raise InvalidInput(
            f"OnePass.method: num_steps={method.num_steps}, limit: every={every}, as the hyperparameters move between "
            "two windows. Remedy: a shorter window, or a larger every."
        )


def window_position(step: int, every: int, num_steps: int) -> int:
    """How many steps of the window the step after `step` training steps comes after; negative before the window."""
    return step % every - (every - num_steps)


def check_guard(tuner: str, guard: Any) -> None:
    """Raise InvalidInput unless it is a guard or None."""
    if guard is not None and not isinstance(guard, Guard):
        raise InvalidInput(f"{tuner}.guard: got {guard!r}, limit: a Guard or None. Remedy: pass Guard(max_norm=1e3).")


def require_weight_update(tuner: str, inner: Any) -> WeightUpdate:
    """The inner problem; UnsupportedSpec unless it is a WeightUpdate."""
    if not isinstance(inner, WeightUpdate):
        raise UnsupportedSpec(
            f"{tuner}: inner problem {type(inner).__name__}, limit: WeightUpdate. "
            "Remedy: pass WeightUpdate(loss, optimizer); no other problem has a weight update to differentiate."
        )
    return inner


def check_every(tuner: str, every: int) -> None:
    """Raise InvalidInput unless `every` is a count."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput(f"{tuner}.every: got {every!r}, limit: an int of at least 1. Remedy: pass every=10.")


def check_spaces(tuner: str, hparams: Any) -> None:
    """Raise InvalidInput unless hparams is a tree of one or more spaces."""
    if not isinstance(hparams, (Mapping, list, tuple, Space)):
        raise InvalidInput(
            f"{tuner}.hparams: got {type(hparams).__name__}, limit: a tree of spaces. Remedy: {{'lr': Log10(1e-3)}}."
        )
    spaces = tree.named_leaves(hparams)
    if not spaces:
        raise InvalidInput(
            f"{tuner}.hparams: 0 hyperparameters, limit: at least 1. Remedy: pass {{'lr': Log10(1e-3)}}."
        )
    for name, space in spaces.items():
        if not isinstance(space, Space):
            raise InvalidInput(
                f"{tuner}.hparams[{name!r}]: got {space!r}, limit: a space. "
                "Remedy: wrap the initial value, as in Log10(1e-3); leave constants to the optimizer function."
            )
