"""best_response: a user's own solver of the inner problem, made differentiable in the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nestgrad import Implicit, InvalidInput, UnsupportedSpec, require_legal
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._solution import Rule, differentiable
from nestgrad_jax._tree import as_hparams, check_arguments, named_leaves


def best_response(
    solve: Callable[[Any, Any], Any], *, inner: Any, method: Implicit, result_like: Any = None
) -> Callable[..., Any]:
    """response(hparams, batch=None) -> params: solve(hparams, batch), differentiated by the method.

    solve is never differentiated: it may be a training loop with lax.while_loop, or, with result_like (params, or a
    tree of shapes and dtypes), any program on the host, such as SciPy's, also under jit. response can be put under
    grad, grad of grad, jvp, jacobian, vmap and jit. A linear solve that fails raises on the host, with our message
    inside JAX's error, and leaves NaN where that is suppressed; it is never silent.
    """
    if not isinstance(method, Implicit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnsupportedSpec(
            f"best_response: method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=GMRES(...))."
        )
    require_legal(inner, method)
    require_hashable("best_response", inner=inner, method=method)
    run = solve if result_like is None else _on_host(solve, result_like)
    solution = differentiable(lambda _, hparams, batch: (run(hparams, batch), None), Rule(inner, method))

    def response(hparams: Any, batch: Any = None) -> Any:
        check_arguments(hparams=hparams, batch=batch)
        return solution(None, as_hparams(hparams, jnp.result_type(float)), batch)[0]

    return response


def _on_host(solve: Callable[[Any, Any], Any], result_like: Any) -> Callable[[Any, Any], Any]:
    """solve, called with NumPy arrays outside of any trace."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), result_like)

    def called(hparams: Any, batch: Any) -> Any:
        found = solve(*jax.tree.map(np.asarray, (hparams, batch)))
        if jax.tree.structure(found) != jax.tree.structure(shapes):
            raise InvalidInput(
                f"solve returned structure {jax.tree.structure(found)}, limit: {jax.tree.structure(shapes)} as "
                "result_like. Remedy: return such a tree."
            )
        for (name, leaf), wanted in zip(named_leaves("solve's result", found), jax.tree.leaves(shapes), strict=True):
            if np.shape(leaf) != wanted.shape:
                raise InvalidInput(
                    f"{name}: shape {np.shape(leaf)}, limit: {wanted.shape} as in result_like. Remedy: reshape it."
                )
        return jax.tree.map(lambda leaf, wanted: np.asarray(leaf, wanted.dtype), found, shapes)

    return lambda hparams, batch: jax.pure_callback(called, shapes, hparams, batch, vmap_method="sequential")
