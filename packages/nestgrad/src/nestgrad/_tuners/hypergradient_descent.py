"""Hypergradient descent: optimizer settings move at every step by the training gradient they led to.

The inner problem is a WeightUpdate, w_t = w_{t-1} - u_{t-1}. At step t, with g_t = ∇L_in(w_t) on its batch,

    h_t = dL_t/dλ = -(∂u_{t-1}/∂λ)ᵀ g_t,

u_{t-1} being the previous step's update as a function of λ alone (its gradient, optimizer state and weights fixed); so
the hyperparameters are those of the optimizer, and one that acts through the loss only raises
DisconnectedHyperparameter. Before the weight step of step t:

additive        leaf ← leaf - step_size · dL_t/dleaf, the leaf being the unconstrained value (Real: the value itself);
multiplicative  λ ← λ · (1 - step_size · h_t / (|g_t| |∂u_{t-1}/∂λ|)), natural value, 0-d hyperparameters only; with
                plain SGD's rate that is 1 + step_size · cos∠(g_t, g_{t-1}). A zero norm leaves λ as it is.

Then leaves beyond their clip range are set to its end, and the weight step is taken with the new λ. The first step
moves no hyperparameter. A natural value that leaves its space raises OutOfSpace. (Baydin et al. 2018, eq. 5, 6 and 8.)
"""

from __future__ import annotations

from typing import Any, TypedDict

from nestgrad import tree
from nestgrad._errors import InvalidInput
from nestgrad._problem import WeightUpdate
from nestgrad._spaces import Space
from nestgrad._tuners.one_pass import check_spaces, require_weight_update

RULES = ("additive", "multiplicative")


class DescentState(TypedDict):
    """A plain tree: all there is to know to go on with a run.

    As OnePassState, with `previous`: {"params", "opt_state", "grads"} that entered the last weight step; before the
    first one it is None, or holds zeros where a state's structure must not change.
    """

    params: Any
    opt_state: Any
    hparams: Any
    previous: Any
    step: Any
    buffers: Any


def check_descent(inner: Any, hparams: Any, step_size: float, rule: str) -> WeightUpdate:
    """The weight update, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    update = require_weight_update("HypergradientDescent", inner)
    check_spaces("HypergradientDescent", hparams)
    if rule not in RULES:
        raise InvalidInput(f"HypergradientDescent.rule: got {rule!r}, limit: {RULES}. Remedy: rule='additive'.")
    number = isinstance(step_size, (int, float)) and not isinstance(step_size, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not 0.0 < step_size < float("inf"):
        raise InvalidInput(
            f"HypergradientDescent.step_size: got {step_size!r}, limit: a finite number above 0. Remedy: pass 1e-4."
        )
    if rule == "multiplicative":
        for name, space in tree.named_leaves(hparams).items():
            shape = getattr(space.initial, "shape", ()) if isinstance(space, Space) else ()
            if shape != ():
                raise InvalidInput(
                    f"HypergradientDescent.hparams[{name!r}]: shape {shape} with rule 'multiplicative', "
                    "limit: shape (). Remedy: rule='additive'."
                )
    return update
