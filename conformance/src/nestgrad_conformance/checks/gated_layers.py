"""Gated layers: what they give is what a plain layer gives with each row's own weights."""

from __future__ import annotations

from typing import Any

import numpy as np

import nestgrad_reference
from nestgrad import GatedResponse, InvalidInput, tree
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.learned import drawn_response, responding
from nestgrad_conformance.registry import check

_ROWS, _ENTRIES = 3, 2
_WORDS = GatedResponse(axes=(("layer/weight", 1),))
_SQUARE = 3  # words by dimension: gates along either axis would fit

_LAYERS = ("linear", "linear without bias", "linear in time", "conv2d", "conv2d in groups", "embedding", "lstm_cell")
_OPTIONS: dict[str, dict[str, Any]] = {
    "conv2d": {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
    "conv2d in groups": {"groups": 2, "stride": 2, "padding": 1},
}


def _layer(draw: Draw, kind: str) -> tuple[GatedResponse, Any, tuple[Any, ...]]:
    """(its response, params with the layer under "layer", what the layer is given)."""
    if kind.startswith("conv2d"):
        kernel = draw.normal(4, 1 if "groups" in kind else 2, 3, 2)
        return GatedResponse(), {"layer": {"weight": kernel, "bias": draw.normal(4)}}, (draw.normal(_ROWS, 2, 6, 5),)
    if kind == "embedding":
        return (
            _WORDS,
            {"layer": {"weight": draw.normal(_SQUARE, _SQUARE)}},
            (draw.rng.integers(_SQUARE, size=(_ROWS, 4)),),
        )
    if kind == "lstm_cell":
        params = {"weight_ih": draw.normal(8, 3), "weight_hh": draw.normal(8, 2), "bias": draw.normal(8)}
        state = draw.normal(_ROWS, 2), draw.normal(_ROWS, 2)
        return GatedResponse(), {"layer": params}, (draw.normal(_ROWS, 3), state)
    params = {"weight": draw.normal(4, 3), **({} if "without" in kind else {"bias": draw.normal(4)})}
    return GatedResponse(), {"layer": params}, (draw.normal(_ROWS, *((5,) if "time" in kind else ()), 3),)


def _applied(gated: Any, kind: str, layer: Any, given: tuple[Any, ...]) -> list[Any]:
    """The layer's outputs."""
    found = getattr(gated, kind.partition(" ")[0])(layer, *given, **_OPTIONS.get(kind, {}))
    return list(found) if isinstance(found, tuple) else [found]


def _row(given: Any, i: int) -> Any:
    return tree.map(lambda array: array[i : i + 1], given)


def _close(ctx: Context, found: list[Any], wanted: list[np.ndarray]) -> None:
    limit = 1e-4 if ctx.dtype == "float32" else 1e-11
    ctx.close(
        dict(enumerate(found)), dict(enumerate(wanted)), limit, what="output", scale=np.ones(sum(map(np.size, wanted)))
    )


@check("GatedResponse", "gated")
def gated_layers_are_plain_layers_with_each_rows_weights(ctx: Context, draw: Draw) -> None:
    """Linear, conv2d, embedding and lstm_cell: a row's output is the plain layer's with w_φ of the row's code."""
    kind = draw.pick(_LAYERS, "layer")
    response, params, given = _layer(draw, kind)
    phi, codes = ctx.seen(drawn_response(draw, response, params, _ENTRIES)), ctx.seen(draw.normal(_ROWS, _ENTRIES))
    given = tree.map(lambda x: ctx.seen(x) if x.dtype.kind == "f" else x, given)
    backend: Any = ctx.harness.backend
    view = backend.gated.GatedParams(response, ctx.arrays(phi), ctx.arrays(codes))
    found = _applied(backend.gated, kind, view["layer"], ctx.arrays(given))
    rows = [
        _applied(nestgrad_reference.gated, kind, responding(response, phi, code)["layer"], _row(given, i))
        for i, code in enumerate(codes)
    ]
    _close(ctx, found, [np.concatenate(parts) for parts in zip(*rows, strict=True)])


@check("GatedResponse", "gated", "respond")
def gated_layers_with_one_code_are_plain_layers_on_the_response(ctx: Context, draw: Draw) -> None:
    """One code for all rows: what the backend's own plain layer gives with `respond`."""
    kind = draw.pick(_LAYERS, "layer")
    response, params, given = _layer(draw, kind)
    phi, code = drawn_response(draw, response, params, _ENTRIES), draw.normal(_ENTRIES)
    backend, arrays = ctx.harness.backend, ctx.arrays(given)
    layers: Any = backend
    view = layers.gated.GatedParams(response, ctx.arrays(phi), ctx.arrays(np.tile(code, (_ROWS, 1))))
    plain = layers.respond(response, ctx.arrays(phi), {"code": ctx.arrays(code)})
    wanted = _applied(layers.gated, kind, plain["layer"], arrays)
    _close(ctx, _applied(layers.gated, kind, view["layer"], arrays), [ctx.numpy(part) for part in wanted])


@check("GatedResponse", "gated")
def gated_params_are_read_row_by_row(ctx: Context, draw: Draw) -> None:
    """A leaf of the view has the weights of every row, numbers and square leaves too; `general` is φ's bias."""
    response = GatedResponse(axes=(("words/weight", 1),))
    params = {"words": {"weight": draw.normal(2, 2)}, "parts": (draw.normal(3), draw.normal())}
    phi, codes = ctx.seen(drawn_response(draw, response, params, _ENTRIES)), ctx.seen(draw.normal(_ROWS, _ENTRIES))
    backend: Any = ctx.harness.backend
    view = backend.gated.GatedParams(response, ctx.arrays(phi), ctx.arrays(codes))
    found = {"words": view["words"]["weight"], "vector": view["parts"][0], "number": view["parts"][1]}
    rows = [responding(response, phi, code) for code in codes]
    wanted = {
        "words": np.stack([row["words"]["weight"] for row in rows]),
        "vector": np.stack([row["parts"][0] for row in rows]),
        "number": np.stack([row["parts"][1] for row in rows]),
    }
    limit, size = 1e-5 if ctx.dtype == "float32" else 1e-12, np.ones(_ROWS * 8)
    ctx.close(found, wanted, limit, what="params", scale=size)
    general = {"whole": view.general, "part": view["words"].general}
    ctx.close(general, {"whole": phi["bias"], "part": phi["bias"]["words"]}, 1e-7, what="general", scale=np.ones(12))
    assert "weight" in view["words"] and "bias" not in view["words"], "the view does not know its keys"


@check("GatedResponse", "respond")
def gated_responses_begin_in_their_bounds(ctx: Context, draw: Draw) -> None:
    """init_response: bias is params, weight within ±1/√(size/outputs), gates N(0, gate_scale²); the key decides."""
    spread, backend = draw.pick((0.0, 0.01, 0.5), "gate_scale"), ctx.harness.backend
    responses: Any = backend
    params = {
        "out": {"weight": draw.normal(20, 9), "bias": draw.normal(20)},
        "words": draw.normal(4, 25),
        "number": draw.normal(),
    }
    response = GatedResponse(axes=(("words", 1),), gate_scale=spread)
    made = [
        ctx.numpy(responses.init_response(response, ctx.arrays(params), {"code": ctx.arrays(np.zeros(8))}, key=key))
        for key in (3, 3, 4)
    ]
    phi, again, other = made
    bounds = {"out/weight": 1.0 / 3.0, "out/bias": 1.0, "words": 0.5, "number": 1.0}
    for path, leaf in tree.named_leaves(phi["weight"]).items():
        largest = float(np.abs(leaf).max())
        assert largest <= bounds[path] * (1.0 + 1e-6), f"weight {path!r} up to {largest}, limit {bounds[path]}"
        assert leaf.size == 1 or largest > 0.7 * bounds[path], f"weight {path!r} up to {largest} of {bounds[path]}"
    ctx.close(ctx.arrays(phi["bias"]), ctx.seen(params), 1e-7, what="bias", scale=np.ones(301))
    gates = np.concatenate([leaf.reshape(-1) for leaf in tree.leaves(phi["gates"])])
    assert gates.size == (20 + 20 + 25 + 1) * 8, f"{gates.size} gates"
    size = float(np.sqrt(np.mean(gates**2)))
    assert abs(size - spread) <= 0.2 * spread, f"gates of deviation {size}, expected {spread}"
    same, others = (_all(each) for each in (again, other))
    assert np.array_equal(_all(phi), same) and not np.array_equal(_all(phi), others), "φ is not its key's"


def _all(phi: Any) -> np.ndarray:
    named = tree.named_leaves(phi)
    return np.concatenate([np.reshape(named[path], -1) for path in sorted(named)])


@check("GatedResponse", "gated")
def what_no_gated_layer_can_take_is_refused(ctx: Context, draw: Draw) -> None:
    """A key that is not there, gates along the wrong axis, a wrong rank and another number of rows, each by name."""
    params = {"layer": {"weight": draw.normal(3, 3)}, "vector": {"weight": draw.normal(3)}}
    backend: Any = ctx.harness.backend
    gated: Any = backend.gated

    def view(response: GatedResponse, codes: np.ndarray) -> Any:
        return gated.GatedParams(response, ctx.arrays(drawn_response(draw, response, params, 2)), ctx.arrays(codes))

    along, across = (view(response, draw.normal(_ROWS, 2)) for response in (GatedResponse(), _WORDS))
    x, indices = ctx.arrays(draw.normal(_ROWS, 3)), ctx.arrays(np.zeros(_ROWS, np.int64))
    with refused(InvalidInput, "absent"):
        along["absent"]
    with refused(InvalidInput, "weight"):
        gated.embedding(along["layer"], indices)
    with refused(InvalidInput, "weight"):
        gated.linear(across["layer"], x)
    with refused(InvalidInput, "weight"):
        gated.linear(along["vector"], x)
    with refused(InvalidInput, "weight"):
        gated.linear(ctx.arrays({"kernel": draw.normal(3, 3)}), x)
    with refused(InvalidInput, "rows"):
        gated.linear(along["layer"], ctx.arrays(draw.normal(_ROWS + 1, 3)))
    with refused(InvalidInput, "codes", "init_response"):
        view(GatedResponse(), draw.normal(_ROWS, 3))
