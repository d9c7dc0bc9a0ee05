"""check: what would go wrong in silence, found once, before a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nestgrad import (
    BilevelProblem,
    Finding,
    InvalidInput,
    Minimize,
    NestgradWarning,
    Probe,
    ProximalGradient,
    SuspectBroadcast,
    WeightUpdate,
    examine_probe,
    report_findings,
    require_inner,
    tree,
)
from nestgrad_torch._derivatives import Linearization, linearize, scalar_loss
from nestgrad_torch._rules._call import Call
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._second_order import require_twice_differentiable, second_order
from nestgrad_torch._steps import Draws, Steps
from nestgrad_torch._tree import Params, as_hparams, check_matching, untouched

_STEPS = 2
"""Steps of a weight update that are probed: in the first one an empty momentum has no effect."""


@torch.inference_mode(mode=False)
def check(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    allow_no_effect: Collection[str] = (),
    strict: bool = False,
) -> tuple[Finding, ...]:
    """Warn of what is not as it seems and return the findings; raise where no hypergradient could be right.

    Warned of: a hyperparameter whose derivative is exactly 0, or not what differences say (both levels are probed at
    once: L_out plus a fixed random combination of the inner residual's entries, for a WeightUpdate of the weights after
    two steps); second derivatives in params that are not what differences say; params that the inner loss does not use;
    (N, 1) combined with (N,). Raised: DisconnectedHyperparameter, DoubleBackwardUnsupported, UnsupportedModule,
    DtypeMismatch, DeviceMismatch, InvalidInput for an empty batch. allow_no_effect names hyperparameters that may act
    on nothing. strict raises DisconnectedHyperparameter in place of the first warning.
    """
    require_inner(problem.inner)
    point = Params(params)
    hparams = as_hparams(hparams, point.leaves[0])
    check_matching(point, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    for title, batch in (("inner_batch", inner_batch), ("outer_batch", outer_batch)):
        _require_some(title, batch)
    call = Call(
        problem=problem,
        point=point,
        hparams=hparams,
        inner_batch=inner_batch,
        outer_batch=outer_batch,
        opt_state=opt_state,
    )
    with untouched(point), second_order(point.module):
        findings = _Examination(call, allow_no_effect).findings()
    return report_findings(findings, strict=strict)


class _Examination:
    """One pass over a call; every evaluation makes the same random draws."""

    def __init__(self, call: Call, allow_no_effect: Collection[str]) -> None:
        self._call, self._allowed = call, allow_no_effect
        self._draws = Draws(call.point)
        self._audit = ShapeAudit()

    def findings(self) -> list[Finding]:
        """All findings: shapes, params, second derivatives, hyperparameters."""
        call = self._call
        place = call.place()
        self._draws.again()
        with self._audit.of("inner problem"):
            linear = linearize(call.problem.inner, place, call.inner_batch, call.opt_state)
        require_twice_differentiable(linear.residual, call.point.module)
        with self._audit.of("outer_loss"):
            outer = call.outer_loss(place)
        direct: list[Any] = [None] * len(place.leaves)
        if outer.requires_grad:
            direct = list(torch.autograd.grad(outer, place.leaves, allow_unused=True))
        indirect = linear.hparam_product(torch.ones_like(linear.residual))
        reach = [a is not None or b is not None for a, b in zip(direct, indirect, strict=True)]
        require_connected(call.hparams, reach)
        found = [*self._audit.findings, *self._unused(), *self._curvature(linear)]
        probes = _Probes(call, self._draws, float(outer.detach()))
        examined = [examine_probe(probe, self._allowed) for probe in probes.all()]
        return [*found, *(finding for finding in examined if finding is not None)]

    def _unused(self) -> Iterator[Finding]:
        """Params that the inner loss has no path to: zero rows in J, whose solve is singular or has no effect."""
        call = self._call
        if not isinstance(call.problem.inner, (Minimize, WeightUpdate, ProximalGradient)):
            return
        self._draws.again()
        leaves = call.point.fresh()
        loss = scalar_loss(
            call.problem.inner.loss, "inner loss", call.point.view(leaves), call.hparams, call.inner_batch
        )
        if not loss.requires_grad:
            return
        for name, slope in zip(call.point.names, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
            if slope is None:
                message = (
                    f"params[{name!r}]: 0 differentiable paths to the inner loss, limit: at least 1. Remedy: "
                    "requires_grad_(False), or leave it out of params, since its rows of J are zero."
                )
                yield Finding(kind=NestgradWarning, name=name, message=message)

    def _curvature(self, linear: Linearization) -> Iterator[Finding]:
        """J along a direction beside differences of F: a custom backward may be no derivative, or have none."""
        call, weights = self._call, linear.inputs[0].detach()
        generator = torch.Generator("cpu").manual_seed(0)
        seed = torch.randn(linear.residual.numel(), generator=generator, dtype=weights.dtype, device="cpu")
        seed = seed.to(weights.device)
        unit = torch.where(weights == 0.0, 1.0, weights.abs())
        slope = linear.transpose_product(seed)[: weights.numel()]

        def value(step: float) -> float:
            self._draws.again()
            place = call.place()
            with torch.no_grad():
                place.weights.add_(step * unit)
            return float(
                linearize(call.problem.inner, place, call.inner_batch, call.opt_state).residual.detach().dot(seed)
            )

        probe = Probe(
            name="the inner residual, in params",
            value=value,
            slope=float(slope.dot(unit)),
            size=max(float(slope.norm()), math.ulp(0.0)),  # a zero J is in order where differences are zero too
            noise=10.0 * torch.finfo(weights.dtype).eps,
        )
        finding = examine_probe(probe, ())
        if finding is not None:
            yield finding


class _Probes:
    """One number that both levels feed, as a function of the hyperparameters."""

    def __init__(self, call: Call, draws: Draws, level: float) -> None:
        self._call, self._draws = call, draws
        self._scale, self._seed = 1.0, None
        leaves = [h.detach().requires_grad_() for h in tree.leaves(call.hparams)]
        size = abs(float((self._vector(tree.unflatten(call.hparams, leaves)).detach() * self._weights()).sum()))
        if size and level and math.isfinite(size) and math.isfinite(level):
            self._scale = abs(level) / size  # neither level drowns the other in its rounding
        self._leaves, self._total = leaves, self._scalar(leaves)

    def all(self) -> list[Probe]:
        """One probe a hyperparameter."""
        slopes: tuple[Tensor | None, ...] = (None,) * len(self._leaves)
        if self._total.requires_grad:
            slopes = torch.autograd.grad(self._total, self._leaves, allow_unused=True)
        named = zip(tree.named_leaves(self._call.hparams), self._leaves, slopes, strict=True)
        return [self._probe(i, name, leaf, slope) for i, (name, leaf, slope) in enumerate(named)]

    def _probe(self, which: int, name: str, leaf: Tensor, slope: Tensor | None) -> Probe:
        unit = torch.where(leaf.detach() == 0.0, 1.0, leaf.detach().abs())
        slope = torch.zeros_like(unit) if slope is None else slope

        def value(step: float) -> float:
            moved = [other.detach() for other in self._leaves]
            moved[which] = moved[which] + step * unit
            return float(self._scalar(moved).detach())

        return Probe(
            name=name,
            value=value,
            slope=float((slope * unit).sum()),
            size=float(slope.norm()),
            noise=torch.finfo(leaf.dtype).eps,
        )

    def _scalar(self, leaves: list[Tensor]) -> Tensor:
        call, values = self._call, tree.unflatten(self._call.hparams, leaves)
        vector = self._vector(values)
        params = call.point.shape(call.point.vector())
        outer = scalar_loss(call.problem.outer_loss, "outer_loss", params, values, call.outer_batch)
        return outer + self._scale * (vector * self._weights()).sum()

    def _vector(self, values: Any) -> Tensor:
        """F; for a WeightUpdate how far two steps lead."""
        call = self._call
        self._draws.again()
        if isinstance(call.problem.inner, WeightUpdate):
            steps = Steps(call.problem.inner, call.point)
            at = start = steps.start(values, call.opt_state)
            for _ in range(_STEPS):
                at = steps(at, values, call.inner_batch)
            vector = at.weights - start.weights
        else:
            place = call.place()
            place = type(place)(place.shape, place.plain, place.weights, values, tree.leaves(values))
            vector = linearize(call.problem.inner, place, call.inner_batch, call.opt_state).residual
        if self._seed is None:
            generator = torch.Generator("cpu").manual_seed(0)
            seed = torch.randn(vector.numel(), generator=generator, dtype=vector.dtype, device="cpu")
            self._seed = seed.to(vector.device)
        return vector

    def _weights(self) -> Tensor:
        if self._seed is None:
            raise RuntimeError
        return self._seed


def _require_some(title: str, batch: Any) -> None:
    for name, leaf in tree.named_leaves(batch).items():
        if isinstance(leaf, Tensor) and not leaf.numel():
            raise InvalidInput(
                f"{title}[{name!r}]: 0 entries of shape {tuple(leaf.shape)}, limit: at least 1. "
                "Remedy: drop the empty batch; its mean is NaN."
            )


@dataclass(frozen=True, slots=True)
class _Seen:
    level: str
    operation: str
    column: tuple[int, ...]
    row: tuple[int, ...]


class ShapeAudit:
    """Every torch call inside `of` is looked at for (…, N, 1) with (…, N)."""

    def __init__(self) -> None:
        self._seen: dict[_Seen, None] = {}

    @property
    def findings(self) -> list[Finding]:
        """One finding a level, operation and pair of shapes."""
        return [
            Finding(
                kind=SuspectBroadcast,
                name=seen.level,
                message=(
                    f"{seen.level}: {seen.operation} combines shapes {seen.column} and {seen.row}, limit: equal "
                    "shapes, since this pairs every row with every other. Remedy: .squeeze(-1) the first."
                ),
            )
            for seen in self._seen
        ]

    @contextmanager
    def of(self, level: str) -> Iterator[None]:
        """Look at what is called inside, under this name."""
        with _Mode(lambda operation, column, row: self._note(_Seen(level, operation, column, row))):
            yield

    def _note(self, seen: _Seen) -> None:
        self._seen.setdefault(seen)


class _Mode(TorchFunctionMode):
    def __init__(self, note: Callable[[str, tuple[int, ...], tuple[int, ...]], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(x.shape) for x in args[:2] if type(x) is Tensor or isinstance(x, Tensor)]
        if len(shapes) > 1 and (pair := _suspect(*shapes)):
            name = getattr(func, "__name__", str(func)).strip("_")
            if name in _ELEMENTWISE:
                self._note(name, *pair)
        return func(*args, **(kwargs or {}))


_ELEMENTWISE = frozenset(
    [
        *("add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "truediv", "rtruediv", "rdiv"),
        *("pow", "rpow", "eq", "ne", "lt", "gt", "le", "ge", "maximum", "minimum", "true_divide", "subtract"),
        *("multiply", "divide", "where", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "logaddexp", "hypot"),
        *("binary_cross_entropy_with_logits", "poisson_nll_loss", "gaussian_nll_loss", "soft_margin_loss", "atan2"),
    ]
)
"""Functions that broadcast their first two tensors against each other."""


def _suspect(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(the column, the row) where one is the other with a last dimension of 1, and the rows are more than one."""
    for column, row in ((a, b), (b, a)):
        if len(column) == len(row) + 1 and row and column[-1] == 1 and column[:-1] == row and row[-1] > 1:
            return column, row
    return None
