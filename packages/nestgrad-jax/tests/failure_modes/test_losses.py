"""Losses, optimizers and paths that cannot be differentiated; the first column is the failure's number."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng
from nestgrad_jax import implicit_diff

_spec = importlib.util.spec_from_file_location("failing_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
times = problems.times
loss = problems.loss
outer = problems.outer
cut = problems.cut
call = problems.call
preflight = problems.preflight
sgd = problems.sgd
rooted = problems.rooted
E = problems.E
D = problems.D
assert_named = problems.assert_named


def host(x):
    return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((), jnp.float32), x)


def loop(x):
    return jax.lax.while_loop(lambda c: c < 5.0, lambda c: c + 1.0, x)


def closed_over():
    def run(a):
        solver = implicit_diff.custom_root(lambda w, b: w**2 - a * b)(lambda init, b: jnp.sqrt(b))
        return solver(jnp.float32(1.0), jnp.float32(2.0))

    return jax.grad(run)(jnp.float32(1.0))


MODES = [
    ("F01", "stop_gradient", lambda: call(cut(jax.lax.stop_gradient)), D, "hparams['gain']", "limit: at least 1"),
    ("F01", "number", lambda: call(cut(float)), D, "hypergradient", "limit 0"),
    ("F01", "numpy", lambda: call(cut(lambda x: np.asarray(x).astype("float32"))), D, "hypergradient", "limit 0"),
    ("F01", "constant", lambda: call(cut(lambda x: 1.3)), D, "hparams['gain']", "0 differentiable paths"),
    ("F02", "no transformation", lambda: call(optimizer=lambda h: 0.1), ng.UnsupportedOptimizer, "float", "limit"),
    (
        "F02",
        "outer rule",
        lambda: ng.RealTime(
            ng.BilevelProblem(ng.WeightUpdate(loss, sgd), outer),
            hparams={"a": ng.Real(0.1)},
            every=1,
            decay=1.0,
            outer_optimizer=3,
        ),
        ng.UnsupportedOptimizer,
        "RealTime",
        "limit",
    ),
    ("F04", "round", lambda: call(cut(jnp.round)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "floor", lambda: preflight(cut(jnp.floor)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "sign", lambda: preflight(cut(jnp.sign)), D, "hparams['gain']", "limit: at least 1"),
    ("F04", "integer cast", lambda: preflight(cut(lambda x: x.astype("int32").astype("float32"))), D, "gain", "limit"),
    ("F04", "threshold", lambda: preflight(cut(lambda x: jnp.where(x > 0, 1.0, 2.0))), D, "gain", "limit"),
    (
        "F04",
        "bucket",
        lambda: preflight(cut(lambda x: jnp.searchsorted(jnp.arange(3.0), x).astype("float32"))),
        D,
        "hparams['gain']",
        "limit",
    ),
    ("F05", "clamp", lambda: preflight(cut(lambda x: jnp.clip(x, -1.0, 1.0)), strict=True), D, "gain", "step of 0.5"),
    ("F05", "dead unit", lambda: preflight(cut(lambda x: jax.nn.relu(-x)), strict=True), D, "gain", "step of 5"),
    ("F06", "no effect", lambda: preflight(cut(lambda x: 0.0 * x), strict=True), D, "gain", "up to 5"),
    ("F07", "closure", closed_over, E, "'a'", "limit: 0"),
    (
        "F08",
        "initial point",
        lambda: jax.grad(rooted())(jnp.float32(1.0), jnp.float32(2.0)),
        E,
        "init_params",
        "limit 0",
    ),
    (
        "F14",
        "norm at zero",
        lambda: call(lambda w, h, b: jnp.linalg.norm(0.0 * w["w"]) * h["gain"] * h["shift"]),
        ng.NonFinite,
        "Implicit",
        "limit: finite",
    ),
    ("F35", "vector", lambda: call(lambda w, h, b: w["w"]), ng.NonScalarLoss, "inner loss", "limit: shape ()"),
    (
        "F35",
        "integer",
        lambda: call(outer_loss=lambda w, h, b: (w["w"] > 0).sum()),
        ng.NonScalarLoss,
        "outer_loss",
        "int32",
    ),
    ("F46", "while_loop", lambda: call(cut(loop)), ng.DoubleBackwardUnsupported, "while_loop", "limit 2"),
    ("F46", "host callback", lambda: call(cut(host)), ng.DoubleBackwardUnsupported, "host callback", "limit 2"),
]


@pytest.mark.parametrize("mode", MODES, ids=[f"{mode[0]}-{mode[1]}" for mode in MODES])
def test_a_failure_is_named(mode):
    assert_named(mode)


def test_shapes_that_spread_are_warned_of():
    def spread(w, h, b):
        return loss(w, h, b) + ((times(b, w["w"])[:, None] - b[:, 0]) ** 2).mean()

    said = r"\(5, 1\) and \(5,\) are combined to \(5, 5\), limit: equal"
    with jax.numpy_rank_promotion("allow"), pytest.warns(ng.SuspectBroadcast, match=said):
        preflight(spread)
