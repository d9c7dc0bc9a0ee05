"""Lyapunov exponents of a map by products with its derivatives; nestgrad._dynamics.exponents says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    ExponentMethod,
    ExponentSpectrum,
    InvalidInput,
    LargestExponent,
    NonFinite,
    NotConverged,
    Status,
    TunedDirection,
)
from nestgrad_torch._dynamics.chain import Chain, Update
from nestgrad_torch._dynamics.form import At, Form
from nestgrad_torch._dynamics.sweeps import Leading, Swept, Watch, back, forwards, leading, of_one, orthonormal


@dataclass(frozen=True, slots=True)
class Sought:
    """What was found, as vectors, with what a derivative of it needs.

    columns: Q_0, (n, m). anew: the directions that begin at each step, where that is not only Q_0.
    """

    chain: Chain
    exponents: Tensor
    columns: Tensor
    end: At
    products: int
    anew: list[Tensor] | None = None


def sought(
    form: Form,
    update: Update,
    start: At,
    num_steps: int,
    method: ExponentMethod,
    directions: Any,
    *,
    throw: bool,
    again: bool = False,
) -> Sought:
    """The exponents along num_steps steps; again: there will be more sweeps over the chain."""
    begin = _begin(form, start, method, directions)
    again = again or not isinstance(method, ExponentSpectrum) or method.refinements > 0
    chain = Chain(form, update, start, num_steps, again=again)
    match method:
        case ExponentSpectrum():
            found, fine = _spectrum(chain, begin, method.refinements)
        case LargestExponent():
            found, fine = _largest(chain, begin, method, throw=throw)
        case TunedDirection(at="first step"):
            found, fine = _tuned_once(chain, begin, method, throw=throw)
        case TunedDirection():
            found, fine = _tuned_always(chain, begin, method, throw=throw)
    if throw:
        _require_fine(form, fine, num_steps)
    return found


def _spectrum(chain: Chain, columns: Tensor, refinements: int) -> tuple[Sought, Tensor]:
    swept = forwards(chain, columns)
    fine = swept.fine
    for _ in range(refinements):
        columns = back(chain, swept.columns).columns
        swept = forwards(chain, columns)
        # Of the first sweep that met what is not finite, as those after it have it from their start.
        fine = torch.where(fine <= chain.num_steps, fine, swept.fine)
    products = (2 * refinements + 1) * chain.num_steps * columns.shape[1]
    return _of(chain, columns, swept, products)[0], fine


def _largest(chain: Chain, column: Tensor, spec: LargestExponent, *, throw: bool) -> tuple[Sought, Tensor]:
    found = leading(spec, column, lambda d: forwards(chain, d), lambda d: back(chain, d))
    _require_converged(chain.form, spec, found, f"{chain.num_steps} steps", throw=throw)
    return _of(chain, found.direction, found.grown, 2 * chain.num_steps * found.rounds)


def _tuned_once(chain: Chain, column: Tensor, spec: TunedDirection, *, throw: bool) -> tuple[Sought, Tensor]:
    found = leading(spec, column, *of_one(chain.step(0, chain.start)))
    _require_converged(chain.form, spec, found, "step 1", throw=throw)
    swept = forwards(chain, found.direction)
    return _of(chain, found.direction, swept, 2 * found.rounds + chain.num_steps)


def _tuned_always(chain: Chain, column: Tensor, spec: TunedDirection, *, throw: bool) -> tuple[Sought, Tensor]:
    at, logs, products, anew = chain.start, column.new_zeros(1), 0, list[Tensor]()
    watch = Watch(at)
    for count in range(chain.num_steps):
        step = chain.step(count, at)
        found = leading(spec, column, *of_one(step))
        _require_converged(chain.form, spec, found, f"step {count + 1}", throw=throw)
        anew.append(found.direction)
        at, logs, products = step.end, logs + found.grown.logs, products + 2 * found.rounds
        watch.see(at, found.grown.logs)
    return Sought(chain, logs / chain.num_steps, anew[0], at, products, anew), watch.fine


def _of(chain: Chain, columns: Tensor, swept: Swept, products: int) -> tuple[Sought, Tensor]:
    return Sought(chain, swept.logs / chain.num_steps, columns, swept.end, products), swept.fine


def _begin(form: Form, start: At, method: ExponentMethod, directions: Any) -> Tensor:
    """Orthonormal directions (n, m): those given, or drawn, or the unit ones."""
    count = method.num_exponents if isinstance(method, ExponentSpectrum) else 1
    like = start.vector
    if directions is None:
        if count is None:
            return torch.eye(form.size, dtype=like.dtype, device=like.device)
        _require_room(form, count, f"num_exponents={count}")
        generator = torch.Generator("cpu").manual_seed(method.seed)
        drawn = torch.randn(count, form.size, generator=generator, dtype=torch.float64, device="cpu").T
        return orthonormal(drawn.to(like))[0]
    given = form.columns(directions)
    if count is not None and given.shape[1] != count:
        raise InvalidInput(
            f"{form.caller}: directions: got {given.shape[1]}, limit: {count} as {type(method).__name__} asks for. "
            "Remedy: pass as many as that, or none."
        )
    _require_room(form, given.shape[1], f"directions: got {given.shape[1]}")
    return _independent(form, given)


def _require_room(form: Form, count: int, what: str) -> None:
    if count > form.size:
        raise InvalidInput(
            f"{form.caller}: {what}, limit: {form.size}, the floating entries of the point. Remedy: ask for fewer."
        )


def _independent(form: Form, given: Tensor) -> Tensor:
    """Them orthonormalised; InvalidInput naming the first that is zero, not finite or in the span of those before."""
    lengths = torch.linalg.vector_norm(given, dim=0)
    columns, r = orthonormal(given / lengths)
    limit = 10.0 * form.size * torch.finfo(given.dtype).eps
    for which, (rest, length) in enumerate(zip(r.diagonal().tolist(), lengths.tolist(), strict=True)):
        if not rest > limit:
            raise InvalidInput(
                f"{form.caller}: directions: number {which} has length {length:g}, of which {rest:.1e} is not in "
                f"those before it, limit: finite, above 0, and a part above {limit:.1e}. Remedy: pass independent "
                "directions."
            )
    return columns


def _require_converged(
    form: Form, spec: LargestExponent | TunedDirection, found: Leading[Any], where: str, *, throw: bool
) -> None:
    if throw and found.residual > spec.rtol:
        raise NotConverged(
            f"{form.caller}: {type(spec).__name__} of {where}: residual {found.residual:.3g} after {found.rounds} "
            f"refinements, limit rtol={spec.rtol:g}. Remedy: raise max_refinements, or ExponentSpectrum with as many "
            "exponents as are alike.",
            Status.MAX_STEPS_REACHED,
        )


def _require_fine(form: Form, fine: Tensor, num_steps: int) -> None:
    count = int(fine)
    if count <= num_steps:
        where = f"step {count} of {num_steps}: the place it leads to or a direction's growth" if count else "the point"
        raise NonFinite(
            f"{form.caller}: {where} is NaN or infinite, limit: finite. "
            "Remedy: begin elsewhere, take smaller steps, or fewer.",
            Status.NONFINITE,
        )
