"""One-pass steps and blocks as programs, and blocks of eager steps: the numbers of single eager steps."""

import copy
import gc
import importlib.util
import pathlib
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import nestgrad_torch as ng
from nestgrad_torch._compile import programs

_path = pathlib.Path(__file__).parents[1] / "one_pass" / "runs.py"
_spec = importlib.util.spec_from_file_location("one_pass_runs", _path)
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

EVERY = 3


@pytest.fixture(autouse=True)
def _traced(monkeypatch):
    monkeypatch.setattr(programs, "CANDIDATES", ("traced",))


def near(a, b):
    rows = zip(runs.leaves(a), runs.leaves(b), strict=True)
    return all(
        torch.allclose(x.double(), y.double(), rtol=1e-11, atol=1e-13, equal_nan=True)
        if isinstance(x, torch.Tensor)
        else x == y
        for x, y in rows
    )


def seen(info):
    return [info.total, info.direct, info.indirect, info.outer_loss]


def told(info):
    stats = info.stats
    return [info.status, *(getattr(stats, name) for name in stats.__dataclass_fields__)]


def batches(count, rows=9):
    return [runs.batch(rows) for _ in range(count)]


def one_by_one(tune, state, inner, outer):
    losses, found = [], []
    for data in inner:
        state, info = tune.step(state, data, outer)
        losses.append(info.inner_loss)
        found += [info.hypergradient] if info.tuned else []
    return state, losses, found, tune.values(state)


def require_same(given, expected):
    state, run = given
    wanted, losses, found, values = expected
    assert near(state, wanted)
    assert near(list(run.inner_losses), losses)
    assert len(run.hypergradients) == len(found)
    for a, b in zip(run.hypergradients, found, strict=True):
        assert near(seen(a), seen(b))
        assert told(a) == pytest.approx(told(b), rel=1e-9, nan_ok=True)
    assert near(run.hparams, values)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "program"])
@pytest.mark.parametrize(("before", "count"), [(0, 3), (0, 6), (0, 2), (1, 2), (2, 5), (1, 8)])
def test_a_block_is_its_steps_one_by_one(compiled, before, count):
    tune, twin = runs.tuner(every=EVERY, compile=compiled), runs.tuner(every=EVERY)
    net = runs.network()
    state, _, _, _ = one_by_one(twin, twin.init(net), batches(before), runs.batch())
    kept = copy.deepcopy(state)
    tune.init(net)
    inner, outer = batches(count), runs.batch(5)
    require_same(tune.run(state, inner, outer), one_by_one(twin, state, inner, outer))
    assert runs.same(state, kept)


OUTER = {
    "adam": partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.99), eps=1e-6),
    "bare": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, lr=0.05),
    "outside": partial(torch.optim.AdamW, lr=0.05),
    "function": lambda leaves: torch.optim.RMSprop(leaves, lr=0.02),
}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("kind", ["step", "run"])
def test_every_outer_optimizer_moves_as_it_does_alone(outer, kind):
    space = {"lr": ng.Log10(0.05, clip=(1e-10, 0.051)), "momentum": ng.Logit(0.6), "decay": ng.Log10(1e-3)}
    given = {"every": EVERY, "hparams": space, "outer_optimizer": OUTER[outer]}
    tune, twin = runs.tuner(compile=True, **given), runs.tuner(**given)
    net = runs.network()
    state = expected = tune.init(net)
    twin.init(net)
    for _ in range(3):
        inner, data = batches(EVERY), runs.batch()
        expected, *_ = one_by_one(twin, expected, inner, data)
        state = tune.run(state, inner, data)[0] if kind == "run" else one_by_one(tune, state, inner, data)[0]
        assert near(state, expected)
    assert float(tune.values(state)["lr"]) <= 0.051 * (1 + 1e-12)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "program"])
def test_buffers_and_draws_go_on_as_in_single_steps(compiled):
    net = runs.noisy_network()
    tune, twin = runs.tuner(every=EVERY, compile=compiled), runs.tuner(every=EVERY)
    state, expected = tune.init(net), twin.init(net)
    inner, outer = batches(2 * EVERY), runs.batch()
    torch.manual_seed(11)
    first = tune.run(state, inner, outer)
    drawn = torch.rand(2)
    torch.manual_seed(11)
    require_same(first, one_by_one(twin, expected, inner, outer))
    assert torch.equal(drawn, torch.rand(2))
    net.eval()
    assert near(tune.run(first[0], inner, outer)[0], one_by_one(twin, first[0], inner, outer)[0])


def test_an_inner_optimizer_that_counts_is_one_program():
    given = {"every": EVERY, "optimizer": lambda h: ng.optim.adam(h["lr"]), "hparams": {"lr": ng.Log10(0.05)}}
    tune, twin = runs.tuner(compile=True, **given), runs.tuner(**given)
    net = runs.network()
    state, expected = tune.init(net), twin.init(net)
    inner, outer = batches(2 * EVERY), runs.batch()
    gc.collect()  # programs of other tests, which would else be dropped in between
    made = len(ng.compiled_programs())
    state, _ = tune.run(state, inner, outer)
    assert len(ng.compiled_programs()) == made + 1
    expected, *_ = one_by_one(twin, expected, inner, outer)
    assert near(state, expected)
    assert state["opt_state"]["count"] == 2 * EVERY


def test_unequal_batches_of_a_block_are_taken_one_by_one():
    tune, twin = runs.tuner(every=EVERY, compile=True), runs.tuner(every=EVERY)
    net = runs.network()
    inner, outer = [*batches(2), *batches(1, rows=4)], runs.batch()
    require_same(tune.run(tune.init(net), inner, outer), one_by_one(twin, twin.init(net), inner, outer))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "program"])
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_nan_raises_with_the_step_and_leaves_the_state(compiled, which):
    tune = runs.tuner(runs.linear_error, every=EVERY, compile=compiled)
    state = tune.init({"w": torch.randn(3, 1, dtype=torch.float64)})
    kept = copy.deepcopy(state)
    bad = (torch.full((9, 3), torch.nan, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    inner = [*batches(2), bad if which == "inner" else runs.batch()]
    with pytest.raises(ng.NonFinite, match=r"training step 3: .*limit: finite.*Remedy"):
        tune.run(state, inner, bad if which == "outer" else runs.batch())
    assert runs.same(state, kept)
    silent = runs.tuner(runs.linear_error, every=EVERY, compile=compiled, throw=False)
    _, run = silent.run(silent.init({"w": torch.ones(3, 1, dtype=torch.float64)}), inner, bad)
    assert run.hypergradients[0].status is ng.Status.NONFINITE


def test_an_exploding_hypergradient_warns_from_a_block():
    def scaled(params, hparams, data):
        return runs.linear_error(params, hparams, data) * data[0].mean()

    still = partial(torch.optim.SGD, lr=1e-15)
    tune = runs.tuner(runs.linear_error, every=1, outer_loss=scaled, outer_optimizer=still, compile=True)
    state = tune.init({"w": torch.randn(3, 1, dtype=torch.float64)})
    inner = [runs.batch()]
    ones = (torch.ones(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            state, _ = tune.run(state, inner, ones)
    with pytest.warns(ng.ExplodingHypergradient, match="training step 7"):
        tune.run(state, inner, (1e6 * ones[0], ones[1]))


@pytest.mark.parametrize("given", [[], "ab", {"a": 1}, None])
def test_a_block_is_a_list_of_batches(given):
    tune = runs.tuner()
    with pytest.raises(ng.InvalidInput, match=r"OnePass.run: inner_batches: got .*limit: a list"):
        tune.run(tune.init(runs.network()), given, runs.batch())


def test_a_block_of_float32_compiled_by_inductor(monkeypatch):
    monkeypatch.setattr(programs, "CANDIDATES", ("eager", "traced", "inductor"))
    tune, twin = runs.tuner(every=2, terms=2, compile=True), runs.tuner(every=2, terms=2)
    net = nn.Linear(3, 1)
    inner = [tuple(x.float() for x in runs.batch()) for _ in range(4)]
    state, run = tune.run(tune.init(net), inner, inner[0])
    expected, losses, _, _ = one_by_one(twin, twin.init(net), inner, inner[0])
    assert torch.allclose(run.inner_losses, torch.stack(losses), rtol=1e-5)
    assert all(torch.allclose(state["params"][n], w, rtol=1e-4) for n, w in expected["params"].items())
    assert any(set(p.seconds) == {"eager", "traced", "inductor"} for p in ng.compiled_programs())
