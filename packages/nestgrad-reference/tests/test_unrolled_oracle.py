"""Unrolled and state-carrying derivatives against complex steps through hand-written updates."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import complex_step_oracle as oracle
import numpy as np
import pytest
from test_oracle import FAMILIES, flat, flat_by_name, tied

import nestgrad_reference as ng

CASES = 120
LIMIT = 1e-11


class DecayedAdam:
    """Adam on g + weight_decay · w, as the oracle has it."""

    def __init__(self, hparams):
        self.rule, self.decay = ng.optim.adam(hparams["lr"]), hparams["weight_decay"]

    def init(self, params):
        return self.rule.init(params)

    def update(self, grads, state, params):
        return self.rule.update(ng.tree.map(lambda g, w: g + self.decay * w, grads, params), state, params)


def sgd(hparams):
    return ng.optim.sgd(hparams["lr"], hparams["momentum"], hparams["weight_decay"])


def averaged(hparams):
    return ng.optim.reversible_sgd(hparams["lr"], hparams["momentum"])


def drawn(rng, family, kind):
    """(WeightUpdate, outer loss and its tie, params, hparams, state, batches, oracle step, oracle model)."""
    model, (inner, outer), params, hparams, (train, valid) = FAMILIES[family](rng)
    rate = 0.1 * np.exp(rng.normal(0.0, 0.3))
    spread = ng.tree.map(lambda p: rate * np.exp(rng.normal(0.0, 0.3, p.shape)), params)
    hparams = {**hparams, "lr": [np.asarray(rate), spread][rng.integers(2)] if kind != "adam" else np.asarray(rate)}
    hparams["momentum"] = np.asarray(rng.uniform(0.1, 0.95))
    hparams["weight_decay"] = np.asarray(0.1 * np.exp(rng.normal()))
    if kind == "averaged":
        del hparams["weight_decay"]
    if kind == "adam":
        del hparams["momentum"]
    noise = ng.tree.map(lambda p: rng.normal(size=p.shape), params)
    state, step, rule = {
        "sgd": ({"trace": noise}, oracle.heavy_ball(model), sgd),
        "averaged": ({"velocity": noise}, oracle.averaged(model), averaged),
        "adam": (
            {"m": noise, "v": ng.tree.map(lambda p: 0.1 + rng.uniform(size=p.shape), params), "count": 3},
            oracle.adam(model, 3),
            DecayedAdam,
        ),
    }[kind]
    return inner, outer, rule, params, hparams, state, train, valid, step, model


def floats(state):
    return np.concatenate([np.reshape(leaf, -1) for leaf in ng.tree.leaves(state) if not isinstance(leaf, int)])


def close(found, right, scale, what):
    error = float(np.linalg.norm(np.asarray(found) - right))
    assert error <= LIMIT * max(scale, float(np.linalg.norm(right))), f"{what}: {error:.3g} against {scale:.3g}"


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("mode", ["reverse", "forward", "reversible"])
def test_unrolled_derivatives_equal_complex_steps(family, mode):
    rng = np.random.default_rng([3, *family.encode(), *mode.encode()])
    for case in range(CASES // 9 + 1):
        kind = "averaged" if mode == "reversible" else ["sgd", "averaged"][case % 2]
        inner, outer, rule, params, hparams, state, train, valid, step, model = drawn(rng, family, kind)
        steps, tie = int(rng.integers(1, 6)), [0.0, 0.3][rng.integers(2)]
        batches = [(x + 0.1 * rng.normal(size=x.shape), y) for x, y in [train] * steps]
        lookback = [None, int(rng.integers(1, steps + 1))][rng.integers(2)]
        every = [None, 2, "sqrt"][rng.integers(3)] if mode == "reverse" else None
        spec = ng.Unrolled(num_steps=steps, mode=mode, lookback=lookback, checkpoint_every=every)
        problem = ng.BilevelProblem(ng.WeightUpdate(inner, rule), tied(outer, tie))
        found = ng.hypergradient(
            problem, params, hparams, method=spec, inner_batches=batches, outer_batch=valid, opt_state=state
        )

        def validation(w, h, model=model, valid=valid, tie=tie):
            return model.validation(w, h, valid) + 0.5 * tie * sum((value**2).sum() for value in h.values())

        start = (flat(params), floats(state))
        right = oracle.unroll(step, validation, start, flat_by_name(hparams), batches, spec.window)
        scale = float(np.linalg.norm(right.total)) + found.stats.rhs_norm
        close(flat(found.total), right.total, scale, f"total of case {case}")
        close(flat(found.params), right.w, 1.0, "params")
        close(floats(found.opt_state), right.state, 1.0, "state")
        close(found.outer_loss, right.outer_loss, 1.0, "outer loss")
        if mode == "reverse":
            close(flat(found.adjoint), right.adjoint, scale, "adjoint")
        else:
            assert found.adjoint is None
        assert found.status is ng.Status.TRUNCATED
        assert found.stats.steps == steps


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("kind", ["sgd", "averaged", "adam"])
def test_a_carried_state_is_differentiated_as_complex_steps_do(family, kind):
    rng = np.random.default_rng([4, *family.encode(), *kind.encode()])
    tried = 0
    for _ in range(CASES // 9 + 1):
        inner, outer, rule, params, hparams, state, train, valid, step, model = drawn(rng, family, kind)
        w, size = flat(params), flat(params).size
        s, values = np.concatenate([w, floats(state)]), flat_by_name(hparams)
        whole = oracle.derivatives(
            oracle.carried(step, size),
            lambda s, h, batch, model=model, size=size: model.validation(s[:size], h, batch),
            s,
            values,
            (train, valid),
            0.0,
        )
        update = ng.WeightUpdate(inner, rule, carry="weights_and_state")
        problem = ng.BilevelProblem(update, outer)
        call: dict[str, Any] = {"inner_batch": train, "outer_batch": valid, "opt_state": state}
        point = ng.materialize(problem, params, hparams, **call)
        close(point.jacobian, whole.jacobian, 1.0, "J")
        close(point.mixed, whole.mixed, 1.0, "B")
        close(point.outer_gradient, whole.slope, 1.0, "v")
        close(point.residual, whole.residual, 1.0, "F")
        assert point.repair is None
        if np.linalg.cond(whole.jacobian) > 1e6:
            continue
        tried += 1
        found = ng.hypergradient(problem, params, hparams, method=ng.Implicit(solver=ng.Dense()), **call)
        p = oracle.dense(whole)
        scale = 1e3 * float(np.linalg.norm(whole.mixed) * np.linalg.norm(p))
        close(flat(found.indirect), -whole.mixed.T @ p, scale, "indirect")
        close(flat(found.adjoint["params"]), p[:size], 1e3 * np.linalg.norm(p), "adjoint in params")
        close(flat(found.adjoint["opt_state"]), p[size:], 1e3 * np.linalg.norm(p), "adjoint in the state")
        again = ng.Implicit(solver=ng.GMRES(rtol=1e-12, max_steps=1))
        warm = ng.hypergradient(problem, params, hparams, method=again, warm_start=found.adjoint, throw=False, **call)
        close(flat(warm.indirect), -whole.mixed.T @ p, scale, "indirect from a warm start")
    assert tried >= 4, f"{tried} problems were well enough conditioned"


def test_the_repair_is_the_derivative_of_the_update_in_the_gradient():
    rates = {"w": np.array([0.1, 2.0])}
    problem = ng.BilevelProblem(
        ng.WeightUpdate(lambda p, h, b: anp.sum(p["w"] ** 4), lambda h: ng.optim.sgd(h["lr"], 0.9, 0.1)),
        lambda p, h, b: anp.sum(p["w"] ** 2),
    )
    point = ng.materialize(problem, {"w": np.array([1.0, -1.0])}, {"lr": rates})
    np.testing.assert_array_equal(point.repair, rates["w"])
