"""Programs: the same numbers as the eager form for whatever may be traced, and a name for what may not."""

import pytest
import torch
from torch import nn

import nestgrad_torch as ng
from nestgrad_torch._compile import programs

D = torch.float64


@pytest.fixture
def form(monkeypatch):
    """Choose the form that programs take, without measuring."""
    return lambda *names: monkeypatch.setattr(programs, "CANDIDATES", names)


@pytest.fixture(autouse=True)
def _traced(form):
    form("traced")


def params():
    return {"w": torch.randn(4, 3, dtype=D), "b": torch.randn(3, dtype=D)}


def hparams():
    return {"decay": torch.randn(4, 3, dtype=D), "gain": torch.tensor(0.3, dtype=D), "lr": torch.tensor(0.05, dtype=D)}


def batch(rows=7):
    return torch.randn(rows, 4, dtype=D), torch.randn(rows, 3, dtype=D)


def error(p, h, data):
    return ((torch.tanh(data[0] @ p["w"] + p["b"]) - data[1]) ** 2).mean()


def loss(p, h, data):
    return error(p, h, data) + (torch.exp(h["decay"]) * p["w"] ** 2).sum() + torch.exp(h["gain"]) * (p["b"] ** 2).sum()


def outer(p, h, data):
    return error(p, h, data) + h["gain"] ** 2 + 0.1 * h["lr"] * p["w"].sum()


def step(p, h, data):
    slope = torch.func.grad(loss)(p, h, data)
    return {name: p[name] - h["lr"] * slope[name] for name in p}


def sgd(h):
    return ng.optim.sgd(h["lr"], momentum=0.5)


SERIES = ng.Implicit(solver=ng.Neumann(num_terms=4, step_size=0.05))
INNERS = {
    "minimize": ng.Minimize(loss),
    "update": ng.WeightUpdate(loss, sgd),
    "whole": ng.WeightUpdate(loss, lambda h: ng.optim.adam(h["lr"]), carry="weights_and_state"),
    "fixed": ng.FixedPoint(step),
    "root": ng.Root(torch.func.grad(loss)),
    "proximal": ng.ProximalGradient(loss, lambda h: ng.prox.lasso(torch.exp(h["gain"])), 0.05),
}
METHODS = {
    "neumann": SERIES,
    "damped": ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.05), damping=0.1),
    "identity": ng.Implicit(solver=ng.Identity(scale=0.5)),
}
PAIRS = [(inner, method) for inner in INNERS for method in METHODS if inner == "minimize" or method == "neumann"]
CASES = {f"{inner} {method}": (INNERS[inner], METHODS[method]) for inner, method in PAIRS} | {
    "cg": (INNERS["minimize"], ng.Implicit(solver=ng.CG(rtol=0.0, max_steps=3))),
    "unrolled": (INNERS["update"], ng.Unrolled(num_steps=4)),
    "checkpointed": (INNERS["whole"], ng.Unrolled(num_steps=4, lookback=3, checkpoint_every=2)),
    "unrolled map": (INNERS["fixed"], ng.Unrolled(num_steps=3)),
}


def same(a, b, rtol=1e-12):
    rows = zip(ng.tree.leaves(a), ng.tree.leaves(b), strict=True)
    return all(torch.allclose(x, y, rtol=rtol, atol=1e-13) for x, y in rows)


def agree(a, b):
    figures = zip(vars_of(a.stats), vars_of(b.stats), strict=True)
    return (
        all(same(getattr(a, name), getattr(b, name)) for name in ("total", "direct", "indirect", "adjoint", "params"))
        and same(a.outer_loss, b.outer_loss)
        and a.status is b.status
        and all(x == pytest.approx(y, rel=1e-9, nan_ok=True) for x, y in figures)
    )


def vars_of(stats):
    return [getattr(stats, name) for name in stats.__dataclass_fields__]


def both(inner, method, w=None, h=None, train=None, valid=None, **more):
    """(eager, from a program) for one problem."""
    given = {"method": method, "inner_batch": train or batch(), "outer_batch": valid or batch(5), **more}
    problem = ng.BilevelProblem(inner=inner, outer_loss=outer)
    w, h = w or params(), h or hparams()
    return tuple(ng.hypergradient(problem, w, h, **given, compile=flag, throw=False) for flag in (False, True))


@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_the_eager_numbers_for_whatever_it_is_given(name):
    inner, method = CASES[name]
    assert agree(*both(inner, method))
    made = len(ng.compiled_programs())
    assert agree(*both(inner, method))  # other params, hparams and batches, the same program
    assert len(ng.compiled_programs()) == made
    assert agree(*both(inner, method, train=batch(9)))  # another shape, another program
    assert len(ng.compiled_programs()) == made + 1


def test_a_warm_start_is_an_input():
    method = ng.Implicit(solver=ng.CG(rtol=0.0, max_steps=2))
    for _ in range(2):
        eager, program = both(INNERS["minimize"], method, warm_start=params())
        assert agree(eager, program)


def test_the_compiled_form_gives_the_eager_numbers(form):
    form("eager", "traced", "inductor")
    inner, method = INNERS["minimize"], ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.125))
    assert agree(*both(inner, method, train=batch(8)))
    (made,) = [p for p in ng.compiled_programs() if "step_size=0.125" in p.title and len(p.seconds) > 1]
    assert set(made.seconds) == {"eager", "traced", "inductor"}
    assert made.seconds[made.chosen] == min(made.seconds.values())


@pytest.mark.slow
def test_a_short_program_in_cpp_gives_the_eager_numbers_for_other_values(form):
    form("inductor", "inductor, all in C++")
    inner, method = INNERS["minimize"], ng.Implicit(solver=ng.Identity(scale=0.125))
    for _ in range(2):
        assert agree(*both(inner, method, train=batch(6)))
    (made,) = [p for p in ng.compiled_programs() if "scale=0.125" in p.title]
    assert set(made.seconds) == {"inductor", "inductor, all in C++"}


def test_a_missing_compiler_leaves_the_trace_and_warns(form, monkeypatch):
    import torch._inductor

    def failing(*args, **more):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch._inductor, "compile", failing)
    form("traced", "inductor")
    with pytest.warns(ng.NestgradWarning, match=r"0 of 1 programs compiled.*limit: 1.*Remedy"):
        assert agree(*both(INNERS["minimize"], SERIES, train=batch(10)))


def test_a_failed_status_is_the_same_error():
    method = ng.Implicit(solver=ng.Neumann(num_terms=9, step_size=50.0))
    given = {"method": method, "inner_batch": batch(), "outer_batch": batch()}
    problem, messages = ng.BilevelProblem(inner=INNERS["minimize"], outer_loss=outer), []
    w, h = params(), hparams()
    for flag in (False, True):
        with pytest.raises(ng.NeumannDivergence) as caught:
            ng.hypergradient(problem, w, h, **given, compile=flag)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_zero_derivative_is_the_same_warning():
    def flat(p, h, data):
        return loss(p, h, data) + 0.0 * h["lr"] * p["w"].sum()

    problem = ng.BilevelProblem(inner=ng.Minimize(flat), outer_loss=error)
    with pytest.warns(ng.ZeroHypergradient, match="hparams.'lr'.*exactly 0"):
        ng.hypergradient(
            problem, params(), hparams(), method=SERIES, inner_batch=batch(), outer_batch=batch(), compile=True
        )


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.4), nn.Tanh(), nn.Linear(5, 3)).to(D)


def of_module(p, h, data):
    return ((p(data[0]) - data[1]) ** 2).mean() + torch.exp(h["decay"]) * sum((x**2).sum() for x in p.values())


@pytest.mark.parametrize("method", [SERIES, ng.Unrolled(num_steps=3)], ids=["series", "unrolled"])
def test_a_module_in_either_mode_keeps_its_buffers_and_the_generator(method):
    net, train, valid = network(), batch(), batch()
    inner = ng.Minimize(of_module) if method is SERIES else ng.WeightUpdate(of_module, lambda h: ng.optim.sgd(0.05))
    problem = ng.BilevelProblem(inner=inner, outer_loss=of_module)

    def call(flag):
        torch.manual_seed(5)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        found = ng.hypergradient(
            problem,
            net,
            {"decay": -1.0},
            method=method,
            inner_batch=train,
            outer_batch=valid,
            compile=flag,
            throw=False,
        )
        drawn = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(drawn, torch.rand(3))
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        return found

    for training in (True, False, True):
        net.train(training)
        with torch.no_grad():
            net[0].weight.mul_(1.1)
            net[1].running_mean.add_(0.1)
        assert agree(call(flag=False), call(flag=True))
    assert any(p.random for p in ng.compiled_programs())


def test_the_modes_of_a_module_that_a_loss_holds_are_seen():
    noise = nn.Dropout(0.5)
    inner = ng.Minimize(lambda p, h, data: loss(p, h, (noise(data[0]), data[1])))
    w, h, train, valid = params(), hparams(), batch(), batch()
    found = [both(inner, SERIES, w, h, train, valid)[1] for _ in [noise.train(), noise.eval()]]
    noise.train()
    torch.manual_seed(0)
    first = both(inner, SERIES, w, h, train, valid)[1]
    noise.eval()
    second = both(inner, SERIES, w, h, train, valid)[1]
    assert not same(first.total["decay"], second.total["decay"], rtol=1e-3)
    assert agree(both(inner, SERIES, w, h, train, valid)[0], second)
    del found


def test_tensors_that_a_loss_holds_are_seen_when_they_change_in_place(form):
    scale = torch.ones(3, dtype=D)
    inner = ng.Minimize(lambda p, h, data: loss(p, h, data) + (scale * p["b"] ** 2).sum())
    for candidate, rows in (("traced", 7), ("inductor", 11)):
        form(candidate)
        for _ in range(2):
            assert agree(*both(inner, SERIES, train=batch(rows)))
            scale.mul_(2.0)


def test_constants_of_a_batch_are_told_apart_by_value():
    inner = ng.Minimize(lambda p, h, data: data["power"] * loss(p, h, (data["x"], data["y"])))
    x, y = batch()
    for power in (1.0, 2.0, 1):
        assert agree(*both(inner, SERIES, train={"x": x, "y": y, "power": power}))


def used():
    return {name: value for name, value in hparams().items() if name != "lr"}


def branching(p, h, data):
    return loss(p, h, data) * (2.0 if p["w"].sum() > 0 else 1.0)


def listing(p, h, data):
    return loss(p, h, data) * data[0].detach().tolist()[0][0]


def through_numpy(p, h, data):
    return loss(p, h, data) * float(data[0].numpy().mean())


def selecting(p, h, data):
    return (p["w"][p["w"] > 0]).sum() + loss(p, h, data)


@pytest.mark.parametrize("written", [branching, listing, through_numpy, selecting])
@pytest.mark.parametrize("level", ["inner loss", "outer_loss"])
def test_a_loss_that_reads_values_is_refused_by_name(written, level):
    inner, end = (written, loss) if level == "inner loss" else (loss, written)
    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=end)
    with pytest.raises(ng.UnsupportedSpec, match=rf"{level} reads a tensor's value.*limit: 0.*Remedy: torch.where"):
        ng.hypergradient(
            problem, params(), used(), method=SERIES, inner_batch=batch(), outer_batch=batch(), compile=True
        )


REFUSED = {
    "tolerance": (ng.Minimize(loss), ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=9)), {}, r"Remedy: rtol=0\.0"),
    "gmres": (ng.Minimize(loss), ng.Implicit(solver=ng.GMRES(rtol=0.0, max_steps=3)), {}, "GMRES, whose loop.*CG"),
    "probe": (INNERS["update"], ng.Implicit(solver=ng.CG(rtol=0.0, max_steps=3)), {}, "CG on WeightUpdate.*Neumann"),
    "darts": (ng.Minimize(loss), ng.DARTS(step_size=0.1), {}, "DARTS.*Implicit"),
    "forward": (INNERS["update"], ng.Unrolled(num_steps=2, mode="forward"), {}, "mode='reverse'"),
    "preconditioner": (
        ng.Minimize(loss),
        ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.1)),
        {"preconditioner": {"w": torch.ones(4, 3, dtype=D), "b": torch.ones(3, dtype=D)}},
        "preconditioner given",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_program_is_refused_by_name(name):
    inner, method, more, words = REFUSED[name]
    problem = ng.BilevelProblem(inner=inner, outer_loss=outer)
    with pytest.raises(ng.UnsupportedSpec, match=words) as caught:
        ng.hypergradient(
            problem, params(), hparams(), method=method, inner_batch=batch(), outer_batch=batch(), compile=True, **more
        )
    assert all(word in str(caught.value) for word in ("limit", "Remedy", "compile=False"))


def made_anew():
    return lambda p, h, data: loss(p, h, data) + 0.0


def test_losses_made_anew_at_every_call_are_noticed():
    given = {"method": SERIES, "inner_batch": batch(), "outer_batch": batch(), "compile": True}

    def call():
        problem = ng.BilevelProblem(inner=ng.Minimize(made_anew()), outer_loss=outer)
        ng.hypergradient(problem, params(), hparams(), **given)

    for _ in range(3):
        call()
    with pytest.warns(ng.Recompilation, match="4 programs for the same shapes"):
        call()


def test_a_loss_that_writes_into_its_batch_is_refused():
    def writing(p, h, data):
        data[0].mul_(2.0)
        return loss(p, h, data)

    data = batch()
    kept = data[0].clone()
    problem = ng.BilevelProblem(inner=ng.Minimize(writing), outer_loss=outer)
    with pytest.raises(ng.InvalidInput, match=r"changes one of its arguments in place, limit: 0 .*Remedy"):
        ng.hypergradient(
            problem, params(), hparams(), method=SERIES, inner_batch=data, outer_batch=batch(), compile=True
        )
    assert torch.equal(data[0], kept)


def test_random_operations_draw_from_the_callers_generator():
    inner = ng.Minimize(lambda p, h, data: loss(p, h, data) + (torch.rand(3, dtype=D) * p["b"] ** 2).sum())
    given = (params(), hparams(), batch(), batch())
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(both(inner, SERIES, *given))
    assert all(agree(*pair) for pair in results)
    assert agree(results[0][1], results[1][1])
    assert not same(results[0][1].total["decay"], results[2][1].total["decay"])
