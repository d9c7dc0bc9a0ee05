"""What a check works with: a backend in one dtype, the reference, and comparison by hyperparameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import autograd.numpy as anp  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from hypothesis import assume

import nestgrad_reference
from nestgrad import HyperGradient, Implicit, ZeroHypergradient, tree
from nestgrad_conformance import tolerances
from nestgrad_conformance.expected import expected_adjoint
from nestgrad_conformance.harness import Harness
from nestgrad_conformance.problems import Case
from nestgrad_reference import Materialized

_XP: Any = anp  # its names are made at import, out of a type checker's sight
REFERENCE = Harness(  # not nestgrad_reference.testing's, which imports this package
    backend=nestgrad_reference,
    xp=_XP,
    from_numpy=np.array,
    to_numpy=np.asarray,
    dtypes=("float64",),
    sgd=nestgrad_reference.optim.sgd,
    adam=nestgrad_reference.optim.adam,
    reversible=nestgrad_reference.optim.reversible_sgd,
    optim=nestgrad_reference.optim,
)


@dataclass(frozen=True)
class Context:
    """A backend under test in one dtype."""

    harness: Harness
    dtype: str

    def supported(self, solvers: Iterable[object]) -> list[Any]:
        """Those of the solver specs that the backend has a rule for."""
        return [solver for solver in solvers if self.harness.backend.supports(type(solver))]

    def arrays(self, values: Any) -> Any:
        """A NumPy tree as the backend's arrays of this dtype (integers and booleans keep theirs)."""

        def convert(x: Any) -> Any:
            array = np.asarray(x)
            return self.harness.from_numpy(array.astype(self.dtype) if array.dtype.kind == "f" else array)

        return tree.map(convert, values)

    def numpy(self, values: Any) -> Any:
        """The backend's arrays as a float64 NumPy tree."""

        def convert(x: Any) -> np.ndarray:
            return np.asarray(self.harness.to_numpy(x), np.float64)

        return tree.map(convert, values)

    def flat(self, values: Any, like: Any) -> np.ndarray:
        """The backend's arrays as one float64 vector, in the order of the tree `like`; backends may order keys."""
        named = tree.named_leaves(self.numpy(values))
        return np.concatenate([np.reshape(named[name], -1) for name in tree.named_leaves(like)])

    def seen(self, values: Any) -> Any:
        """A NumPy tree with every number rounded to the dtype, as float64: what the backend sees."""

        def rounded(x: Any) -> np.ndarray:
            return np.asarray(x, self.dtype).astype(np.float64)

        return tree.map(rounded, values)

    def hypergradient(
        self,
        case: Case,
        solver: Any,
        *,
        throw: bool = True,
        inner_tol: float | None = None,
        damping: float = 0.0,
        **extras: Any,
    ) -> HyperGradient:
        """The backend's answer to the case by Implicit(solver); extras are further call arguments, as NumPy trees."""
        method = Implicit(solver=solver, inner_tol=inner_tol, damping=damping)
        return self.by_method(case, method, throw=throw, **extras)

    def by_method(self, case: Case, method: Any, *, throw: bool = True, **extras: Any) -> HyperGradient:
        """The backend's answer to the case by any method; inner_batches among the extras replaces the inner batch."""
        call = self.call(case)
        if "inner_batches" in extras:
            del call["inner_batch"]
        given = {name: value if name == "key" else self.arrays(value) for name, value in extras.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeroHypergradient)  # some drawn problems have a derivative of zero
            return self.harness.backend.hypergradient(*self.point(case), method=method, throw=throw, **call, **given)

    def point(self, case: Case) -> tuple[Any, Any, Any]:
        """(problem, params, hparams) as the backend takes them."""
        return case.problem(self.harness), self.arrays(case.params), self.arrays(case.hparams)

    def call(self, case: Case, *, outer: bool = True) -> dict[str, Any]:
        """The batches and the optimizer state as keyword arguments."""
        found = {"inner_batch": self.arrays(case.inner_batch), "opt_state": case.opt_state(self.harness, self.arrays)}
        return {**found, "outer_batch": self.arrays(case.outer_batch)} if outer else found

    def materialize(
        self, case: Case, *, inner_batch: Any = None, opt_state: Any = None, exact: bool = False
    ) -> Materialized:
        """The reference's dense derivatives at the numbers that the backend sees; exact: at the params as they are."""
        seen = case.rounded(self.dtype)
        if exact:
            seen = seen.with_(params=case.params)
        return nestgrad_reference.materialize(
            seen.problem(REFERENCE),
            seen.params,
            seen.hparams,
            inner_batch=seen.inner_batch if inner_batch is None else self.seen(inner_batch),
            outer_batch=seen.outer_batch,
            opt_state=seen.opt_state(REFERENCE, lambda values: values) if opt_state is None else opt_state,
        )

    def agree(self, case: Case, solver: Any, *, damping: float = 0.0) -> HyperGradient:
        """Assert that the backend's outer loss and three parts equal the solver's dense formula; return its answer.

        direct = ∂L_out/∂λ, indirect = -Bᵀp with p by the table EXPECTED, total their sum. The status is left to other
        checks: a series that diverges must still be the series.
        """
        found = self.hypergradient(case, solver, throw=False, damping=damping)
        point = self.materialize(case)
        self.equals_adjoint(
            case, found, point, expected_adjoint(solver, point, damping), tolerances.rtol(solver, self.dtype)
        )
        return found

    def equals_adjoint(
        self, case: Case, found: HyperGradient, point: Materialized, p: np.ndarray, limit: float
    ) -> None:
        """Assert that found is direct - Bᵀp, its outer loss that of the point, to a relative tolerance."""
        indirect = -point.mixed.T @ p
        size = tolerances.indirect_scale(point.mixed, p, _blocks(case.hparams))
        terms = tolerances.direct_scale(point)
        weights = np.concatenate([np.reshape(leaf, -1) for leaf in tree.leaves(case.params)])
        loss = np.array([tolerances.loss_scale(point, weights)])
        self.close(found.outer_loss, np.asarray(point.outer_loss), limit, what="outer_loss", scale=loss)
        self.close(found.direct, self.like(case, point.direct), limit, what="direct", scale=terms)
        self.close(found.indirect, self.like(case, indirect), limit, what="indirect", scale=size)
        self.close(found.total, self.like(case, point.direct + indirect), limit, what="total", scale=size + terms)

    def assume_conditioned(self, case: Case, limit: float = 300.0) -> None:
        """Draw again unless the Jacobian's condition number is below the limit that the tolerances of solves assume."""
        assume(bool(np.linalg.cond(self.materialize(case).jacobian) < limit))

    def like(self, case: Case, flat: np.ndarray) -> Any:
        """A flat vector as a tree like the case's hparams."""
        ends = np.cumsum([np.size(leaf) for leaf in tree.leaves(case.hparams)])
        parts = [
            flat[end - np.size(x) : end].reshape(np.shape(x))
            for x, end in zip(tree.leaves(case.hparams), ends, strict=True)
        ]
        return tree.unflatten(case.hparams, parts)

    def close(self, found: Any, expected: Any, limit: float, *, what: str, scale: np.ndarray | None = None) -> None:
        """Assert |found - expected| ≤ limit · max(|expected|, |scale|) for each leaf; scale is flat, in leaf order."""
        actual = tree.named_leaves(found)
        wanted = tree.named_leaves(expected)
        assert actual.keys() == wanted.keys(), f"{what}: paths {sorted(actual)} instead of {sorted(wanted)}"
        start = 0
        for name, value in wanted.items():
            array = np.asarray(self.harness.to_numpy(actual[name]))
            right = np.asarray(value, np.float64)
            assert array.shape == right.shape, f"{what}[{name!r}]: shape {array.shape} instead of {right.shape}"
            assert str(array.dtype) == self.dtype, f"{what}[{name!r}]: dtype {array.dtype} instead of {self.dtype}"
            size = 0.0 if scale is None else float(np.linalg.norm(scale[start : start + right.size]))
            start += right.size
            error = float(np.linalg.norm(array.astype(np.float64) - right))
            bound = limit * max(float(np.linalg.norm(right)), size)
            assert error <= bound, (
                f"{what}[{name!r}]: error {error:.3g}, limit {bound:.3g} (relative {limit:g}); "
                f"got {array.tolist()}, expected {right.tolist()}"
            )


def _blocks(hparams: Any) -> list[slice]:
    """The columns of B that belong to each hyperparameter: all leaves under one key of the outermost tree."""
    ends: dict[str, int] = {}
    starts: dict[str, int] = {}
    end = 0
    for name, leaf in tree.named_leaves(hparams).items():
        key = name.partition("/")[0]
        starts.setdefault(key, end)
        end += np.size(leaf)
        ends[key] = end
    return [slice(start, ends[key]) for key, start in starts.items()]
