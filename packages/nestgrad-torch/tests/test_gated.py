"""Gated responses: their weights, and the layers that give each row of a batch weights of its own."""

import importlib.util
import math
import pathlib
from functools import partial

import pytest
import torch
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_torch import gated

_spec = importlib.util.spec_from_file_location("learned", pathlib.Path(__file__).with_name("learned.py"))
learned = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(learned)

D = learned.D
rand, params, same, close = learned.rand, learned.params, learned.same, learned.close

ROWS, H = 5, 3
BY_OUTPUT = ng.GatedResponse(gate_scale=1.0)
BY_WORD = ng.GatedResponse(axes=(("layer/weight", 1),), gate_scale=1.0)
X, IMAGE, WORDS = (
    rand(ROWS, 4, seed=1),
    rand(ROWS, 4, 6, 5, seed=2),
    torch.tensor([[0, 2], [1, 1], [3, 0], [2, 2], [1, 3]]),
)
STATE = rand(ROWS, 2, seed=3), rand(ROWS, 2, seed=4)
LINEAR = {"weight": rand(6, 4, seed=5), "bias": rand(6, seed=6)}
CELL = {"weight_ih": rand(8, 4, seed=5), "weight_hh": rand(8, 2, seed=6), "bias": rand(8, seed=7)}
KERNEL = {"weight": rand(6, 2, 3, 3, seed=5), "bias": rand(6, seed=6)}
CONVOLUTION = partial(gated.conv2d, stride=2, padding=1, groups=2)
CASES = {
    "linear": (gated.linear, LINEAR, (X,), BY_OUTPUT),
    "linear of sequences": (gated.linear, LINEAR, (rand(ROWS, 2, 3, 4, seed=8),), BY_OUTPUT),
    "linear without bias": (gated.linear, {"weight": LINEAR["weight"]}, (X,), BY_OUTPUT),
    "conv2d": (CONVOLUTION, KERNEL, (IMAGE,), BY_OUTPUT),
    "conv2d without bias": (CONVOLUTION, {"weight": KERNEL["weight"]}, (IMAGE,), BY_OUTPUT),
    "dilated conv2d": (partial(gated.conv2d, dilation=2, groups=2, padding="same"), KERNEL, (IMAGE,), BY_OUTPUT),
    "embedding": (gated.embedding, {"weight": rand(4, 3, seed=5)}, (WORDS,), BY_WORD),
    "lstm_cell": (gated.lstm_cell, CELL, (X, STATE), BY_OUTPUT),
}


def phi_of(layer, response, seed=0):
    return ng.init_response(response, {"layer": layer}, {"h": rand(H)}, key=seed)


def view(response, phi, codes):
    return gated.viewed(response, phi, None, rows=ROWS) if codes is None else gated.GatedParams(response, phi, codes)


def joined(out):
    return torch.cat(out, dim=1) if isinstance(out, tuple) else out


def row(args, i):
    return [tuple(x[i : i + 1] for x in arg) if isinstance(arg, tuple) else arg[i : i + 1] for arg in args]


@pytest.mark.parametrize("case", CASES)
def test_a_gated_layer_is_the_plain_layer_of_each_rows_own_weights(case):
    apply, layer, args, response = CASES[case]
    phi, codes = phi_of(layer, response), rand(ROWS, H, seed=9)
    leaves = [leaf.clone().requires_grad_() for leaf in [*ng.tree.leaves(phi), codes]]
    at, rows = ng.tree.unflatten(phi, leaves[:-1]), leaves[-1]
    found = joined(apply(view(response, at, rows)["layer"], *args))
    each = [apply(ng.respond(response, at, {"h": code})["layer"], *row(args, i)) for i, code in enumerate(rows)]
    right = torch.cat([joined(out) for out in each])
    assert torch.allclose(found, right, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(out.sin().sum(), leaves) for out in (found, right))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-11) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_with_one_code_for_all_rows_it_is_the_plain_layer_of_the_response(case):
    apply, layer, args, response = CASES[case]
    phi, code = phi_of(layer, response), rand(H, seed=9)
    found = joined(apply(view(response, phi, code.expand(ROWS, H))["layer"], *args))
    weights = ng.respond(response, phi, {"h": code})["layer"]
    assert torch.allclose(found, joined(apply(weights, *args)), rtol=1e-12, atol=1e-12)
    none = joined(apply(view(response, phi, None)["layer"], *args))
    assert torch.equal(none, joined(apply(layer, *args)))
    zero = joined(apply(view(response, phi, torch.zeros(ROWS, H, dtype=D))["layer"], *args))
    assert torch.allclose(zero, none, rtol=1e-14, atol=1e-14)


def test_plain_layers_are_those_of_torch():
    cell = torch.nn.LSTMCell(4, 2, dtype=D)
    cell.load_state_dict({**{k: CELL[k] for k in ("weight_ih", "weight_hh")}, "bias_ih": CELL["bias"]}, strict=False)
    torch.nn.init.zeros_(cell.bias_hh)
    assert close(gated.lstm_cell(CELL, X, STATE), cell(X, STATE), rtol=1e-13)
    assert torch.equal(gated.linear(LINEAR, X), functional.linear(X, *LINEAR.values()))
    assert torch.equal(CONVOLUTION(KERNEL, IMAGE), functional.conv2d(IMAGE, *KERNEL.values(), 2, 1, 1, 2))
    assert torch.equal(gated.embedding({"weight": X}, WORDS), functional.embedding(WORDS, X))


def test_a_view_gives_subtrees_values_row_by_row_and_the_general_part():
    response = ng.GatedResponse(axes=(("w", 1),), gate_scale=1.0)
    phi, codes = ng.init_response(response, params(), {"h": rand(H)}, key=0), rand(ROWS, H, seed=9)
    found = gated.GatedParams(response, phi, codes)
    each = [ng.respond(response, phi, {"h": code}) for code in codes]
    assert found["w"].shape == (ROWS, 3, 2)
    assert torch.allclose(found["w"], torch.stack([w["w"] for w in each]), rtol=1e-13)
    for key in range(2):
        assert torch.allclose(found["deep"][key], torch.stack([w["deep"][key] for w in each]), rtol=1e-13)
    assert same(found.general, phi["bias"])
    assert same(found["deep"].general, phi["bias"]["deep"])
    assert (list(found), len(found["deep"])) == (["w", "deep"], 2)
    still = view(response, phi, None)
    assert torch.equal(still["w"], phi["bias"]["w"].expand(ROWS, 3, 2))


def test_the_first_draws_have_the_sizes_that_are_promised():
    many = {"weight": rand(50, 30, 2, 2), "bias": rand(2000), "one": rand()}
    response = ng.GatedResponse(axes=(("weight", 1),), gate_scale=0.01)
    found = ng.init_response(response, many, {"h": rand(40)}, key=0)
    assert same(found["bias"], many)
    bounds = {"weight": 1.0 / math.sqrt(50 * 4), "bias": 1.0, "one": 1.0}
    for name, bound in bounds.items():
        assert float(found["weight"][name].abs().max()) <= bound
    for name in ("weight", "bias"):
        assert float(found["weight"][name].std()) == pytest.approx(bounds[name] / math.sqrt(3.0), rel=0.05)
    assert {name: tuple(gate.shape) for name, gate in found["gates"].items()} == {
        "weight": (30, 40),
        "bias": (2000, 40),
        "one": (1, 40),
    }
    assert float(found["gates"]["bias"].std()) == pytest.approx(0.01, rel=0.02)
    still = ng.init_response(ng.GatedResponse(), many, {"h": rand(40)}, key=0)
    assert not any(gate.any() for gate in still["gates"].values())
    assert close(ng.respond(ng.GatedResponse(), still, {"h": rand(40)}), many)
    mixed = {name: many[name] for name in ("one", "bias", "weight")}
    assert same(ng.init_response(response, mixed, {"h": rand(40)}, key=0), found)


def test_it_is_bias_plus_gates_times_weight_along_the_axis():
    response = ng.GatedResponse(axes=(("w", -1),), gate_scale=1.0)
    hparams = {"b": rand(2, seed=4), "a": rand(seed=5)}
    phi = ng.init_response(response, params(), hparams, key=0)
    code = torch.cat([hparams["a"].reshape(1), hparams["b"]])
    gates = ng.tree.map(lambda gate: gate @ code, phi["gates"])
    gates["deep"][1] = gates["deep"][1].reshape(())
    right = ng.tree.map(lambda bias, weight, gate: bias + gate * weight, phi["bias"], phi["weight"], gates)
    assert close(ng.respond(response, phi, hparams), right, rtol=1e-13)


def changed(change):
    phi = ng.init_response(ng.GatedResponse(), params(), {"h": rand(H)}, key=0)
    change(phi)
    return phi


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda phi: phi.pop("gates"), r"weights\['gates'\]: got none, limit: a tree like params"),
        (lambda phi: phi.update(inner=rand(2)), r"weights\['inner'\]: got one, limit: bias, weight, gates alone"),
        (lambda phi: phi["gates"].update(w=rand(2, H)), r"'gates/w'\]: got \(2, 3\), limit: shape \(3, 3\)"),
        (lambda phi: phi["weight"].update(w=rand(3, 3)), r"'weight/w'\]: got \(3, 3\), limit: shape \(3, 2\)"),
        (
            lambda phi: phi["gates"]["deep"].__setitem__(1, rand(H)),
            r"'gates/deep/1'\]: got \(3,\), limit: shape \(1, 3\)",
        ),
        (lambda phi: phi["gates"].pop("w"), r"'gates/w'\]: got none"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, named):
    phi = changed(change)
    with pytest.raises(ng.InvalidInput, match=named):
        ng.respond(ng.GatedResponse(), phi, {"h": rand(H)})


def test_an_axis_that_is_not_there_is_refused():
    lost = ng.GatedResponse(axes=(("v", 0),))
    with pytest.raises(ng.InvalidInput, match="'v'"):
        ng.init_response(lost, params(), {"h": rand(H)}, key=0)
    with pytest.raises(ng.InvalidInput, match="'v'"):
        ng.respond(lost, changed(lambda phi: None), {"h": rand(H)})
    with pytest.raises(ng.InvalidInput, match=r"axis 1 of params\['deep/0'\]"):
        ng.init_response(ng.GatedResponse(axis=1), params(), {"h": rand(H)}, key=0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda of: gated.linear(of(LINEAR), X[:4]), "5 rows"),
        (lambda of: gated.linear(of({"bias": LINEAR["bias"]}), X), "'weight' is not there"),
        (lambda of: gated.linear(of({"weight": rand(6)}), X), "limit: a tensor of 2 axes"),
        (lambda of: gated.linear(of({"weight": {"deep": rand(6)}}), X), "dict, limit: a tensor of 2 axes"),
        (lambda of: gated.linear(of({"weight": LINEAR["weight"], "bias": rand(6, 1)}), X), "limit: a tensor of 1 axes"),
        (lambda of: gated.linear(of(LINEAR), X[:, :3]), r"x of shape \(5, 3\), limit: axis -1 of size 4"),
        (lambda of: gated.conv2d(of(KERNEL), IMAGE), "limit: axis -3 of size 2"),
        (lambda of: gated.embedding(of({"weight": X}), WORDS), "gated along axis 0, limit: 1"),
        (lambda of: gated.embedding(of({"weight": X}, BY_WORD), WORDS[:3]), "5 rows"),
        (lambda of: gated.linear(of(LINEAR, BY_WORD), X), "gated along axis 1, limit: 0"),
        (lambda of: gated.lstm_cell(of({k: CELL[k] for k in ("weight_ih", "weight_hh")}), X, STATE), "'bias' is not"),
        (lambda of: of(LINEAR)["scale"], "'scale' is not there, limit: weight, bias"),
        (lambda of: gated.linear(X, X), "a mapping of tensors"),
    ],
)
def test_what_a_layer_cannot_take_is_refused(call, named):
    def of(layer, response=BY_OUTPUT):
        return view(response, phi_of(layer, response), rand(ROWS, H))["layer"]

    with pytest.raises(ng.InvalidInput, match=named):
        call(of)


def test_a_view_of_codes_that_do_not_fit_is_refused():
    phi = phi_of(LINEAR, BY_OUTPUT)
    with pytest.raises(ng.InvalidInput, match=r"'gates/layer/weight'\]: got \(6, 3\), limit: shape \(6, 2\)"):
        gated.GatedParams(BY_OUTPUT, phi, rand(ROWS, 2))
    with pytest.raises(ng.InvalidInput, match=r"codes of shape \(3,\), limit: \(rows, h\)"):
        gated.GatedParams(BY_OUTPUT, phi, rand(H))


def test_it_is_one_of_the_methods():
    assert ng.supports(ng.GatedResponse)
    hparams = {"h": rand(H, seed=2)}
    problem = ng.BilevelProblem(
        ng.Minimize(lambda w, h, batch: 0.5 * (w["w"] - h["h"]).square().sum()), lambda w, h, batch: w["w"].sin().sum()
    )
    phi = ng.init_response(BY_OUTPUT, {"w": rand(H)}, hparams, key=0)
    best = {"bias": {"w": torch.zeros(H, dtype=D)}, "weight": {"w": torch.ones(H, dtype=D)}}
    best["gates"] = {"w": torch.eye(H, dtype=D)}
    said = ng.verify(problem, best, hparams, method=BY_OUTPUT)
    assert said.trusted
    assert said.relative_error < 1e-12
    assert not ng.verify(problem, phi, hparams, method=BY_OUTPUT).trusted
