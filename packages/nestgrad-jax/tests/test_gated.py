"""Gated responses, the layers that compute with them row by row, and what both refuse."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import nestgrad_jax as ng
from nestgrad_jax import gated, optim

_spec = importlib.util.spec_from_file_location(
    "response_problems", pathlib.Path(__file__).with_name("test_responses.py")
)
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
AFFINE, BATCHES, EXACT, RNG = problems.AFFINE, problems.BATCHES, problems.EXACT, problems.RNG
close, same, best_affine = problems.close, problems.same, problems.best_affine
ALONG = ng.GatedResponse(axes=(("words/weight", 1),))
ROWS, ENTRIES = 4, 3
PARAMS = {
    "fc": {"weight": (5, 6), "bias": (5,)},
    "bare": {"weight": (5, 6)},
    "conv": {"weight": (4, 2, 3, 2), "bias": (4,)},
    "words": {"weight": (7, 3)},
    "cell": {"weight_ih": (8, 6), "weight_hh": (8, 2), "bias": (8,)},
}


def drawn(tree, dtype="float64"):
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    shapes = [leaf if isinstance(leaf, tuple) else leaf.shape for leaf in leaves]
    return structure.unflatten([jnp.asarray(RNG.normal(size=shape), dtype) for shape in shapes])


def weights(dtype="float64"):
    """φ, all of it drawn."""
    return drawn(ng.init_response(ALONG, drawn(PARAMS, dtype), jnp.zeros(ENTRIES, dtype), key=0), dtype)


LAYERS = {
    "linear": (lambda p, x: gated.linear(p["fc"], x), (ROWS, 6)),
    "linear without a bias, on sequences": (lambda p, x: gated.linear(p["bare"], x), (ROWS, 2, 3, 6)),
    "conv2d": (lambda p, x: gated.conv2d(p["conv"], x), (ROWS, 2, 7, 6)),
    "conv2d in groups": (
        lambda p, x: gated.conv2d(p["conv"], x, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (ROWS, 4, 7, 6),
    ),
    "embedding": (lambda p, x: gated.embedding(p["words"], jnp.abs(x * 3.0).astype(jnp.int32) % 7), (ROWS, 2)),
    "lstm_cell": (lambda p, x: gated.lstm_cell(p["cell"], x, (x[:, :2], x[:, 2:4])), (ROWS, 6)),
    "values": (lambda p, x: (p["fc"]["weight"] * x[:, :5, None], p["cell"]["bias"]), None),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_each_row_is_the_plain_layer_of_its_own_weights(layer, shape):
    phi, codes, x = weights(), drawn((ROWS, ENTRIES)), drawn(shape or (ROWS, 6))
    view = gated.GatedParams(ALONG, phi, codes)
    found = jax.jit(layer)(view, x)
    own = [ng.respond(ALONG, phi, code) for code in codes]
    if shape is None:
        expected = np.stack([params["fc"]["weight"] * row[:5, None] for params, row in zip(own, x, strict=True)])
        close(found, (expected, np.stack([params["cell"]["bias"] for params in own])), rtol=1e-12)
        return
    rows = [layer(params, row[None]) for params, row in zip(own, x, strict=True)]
    close(found, jax.tree.map(lambda *parts: np.concatenate(parts), *rows), rtol=1e-11, atol=1e-12)
    alike = gated.GatedParams(ALONG, phi, jnp.broadcast_to(codes[0], codes.shape))
    close(layer(alike, x), layer(own[0], x), rtol=1e-11, atol=1e-12)
    still = gated.GatedParams(ALONG, phi, None, ROWS)
    close(layer(still, x), layer(phi["bias"], x), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_layers_are_those_of_torch():
    params, x = drawn(PARAMS), drawn((1, 2, 4, 3))
    kernel, shift = (np.asarray(params["conv"][name]) for name in ("weight", "bias"))
    found = gated.conv2d(params["conv"], x, padding=1, stride=2)
    padded = np.pad(np.asarray(x)[0], ((0, 0), (1, 1), (1, 1)))
    expected = [
        [[(kernel[o] * padded[:, i : i + 3, j : j + 2]).sum() + shift[o] for j in (0, 2)] for i in (0, 2)]
        for o in range(4)
    ]
    close(found[0], np.asarray(expected), rtol=1e-12)
    cell, row = params["cell"], drawn((1, 6))
    state = (drawn((1, 2)), drawn((1, 2)))
    sums = row @ cell["weight_ih"].T + state[0] @ cell["weight_hh"].T + cell["bias"][None]
    i, f, g, o = (np.asarray(sums)[:, 2 * k : 2 * k + 2] for k in range(4))
    c = np.asarray(state[1]) / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    close(gated.lstm_cell(cell, row, state), (np.tanh(c) / (1 + np.exp(-o)), c), rtol=1e-12)
    close(gated.linear(params["fc"], row), row @ params["fc"]["weight"].T + params["fc"]["bias"][None], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_view_passes_through_scans_and_maps():
    phi, codes, x = weights(), drawn((ROWS, ENTRIES)), drawn((3, ROWS, 6))
    view = gated.GatedParams(ALONG, phi, codes)
    same(jax.tree.map(lambda leaf: leaf, view), view)
    begin = (jnp.zeros((ROWS, 2)), jnp.zeros((ROWS, 2)))

    def step(carry, row):
        params, state = carry
        return (params, gated.lstm_cell(params["cell"], row, state)), None

    (after, state), _ = jax.lax.scan(step, (view, begin), x)
    same(after, view)
    expected = begin
    for row in x:
        expected = gated.lstm_cell(view["cell"], row, expected)
    close(state, expected, rtol=1e-12)
    several = jax.vmap(lambda c: gated.linear(gated.GatedParams(ALONG, phi, c)["fc"], x[0]))(jnp.stack([codes, -codes]))
    close(several[1], gated.linear(gated.GatedParams(ALONG, phi, -codes)["fc"], x[0]), rtol=1e-12)
    assert "bias" in view["fc"]
    assert "bias" not in view["bare"]
    assert list(view["bare"]) == ["weight"]
    assert len(view) == len(PARAMS)
    same(view["fc"].general, phi["bias"]["fc"])
    listed = gated.GatedParams(ng.GatedResponse(), {name: [part["fc"]] for name, part in phi.items()}, codes)
    (only,) = listed
    same(only["weight"], view["fc"]["weight"])


@pytest.mark.usefixtures("x64")
def test_the_response_is_its_formula_and_begins_as_the_params():
    response = ng.GatedResponse(axis=-1, axes=(("b", 0),), gate_scale=0.1)
    params = {"w": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(0.3)}
    hparams = {"x-y": jnp.asarray([0.5, -0.2]), "x": {"z": jnp.asarray(1.5)}}
    still = ng.init_response(ng.GatedResponse(), params, hparams, key=1)
    same(ng.respond(ng.GatedResponse(), still, hparams), params)
    assert not np.asarray(still["gates"]["w"]).any()
    phi = drawn(ng.init_response(response, params, hparams, key=1))
    assert phi["gates"]["w"].shape == (3, 3)
    assert phi["gates"]["b"].shape == (1, 3)
    check_grads(lambda w, h: ng.respond(response, w, h), (phi, hparams), order=2, modes=["rev"])
    vector = np.array([0.5, -0.2, 1.5])
    expected = {
        "w": phi["bias"]["w"] + np.asarray(phi["gates"]["w"] @ vector)[None] * phi["weight"]["w"],
        "b": phi["bias"]["b"] + float((phi["gates"]["b"] @ vector)[0]) * phi["weight"]["b"],
    }
    close(ng.respond(response, phi, hparams), expected, rtol=1e-12)


def test_draws_have_their_distributions_and_their_key():
    params = {"w": jnp.zeros((40, 25, 2, 2), jnp.float32), "b": jnp.zeros(500, jnp.float32)}
    response = ng.GatedResponse(gate_scale=0.3)
    phi = ng.init_response(response, params, jnp.zeros(50, jnp.float32), key=2)
    assert 0.099 < float(jnp.abs(phi["weight"]["w"]).max()) <= 0.1
    assert 0.98 < float(jnp.abs(phi["weight"]["b"]).max()) <= 1.0
    np.testing.assert_allclose(float(phi["weight"]["w"].std()), 0.1 / np.sqrt(3.0), rtol=0.05)
    np.testing.assert_allclose(float(phi["gates"]["b"].std()), 0.3, rtol=0.05)
    same(ng.init_response(response, params, jnp.zeros(50, jnp.float32), key=2), phi)
    other = ng.init_response(response, params, jnp.zeros(50, jnp.float32), key=3)
    assert not np.array_equal(other["weight"]["w"], phi["weight"]["w"])
    assert not np.array_equal(phi["weight"]["b"][:100], phi["weight"]["w"].ravel()[:100])


def best_gated():
    """As `best_affine`: each weight is an output, its gates a row of the slope."""
    exact = best_affine()
    return {"bias": exact["bias"], "weight": {"w": jnp.ones(3)}, "gates": exact["weight"]}


@pytest.mark.usefixtures("x64")
def test_the_hypergradient_is_the_implicit_one_where_the_best_response_is_affine():
    hparams = {"b": jnp.asarray(-1.1), "a": jnp.asarray(0.4)}
    batches = {"inner_batch": jnp.asarray(1.5), "outer_batch": jnp.asarray(0.5)}
    assert ng.supports(ng.GatedResponse)
    found = ng.hypergradient(AFFINE, best_gated(), hparams, method=ng.GatedResponse(), **batches)
    expected = ng.hypergradient(AFFINE, found.params, hparams, method=EXACT, **batches)
    for part in ("total", "direct", "indirect"):
        close(getattr(found, part), getattr(expected, part), rtol=1e-12)
    assert found.status is ng.Status.TRUNCATED
    assert found.stats.inner_optimality < 1e-13
    assert ng.verify(AFFINE, best_gated(), hparams, method=ng.GatedResponse(), **batches).trusted
    made = ng.HyperTraining(
        AFFINE,
        hparams={"a": ng.Real(0.4), "b": ng.Real(-1.1)},
        response=ng.GatedResponse(),
        optimizer=optim.sgd(0.1),
        outer_optimizer=optim.sgd(0.1),
        distribution=ng.Normal(variance=4.0),
    )
    state = {**made.init({"w": jnp.zeros(3)}, key=0), "params": best_gated()}
    after, info = made.step(state, jnp.asarray(1.5), jnp.asarray(0.5))
    close(after["params"], best_gated(), rtol=1e-12)
    close(info.hypergradient.total, expected.total, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": None}, r"params\['gates/w'\]: no such leaf, limit: shape \(3, 2\)"),
        ({"gates": {"w": jnp.zeros((3, 1))}}, r"params\['gates/w'\]: shape \(3, 1\), limit: \(3, 2\)"),
        ({"weight": {"w": jnp.zeros((3, 2))}}, r"params\['weight/w'\]: shape \(3, 2\), limit: \(3,\)"),
        ({"offset": jnp.zeros(3)}, r"params\['offset'\]: shape \(3,\), limit: no such leaf"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(changes, message):
    good = ng.init_response(ng.GatedResponse(), {"w": jnp.zeros(3)}, {"a": 0.0, "b": 0.0}, key=0)
    phi = {name: part for name, part in {**good, **changes}.items() if part is not None}
    for call in (
        lambda: ng.respond(ng.GatedResponse(), phi, {"a": 0.0, "b": 0.0}),
        lambda: ng.hypergradient(AFFINE, phi, {"a": 0.0, "b": 0.0}, method=ng.GatedResponse()),
    ):
        with pytest.raises(ng.InvalidInput, match=message + r".*Remedy: init_response"):
            call()


def refused(call, message):
    with pytest.raises(ng.InvalidInput, match=message):
        call()


def test_layers_refuse_what_does_not_fit():
    phi, codes = weights("float32"), jnp.zeros((ROWS, ENTRIES), jnp.float32)
    view = gated.GatedParams(ALONG, phi, codes)
    plain, x = phi["bias"], jnp.zeros((ROWS, 6), jnp.float32)
    across = gated.GatedParams(ng.GatedResponse(), phi, codes)
    indices = jnp.zeros((ROWS,), jnp.int32)
    refused(lambda: gated.embedding(across["words"], indices), r"'words/weight'\] is gated along axis 0, limit: 1")
    refused(lambda: gated.embedding(view["words"], x), "float32, limit: .*integers")
    refused(lambda: gated.linear(view["fc"], x[:3]), r"input of shape \(3, 6\), limit: 4 rows")
    for params in (view, plain):
        refused(lambda params=params: gated.linear(params["conv"], x), "of shape .4, 2, 3, 2., limit: 2 axes")
        refused(lambda params=params: gated.linear(params["fc"]["weight"], x), "limit: a mapping")
        refused(lambda params=params: gated.linear(params["cell"], x), "no 'weight'")
        refused(lambda params=params: gated.linear(params["fc"], x[:, :5]), r"\(4, 5\), limit: .* 6 entries")
        refused(lambda params=params: gated.conv2d(params["conv"], x), "limit: 4 axes")
        refused(lambda params=params: gated.lstm_cell(params["cell"], x, (x[:, :2], x[:, :3])), "four for each")
    for wrong in (jnp.zeros((ROWS, ENTRIES + 1), jnp.float32), jnp.zeros(ENTRIES, jnp.float32)):
        refused(
            lambda wrong=wrong: gated.GatedParams(ALONG, phi, wrong),
            rf"codes of shape .*limit: \(rows, {ENTRIES}\).*Remedy.*init_response",
        )
    refused(lambda: view["fd"], r"params\['fd'\]: no such entry, limit: .*fc")
    refused(lambda: view["fc"]["wait"], r"params\['fc/wait'\].*limit: bias, weight")
    refused(
        lambda: ng.init_response(ng.GatedResponse(axes=(("v", 0),)), {"w": x}, jnp.zeros(1), key=0), "'v', limit.*w"
    )
    refused(lambda: ng.init_response(ng.GatedResponse(axis=2), {"w": x}, jnp.zeros(1), key=0), r"axis 2 of .*'w'")
