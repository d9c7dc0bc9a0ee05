"""A loop of one's own: the hyperparameters move as OnePass moves them, and nothing else is touched."""

import copy
import functools
import gc
import importlib.util
import io
import pathlib
import weakref

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("nestgrad_torch", reason="nestgrad-torch is not installed")
import nestgrad_torch as ng  # noqa: E402
from nestgrad import GMRES, BilevelProblem, Guard, Identity, Implicit, Log10, Logit, Neumann, WeightUpdate, tree  # noqa: E402

_spec = importlib.util.spec_from_file_location("loops", pathlib.Path(__file__).with_name("loops.py"))
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)

METHOD = Implicit(solver=Neumann(num_terms=5, step_size=1.0))
OUTER = functools.partial(torch.optim.Adam, lr=0.05)
CLOSE = {torch.float64: 1e-9, torch.float32: 2e-3}


def optimizers():
    """(name, the torch.optim optimizer of params, the functional rule of hparams, spaces)."""
    lr, decay = {"lr": Log10(1e-2)}, {"weight_decay": Log10(1e-3)}
    yield (
        "sgd",
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.5, weight_decay=1e-3),
        lambda h: ng.optim.sgd(h["lr"], h["momentum"], h["weight_decay"]),
        loops.SPACES,
    )
    yield "plain sgd", lambda p: torch.optim.SGD(p, lr=1e-2), lambda h: ng.optim.sgd(h["lr"]), lr
    yield "still sgd", lambda p: torch.optim.SGD(p, lr=1e-2, dampening=0.3), lambda h: ng.optim.sgd(h["lr"]), lr
    yield (
        "foreach sgd",
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, foreach=True),
        lambda h: ng.optim.sgd(h["lr"], 0.9),
        lr,
    )
    yield (
        "fused sgd",
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
        lambda h: ng.optim.sgd(h["lr"], 0.9),
        lr,
    )
    yield (
        "nesterov",
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.5, nesterov=True),
        lambda h: ng.optim.sgd(h["lr"], h["momentum"], nesterov=True),
        {**lr, "momentum": Logit(0.5)},
    )
    yield (
        "dampened",
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.5, dampening=0.3),
        lambda h: ng.optim.sgd(h["lr"], h["momentum"], dampening=h["dampening"]),
        {**lr, "momentum": Logit(0.5), "dampening": Logit(0.3)},
    )
    yield (
        "adam",
        lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.9), weight_decay=1e-3),
        lambda h: ng.optim.adam(h["lr"], *h["betas"], weight_decay=h["weight_decay"]),
        {**lr, **decay, "betas": (Logit(0.8), Logit(0.9))},
    )
    yield (
        "adamw",
        lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-6, weight_decay=1e-3),
        lambda h: ng.optim.adamw(h["lr"], eps=h["eps"], weight_decay=h["weight_decay"]),
        {**lr, **decay, "eps": Log10(1e-6)},
    )
    yield (
        "fused adamw",
        lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
        lambda h: ng.optim.adamw(h["lr"]),
        lr,
    )
    yield (
        "rmsprop",
        lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.9, momentum=0.5, weight_decay=1e-3),
        lambda h: ng.optim.rmsprop(h["lr"], h["alpha"], momentum=h["momentum"], weight_decay=h["weight_decay"]),
        {**lr, **decay, "alpha": Logit(0.9), "momentum": Logit(0.5)},
    )
    yield (
        "centred rmsprop",
        lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True),
        lambda h: ng.optim.rmsprop(h["lr"], centered=True),
        lr,
    )
    yield (
        "adagrad",
        lambda p: torch.optim.Adagrad(p, lr=1e-2, lr_decay=1e-2, weight_decay=1e-3, initial_accumulator_value=0.1),
        lambda h: ng.optim.adagrad(
            h["lr"], weight_decay=h["weight_decay"], lr_decay=h["lr_decay"], initial_accumulator=0.1
        ),
        {**lr, **decay, "lr_decay": Log10(1e-2)},
    )


CASES = {case[0]: case[1:] for case in optimizers()}


def one_pass(model, rule, spaces, inner, outer, **options):
    """The values and the weights after OnePass's own run."""
    problem = BilevelProblem(WeightUpdate(loops.loss, rule), outer_loss=loops.loss)
    settings = {"every": 5, "method": METHOD, "outer_optimizer": OUTER, **options}
    tuner = ng.OnePass(problem, hparams=spaces, **settings)
    state = tuner.init(model)
    for batch, valid in zip(inner, outer, strict=True):
        state, _ = tuner.step(state, batch, valid)
    return tuner.values(state), state["params"]


def assert_same(model, live, values, params, limit):
    for name, value in tree.named_leaves(values).items():
        got = tree.named_leaves(live.values())[name]
        assert abs(float(got - value)) <= limit * abs(float(value)), name
    for name, param in model.state_dict().items():
        assert torch.allclose(param, params[name], rtol=limit, atol=limit), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_hyperparameters_and_weights_move_as_in_one_pass(name, dtype):
    make, rule, spaces = CASES[name]
    model, inner, outer = loops.network(dtype), loops.batches(20, dtype), loops.batches(20, dtype)
    values, params = one_pass(copy.deepcopy(model), rule, spaces, inner, outer)
    optimizer = make(model.parameters())
    live = loops.tuner(model, optimizer, hparams=spaces)
    for batch, valid in zip(inner, outer, strict=True):
        loops.step(model, optimizer, live, batch, valid)
    assert_same(model, live, values, params, CLOSE[dtype])
    for path, space in tree.named_leaves(spaces).items():
        assert float(tree.named_leaves(values)[path]) != pytest.approx(space.initial, rel=1e-6), path
    written = {key: optimizer.param_groups[0][key] for key in spaces}
    assert tree.leaves(written) == [float(value) for value in tree.leaves(live.values())]


@pytest.mark.parametrize("clip_late", [False, True], ids=["clipped before before_step", "after it"])
def test_clipping_by_the_global_norm_is_followed(clip_late):
    model, inner, outer = loops.network(), loops.batches(20), loops.batches(20)
    values, params = one_pass(
        copy.deepcopy(model),
        lambda h: ng.optim.clipped(ng.optim.sgd(h["lr"], h["momentum"], h["weight_decay"]), 0.1),
        loops.SPACES,
        inner,
        outer,
    )
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, clip_grad_norm=0.1)
    for batch, valid in zip(inner, outer, strict=True):
        loops.step(model, optimizer, live, batch, valid, clip=0.1, clip_late=clip_late)
    assert_same(model, live, values, params, 1e-9)


def test_a_carried_adjoint_is_followed_and_saved():
    model, inner, outer = loops.network(), loops.batches(20), loops.batches(20)
    options = {"method": Implicit(solver=GMRES(rtol=1e-1, max_steps=40), damping=1.0), "warm_start": True}
    values, params = one_pass(
        copy.deepcopy(model),
        lambda h: ng.optim.sgd(h["lr"], h["momentum"], h["weight_decay"]),
        loops.SPACES,
        inner,
        outer,
        **options,
    )
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, **options)
    for batch, valid in zip(inner, outer, strict=True):
        loops.step(model, optimizer, live, batch, valid)
    assert_same(model, live, values, params, 1e-9)
    assert all(adjoint.any() for adjoint in tree.leaves(live.state_dict()["adjoint"]))


def test_several_groups_share_a_value_keep_their_others_and_stay_without_weight_decay():
    model, inner, outer = loops.network(), loops.batches(10), loops.batches(10)
    names = [name for name, _ in model.named_parameters()]
    momenta = {name: torch.tensor(0.9 if "weight" in name else 0.2, dtype=torch.float64) for name in names}
    still = torch.tensor(0.0, dtype=torch.float64)
    spaces = {"lr": Log10(1e-2), "weight_decay": Log10(1e-3)}
    values, params = one_pass(
        copy.deepcopy(model),
        lambda h: ng.optim.sgd(
            h["lr"], momenta, {name: h["weight_decay"] if "weight" in name else still for name in names}
        ),
        spaces,
        inner,
        outer,
    )
    groups = [
        {"params": [p for name, p in model.named_parameters() if "weight" in name], "momentum": 0.9},
        {"params": [p for name, p in model.named_parameters() if "bias" in name], "momentum": 0.2, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-2, weight_decay=1e-3)
    live = loops.tuner(model, optimizer, hparams=spaces)
    for batch, valid in zip(inner, outer, strict=True):
        loops.step(model, optimizer, live, batch, valid)
    assert_same(model, live, values, params, 1e-9)
    first, second = optimizer.param_groups
    assert first["lr"] == second["lr"] == float(values["lr"]) != 1e-2
    assert (first["momentum"], second["momentum"]) == (0.9, 0.2)
    assert second["weight_decay"] == 0.0
    assert first["weight_decay"] == pytest.approx(float(values["weight_decay"]), rel=1e-12)


def test_a_group_without_momentum_has_no_dampening_either():
    model, inner, outer = loops.network(), loops.batches(10), loops.batches(10)
    shares = {name: torch.tensor(1.0 if "weight" in name else 0.0).double() for name, _ in model.named_parameters()}
    values, params = one_pass(
        copy.deepcopy(model),
        lambda h: ng.optim.sgd(
            h["lr"], tree.map(lambda x: 0.9 * x, shares), dampening=tree.map(lambda x: 0.3 * x, shares)
        ),
        {"lr": Log10(1e-2)},
        inner,
        outer,
    )
    groups = [
        {"params": [p for name, p in model.named_parameters() if "weight" in name], "momentum": 0.9},
        {"params": [p for name, p in model.named_parameters() if "bias" in name]},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-2, dampening=0.3)
    live = loops.tuner(model, optimizer, hparams={"lr": Log10(1e-2)})
    for batch, valid in zip(inner, outer, strict=True):
        loops.step(model, optimizer, live, batch, valid)
    assert_same(model, live, values, params, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_dropout_and_batch_norm_are_followed_and_nothing_of_the_loop_is_changed(dtype):
    model = loops.network(dtype, noisy=True)
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer)
    tuned = 0
    for batch, valid in zip(loops.batches(20, dtype), loops.batches(20, dtype), strict=True):
        optimizer.zero_grad()
        loops.loss(model, None, batch).backward()
        live.before_step(batch)
        optimizer.step()
        model[3].eval()  # a mode that differs between layers is put back as well
        kept = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        drawn, modes = torch.get_rng_state(), [layer.training for layer in model.modules()]
        model[3].train()
        info = live.after_step(valid)
        model[3].eval()
        tuned += info is not None
        assert all(torch.equal(a, b) for a, b in zip(kept[0].values(), model.state_dict().values(), strict=True))
        assert all(torch.equal(a, p.grad) for a, p in zip(kept[1], model.parameters(), strict=True))
        now = optimizer.state_dict()["state"]
        assert all(torch.equal(moments[i]["momentum_buffer"], now[i]["momentum_buffer"]) for i in moments)
        assert torch.equal(drawn, torch.get_rng_state())
        assert modes == [layer.training for layer in model.modules()]
        model[3].train()
    assert tuned == 4


def test_the_outer_loss_is_in_eval_mode_unless_asked_otherwise():
    seen = []

    def outer_loss(model, hparams, batch):
        seen.append((network.training, network[1].training))
        return loops.loss(model, hparams, batch)

    network = loops.network()
    network[1].eval()
    for mode in ("eval", "train"):
        optimizer = loops.sgd(network)
        live = loops.tuner(network, optimizer, outer_loss=outer_loss, outer_mode=mode, every=1)
        batch = loops.batches(1)[0]
        loops.step(network, optimizer, live, batch, batch)
        live.close()
        assert (network.training, network[1].training) == (True, False)
    assert seen == [(False, False), (True, False)]


def test_the_outer_loss_is_taken_at_the_weights_that_the_optimizer_arrived_at():
    model = loops.network(torch.float32)
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, every=1, method=Implicit(solver=Identity()))
    batch, valid = loops.batches(2, torch.float32)
    info = loops.step(model, optimizer, live, batch, valid)
    assert float(info.hypergradient.outer_loss) == pytest.approx(loops.loss(model, None, valid).item(), rel=1e-6)


def test_an_outer_batch_is_asked_for_only_when_it_is_due():
    model = loops.network()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer)
    asked = []

    def give():
        asked.append(1)
        return batch

    batch = loops.batches(1)[0]
    found = [loops.step(model, optimizer, live, batch, give) for _ in range(12)]
    assert len(asked) == 2
    assert [i for i, info in enumerate(found) if info is not None] == [4, 9]
    assert found[4].tuned


def test_a_saved_run_goes_on_bit_for_bit():
    inner, outer = loops.batches(20), loops.batches(20)

    def begun():
        torch.manual_seed(1)
        model = loops.network(noisy=True)
        return model, loops.sgd(model)

    def go_on(model, optimizer, live, steps):
        for i in steps:
            torch.manual_seed(i)
            loops.step(model, optimizer, live, inner[i], outer[i])

    model, optimizer = begun()
    live = loops.tuner(model, optimizer)
    go_on(model, optimizer, live, range(13))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "tuner": live.state_dict()}, file)
    go_on(model, optimizer, live, range(13, 20))
    for early in (True, False):
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again, its = begun()
        if early:
            other = loops.tuner(again, its)
            other.load_state_dict(saved["tuner"])
        again.load_state_dict(saved["model"])
        its.load_state_dict(saved["optimizer"])
        if not early:
            other = loops.tuner(again, its, state=saved["tuner"])
        go_on(again, its, other, range(13, 20))
        pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert all(torch.equal(live.values()[name], other.values()[name]) for name in loops.SPACES)


def test_a_state_given_out_is_a_copy():
    model = loops.network()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer)
    live.state_dict()["hparams"]["lr"].fill_(7.0)
    assert float(live.values()["lr"]) == pytest.approx(1e-2)


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    model = loops.network()
    rate = torch.tensor(1e-2, dtype=torch.float64)
    optimizer = loops.sgd(model, lr=rate)
    live = loops.tuner(model, optimizer, every=1)
    batch = loops.batches(1)[0]
    loops.step(model, optimizer, live, batch, batch)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == float(live.values()["lr"]) != 1e-2


def test_frozen_params_are_left_alone_and_may_be_in_the_optimizer():
    model = loops.network()
    model[0].requires_grad_(False)
    kept = model[0].weight.clone()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, every=1)
    batch = loops.batches(1)[0]
    assert loops.step(model, optimizer, live, batch, batch).tuned
    assert torch.equal(model[0].weight, kept)


def test_copies_and_files_of_the_module_hold_no_tuner():
    model = loops.network()
    live = loops.tuner(model, loops.sgd(model))
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded(torch.ones(2, 3, dtype=torch.float64)).shape == (2, 1)
    assert live.values()


def test_the_module_does_not_keep_its_tuner_alive():
    model = loops.network()
    live = loops.tuner(model, loops.sgd(model))
    gone = weakref.ref(live)
    del live
    gc.collect()
    assert gone() is None
    assert model(torch.ones(2, 3, dtype=torch.float64)).shape == (2, 1)


def test_a_loop_that_calls_the_layers_says_where_its_step_begins():
    model = loops.network(noisy=True)
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, inner_loss=lambda model, _, batch: loops.loss(model, None, batch), every=1)
    for batch in loops.batches(3):
        live.before_forward()
        hidden = batch[0]
        for layer in model:
            hidden = layer(hidden)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(hidden, batch[1]).backward()
        live.before_step(batch)
        optimizer.step()
        assert live.after_step(batch).tuned


def test_a_loop_that_passes_over_a_batch_says_where_its_step_begins():
    model = loops.network(noisy=True)
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, every=1)
    for batch in loops.batches(3):
        live.before_forward()
        loops.loss(model, None, batch)  # leads to no step
        live.before_forward()
        assert loops.step(model, optimizer, live, batch, batch).tuned


def test_a_guard_skips_a_hyper_step_that_is_not_finite():
    model = loops.network()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, every=1, guard=Guard())
    batch = loops.batches(1)[0]
    info = loops.step(model, optimizer, live, batch, (batch[0], batch[1] * float("nan")))
    assert info.event == ng.Event.SKIPPED
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)
    assert loops.step(model, optimizer, live, batch, batch).event == ng.Event.NONE
    assert optimizer.param_groups[0]["lr"] != pytest.approx(1e-2, rel=1e-3)
