"""Gated layers against loops over every index, and their refusals."""

import itertools

import numpy as np
import pytest

import nestgrad_reference as ng

RNG = np.random.default_rng(0)
RESPONSE = ng.GatedResponse(axes=(("words/weight", 1),))


def gated(params, rows=3, entries=2):
    phi = {
        "bias": params,
        "weight": ng.tree.map(lambda leaf: RNG.normal(size=leaf.shape), params),
        "gates": {
            layer: {
                name: RNG.normal(size=(leaf.shape[1 if layer == "words" else 0], entries))
                for name, leaf in part.items()
            }
            for layer, part in params.items()
        },
    }
    response = RESPONSE if "words" in params else ng.GatedResponse()
    return ng.gated.GatedParams(response, phi, RNG.normal(size=(rows, entries)))


def convolved(kernel, bias, image, stride, padding, dilation, groups):
    """One image, an entry at a time."""
    outputs, channels, height, width = kernel.shape
    wide = np.pad(image, [(0, 0), *((p, p) for p in padding)])
    sizes = [
        (wide.shape[k + 1] - dilation[k] * (size - 1) - 1) // stride[k] + 1 for k, size in enumerate((height, width))
    ]
    found = np.zeros((outputs, *sizes))
    for o, i, j in itertools.product(range(outputs), *map(range, sizes)):
        first = o // (outputs // groups) * channels
        for c, a, b in itertools.product(range(channels), range(height), range(width)):
            at = wide[first + c, i * stride[0] + a * dilation[0], j * stride[1] + b * dilation[1]]
            found[o, i, j] += kernel[o, c, a, b] * at
    return found + bias[:, None, None]


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), ((2, 1), (0, 2), (1, 2), 1)]
)
def test_a_convolution_of_each_image_with_its_own_kernel(stride, padding, dilation, groups):
    channels = 4
    params = {"conv": {"weight": RNG.normal(size=(6, channels // groups, 3, 2)), "bias": RNG.normal(size=6)}}
    view, images = gated(params), RNG.normal(size=(3, channels, 7, 6))
    found = ng.gated.conv2d(view["conv"], images, stride=stride, padding=padding, dilation=dilation, groups=groups)
    settings = [pair if isinstance(pair, tuple) else (pair, pair) for pair in (stride, padding, dilation)]
    for i, (weights, image) in enumerate(zip(view.rows(), images, strict=True)):
        kernel, bias = weights["conv"]["weight"], weights["conv"]["bias"]
        np.testing.assert_allclose(found[i], convolved(kernel, bias, image, *settings, groups), rtol=1e-12)


def test_leaves_are_row_by_row_and_gates_along_their_axis():
    view = gated({"words": {"weight": RNG.normal(size=(5, 3))}, "out": {"weight": RNG.normal(size=(2, 3))}})
    for name, laid in (("words", (1, -1)), ("out", (-1, 1))):
        part = {key: value[name]["weight"] for key, value in view.phi.items()}
        right = [part["bias"] + (part["gates"] @ code).reshape(laid) * part["weight"] for code in view.codes]
        np.testing.assert_allclose(view[name]["weight"], right, rtol=1e-13)
    assert view.general is view.phi["bias"]
    assert view["out"].general is view.phi["bias"]["out"]
    assert "weight" in view["out"]
    assert "bias" not in view["out"]


def test_an_lstm_cell_is_its_equations():
    size, inputs = 2, 3
    params = {
        "cell": {
            "weight_ih": RNG.normal(size=(4 * size, inputs)),
            "weight_hh": RNG.normal(size=(4 * size, size)),
            "bias": RNG.normal(size=4 * size),
        }
    }
    view, x, hidden, cell = gated(params), *(RNG.normal(size=(3, n)) for n in (inputs, size, size))
    found = ng.gated.lstm_cell(view["cell"], x, (hidden, cell))
    for i, weights in enumerate(view.rows()):
        w = weights["cell"]
        enter, keep, new, out = np.split(w["weight_ih"] @ x[i] + w["weight_hh"] @ hidden[i] + w["bias"], 4)
        after = cell[i] / (1.0 + np.exp(-keep)) + np.tanh(new) / (1.0 + np.exp(-enter))
        np.testing.assert_allclose(found[1][i], after, rtol=1e-12)
        np.testing.assert_allclose(found[0][i], np.tanh(after) / (1.0 + np.exp(-out)), rtol=1e-12)


def test_what_does_not_fit_is_refused():
    view = gated({"words": {"weight": np.ones((5, 3))}, "out": {"weight": np.ones((2, 3)), "bias": np.ones(2)}})
    with pytest.raises(ng.InvalidInput, match=r"'fc'.*limit.*'words', 'out'"):
        view["fc"]
    with pytest.raises(ng.InvalidInput, match="along axis 0, limit: axis 1"):
        ng.gated.embedding(view["out"], np.zeros(3, int))
    with pytest.raises(ng.InvalidInput, match="along axis 1, limit: axis 0"):
        ng.gated.linear(view["words"], np.ones((3, 3)))
    with pytest.raises(ng.InvalidInput, match="limit: 4 axes"):
        ng.gated.conv2d(view["out"], np.ones((3, 1, 4, 4)))
    with pytest.raises(ng.InvalidInput, match="'weight_ih'"):
        ng.gated.lstm_cell({"weight": np.ones((2, 3))}, np.ones((3, 3)), (np.ones((3, 2)), np.ones((3, 2))))
    with pytest.raises(ng.InvalidInput, match="first axis 3"):
        ng.gated.linear(view["out"], np.ones((2, 3)))
    with pytest.raises(ng.InvalidInput, match="codes of shape"):
        ng.gated.GatedParams(RESPONSE, view.phi, np.ones(2))
    with pytest.raises(ng.InvalidInput, match=r"gates/words/weight.*limit"):
        ng.gated.GatedParams(RESPONSE, view.phi, np.ones((3, 5)))


def test_a_fresh_response_is_in_its_bounds_and_its_own_by_its_key():
    params = {"out": {"weight": RNG.normal(size=(40, 9)), "bias": np.zeros(40)}, "scale": np.asarray(1.0)}
    hparams = {"decay": np.zeros(3)}
    response = ng.GatedResponse(gate_scale=0.01)
    phi = ng.init_response(response, params, hparams, key=3)
    bounds = {"out/weight": 1.0 / 3.0, "out/bias": 1.0, "scale": 1.0}
    for path, leaf in ng.tree.named_leaves(phi["weight"]).items():
        largest = np.abs(leaf).max()
        assert largest <= bounds[path]
        assert leaf.size == 1 or largest > 0.9 * bounds[path]
    gates = np.concatenate([leaf.ravel() for leaf in ng.tree.leaves(phi["gates"])])
    assert gates.size == (40 + 40 + 1) * 3
    assert 0.009 < gates.std() < 0.011
    again = ng.init_response(response, params, hparams, key=3)
    other = ng.init_response(response, params, hparams, key=4)
    assert np.array_equal(again["gates"]["out"]["bias"], phi["gates"]["out"]["bias"])
    assert not np.array_equal(other["weight"]["out"]["weight"], phi["weight"]["out"]["weight"])
    still = ng.init_response(ng.GatedResponse(), params, hparams, key=3)
    assert not np.any(still["gates"]["out"]["weight"])
    with pytest.raises(ng.InvalidInput, match="nowhere"):
        ng.init_response(ng.GatedResponse(axes=(("nowhere", 0),)), params, hparams, key=0)
