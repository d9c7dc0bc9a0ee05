"""A whole nestgrad backend in one file: NumPy arrays, products by autograd, the solvers Neumann and Identity."""

import warnings
from typing import Any, NamedTuple

import autograd
import autograd.numpy as anp
import numpy as np
from autograd.core import VJPNode
from autograd.tracer import trace

import nestgrad as ng
from nestgrad import *  # noqa: F403
from nestgrad import tree

ad: Any = autograd  # it makes its names at import, out of a type checker's sight
xp: Any = anp
SOLVERS: ng.Rules[[Any, np.ndarray, bool], Any] = ng.Rules("example")


def supports(spec_type: type) -> bool:
    """Whether there is a rule for the spec type."""
    return spec_type in (ng.Minimize, ng.WeightUpdate, ng.Implicit) or spec_type in SOLVERS


@SOLVERS.register(ng.Neumann)
def _neumann(spec: ng.Neumann, product: Any, v: np.ndarray, symmetric: bool) -> Any:
    term, total, sizes = v, v, [_norm(v)]
    for _ in range(spec.num_terms - 1):
        term = term - spec.step_size * product(term)
        total = total + term
        sizes.append(_norm(term))
    earlier = sizes[-2:-1] if symmetric else [*sizes[-2:-1], sizes[0], sizes[(len(sizes) - 1) // 2]]
    grows = len(sizes) > 1 and all(sizes[-1] > ng.GROWTH_LIMIT * size for size in earlier)
    return spec.step_size * total, ng.Status.DIVERGED if grows else ng.Status.TRUNCATED, sizes


@SOLVERS.register(ng.Identity)
def _identity(spec: ng.Identity, product: Any, v: np.ndarray, symmetric: bool) -> Any:
    return spec.scale * v, ng.Status.TRUNCATED, [_norm(v)]


class _Point(NamedTuple):
    residual: np.ndarray  # F
    transpose_product: Any  # p -> Jᵀp
    hparam_product: Any  # p -> Bᵀp
    symmetric: bool


def _norm(vector: Any) -> float:
    return float(np.linalg.norm(vector))


def _flatten(values: Any) -> Any:
    """The tree as one vector, and the function that makes a tree of a vector."""
    leaves = [np.asarray(leaf) for leaf in tree.leaves(values)]
    ends = np.cumsum([leaf.size for leaf in leaves])
    cuts = [(end - leaf.size, end, leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]

    def shape(x: Any) -> Any:
        return tree.unflatten(values, [xp.reshape(x[start:end], form) for start, end, form in cuts])

    return np.concatenate([leaf.reshape(-1) for leaf in leaves]), shape


def _scalar(value: Any, level: str) -> Any:
    if xp.shape(value) != ():
        raise ng.NonScalarLoss(f"{level} has shape {xp.shape(value)}, limit: (). Remedy: take a mean.")
    return value


def _rule_of(inner: Any, hparams: Any) -> Any:
    rule = inner.optimizer(hparams)
    if not hasattr(rule, "update"):
        raise ng.UnsupportedOptimizer(f"{type(rule).__name__}: no update, limit: a functional rule. Remedy: use one.")
    return rule


def _residual_of(inner: Any, params: Any, hparams: Any, batch: Any, opt_state: Any) -> Any:
    """F(flat params, hparams): the gradient of the inner loss, or the weight update."""
    _, shape = _flatten(params)

    def gradient(w: Any, h: Any) -> Any:
        return ad.grad(lambda x: _scalar(inner.loss(shape(x), h, batch), "inner loss"))(w)

    if isinstance(inner, ng.Minimize):
        return gradient
    state = _rule_of(inner, hparams).init(params) if opt_state is None else opt_state

    def update(w: Any, h: Any) -> Any:
        moves, _ = _rule_of(inner, h).update(shape(gradient(w, h)), state, shape(w))
        return -xp.concatenate([xp.reshape(move, (-1,)) for move in tree.matched(params, moves)[0]])

    return update


def _linearize(residual: Any, params: Any, hparams: Any, symmetric: bool) -> _Point:
    (w, _), (h, shape_hparams) = _flatten(params), _flatten(hparams)
    pull, value = ad.make_vjp(lambda x: residual(x, hparams))(w)
    pull_hparams, _ = ad.make_vjp(lambda x: residual(w, shape_hparams(x)))(h)
    return _Point(value, pull, pull_hparams, symmetric)


def _outer_gradients(loss: Any, params: Any, hparams: Any, batch: Any) -> tuple[float, np.ndarray, np.ndarray]:
    (w, shape), (h, shape_hparams) = _flatten(params), _flatten(hparams)

    def value(w: Any, h: Any) -> Any:
        return _scalar(loss(shape(w), shape_hparams(h), batch), "outer_loss")

    return float(value(w, h)), ad.grad(value, 0)(w, h), ad.grad(value, 1)(w, h)


def _assemble(method: Any, point: _Point, outer: Any, hparams: Any, throw: bool) -> ng.HyperGradient:
    loss, v, direct = outer
    scale = 2.0 ** np.frexp(np.abs(v).max())[1]
    p, status, sizes = SOLVERS(method.solver, point.transpose_product, v / scale, point.symmetric)
    indirect = -scale * point.hparam_product(p)
    total = direct + indirect
    size, restore = _norm(point.residual), _flatten(hparams)[1]
    if not np.isfinite([loss, size, *total]).all():
        status = ng.Status.NONFINITE
    elif method.inner_tol is not None and size > method.inner_tol:
        status = ng.Status.INNER_NOT_CONVERGED
    ratio = sizes[-1] / sizes[-2] if len(sizes) > 1 and sizes[-2] else np.nan
    figures = {"residual_norm": sizes[-1] * scale, "rhs_norm": _norm(v), "inner_optimality": size, "contraction": ratio}
    counts = {"steps": len(sizes), "products": len(sizes) - 1}
    stats = ng.Stats(**figures, **counts, curvature=np.nan, asymmetry=np.nan, eps=2.2e-16)
    if throw and not status.ok:
        raise ng.error_for(status, method, stats)
    parts = {"total": restore(total), "direct": restore(direct), "indirect": restore(indirect)}
    return ng.HyperGradient(**parts, outer_loss=np.asarray(loss), status=status, stats=stats)


def _check(params: Any, **others: Any) -> None:
    for place, values in {"params": params, **others}.items():
        for name, leaf in tree.named_leaves(values).items():
            kind = np.asarray(leaf).dtype
            if kind.kind != "f" and place in ("params", "hparams"):
                error = ng.InvalidInput if place == "params" else ng.NonDifferentiableHyperparameter
                raise error(f"{place}[{name!r}] is {kind}, limit: float64. Remedy: pass real numbers.")
            if kind.kind == "f" and kind != np.float64:
                raise ng.DtypeMismatch(f"{place}[{name!r}] is {kind}, limit: float64. Remedy: .astype(float).")


def _require_connected(residual: Any, outer_loss: Any, params: Any, hparams: Any, batch: Any) -> None:
    w, leaves = _flatten(params)[0], tree.leaves(hparams)
    for place, name in enumerate(tree.named_leaves(hparams)):

        def with_leaf(x: Any, place: int = place) -> Any:
            return tree.unflatten(hparams, [*leaves[:place], x, *leaves[place + 1 :]])

        _, inner = trace(VJPNode.new_root(), lambda x: residual(w, with_leaf(x)), leaves[place])
        _, outer = trace(VJPNode.new_root(), lambda x: outer_loss(params, with_leaf(x), batch), leaves[place])
        if inner is None and outer is None:
            raise ng.DisconnectedHyperparameter(f"hparams[{name!r}]: 0 paths to a loss, limit 1. Remedy: use it.")


def hypergradient(
    problem: Any, params: Any, hparams: Any, *, method: Any,
    inner_batch: Any = None, outer_batch: Any = None, opt_state: Any = None, throw: bool = True,
) -> ng.HyperGradient:  # fmt: skip
    """∂_λ L_out - Bᵀp; see nestgrad.Implicit."""
    if not isinstance(method, ng.Implicit):
        raise ng.UnsupportedSpec(f"method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=...).")
    _check(params, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    residual = _residual_of(problem.inner, params, hparams, inner_batch, opt_state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Output seems independent of input")  # a zero derivative
        _require_connected(residual, problem.outer_loss, params, hparams, outer_batch)
        point = _linearize(residual, params, hparams, isinstance(problem.inner, ng.Minimize))
        outer = _outer_gradients(problem.outer_loss, params, hparams, outer_batch)
        return _assemble(method, point, outer, hparams, throw)
