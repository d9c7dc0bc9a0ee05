"""Functional update rules: torch.optim's numbers, derivatives in all that they are given, schedules and clipping."""

import functools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import nestgrad_torch as ng
from nestgrad import tree
from nestgrad_torch import optim

SHAPES = [(), (5,), (2, 3)]
LIMIT = 1e-12

TWINS = {
    "nesterov": (
        lambda: optim.sgd(0.03, 0.9, 0.01, nesterov=True),
        functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "dampening": (
        lambda: optim.sgd(0.03, 0.9, 0.01, 0.3),
        functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=0.01, dampening=0.3),
    ),
    "adam": (
        lambda: optim.adam(0.01, 0.8, 0.95, 1e-4, 0.02),
        functools.partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.02),
    ),
    "adamw": (
        lambda: optim.adamw(0.01, 0.8, 0.95, 1e-4, 0.02),
        functools.partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.02),
    ),
    "rmsprop": (
        lambda: optim.rmsprop(0.01, 0.9, 1e-4, 0.5, 0.02),
        functools.partial(torch.optim.RMSprop, lr=0.01, alpha=0.9, eps=1e-4, momentum=0.5, weight_decay=0.02),
    ),
    "rmsprop, centered": (
        lambda: optim.rmsprop(0.01, 0.9, 1e-4, centered=True),
        functools.partial(torch.optim.RMSprop, lr=0.01, alpha=0.9, eps=1e-4, centered=True),
    ),
    "adagrad": (
        lambda: optim.adagrad(0.1, 1e-6, 0.02, 0.01, 0.1),
        functools.partial(
            torch.optim.Adagrad, lr=0.1, eps=1e-6, weight_decay=0.02, lr_decay=0.01, initial_accumulator_value=0.1
        ),
    ),
}


def draw(shapes=SHAPES, dtype=torch.float64):
    return {f"{i}": torch.randn(shape, dtype=dtype) for i, shape in enumerate(shapes)}


def twin_step(optimizer, twins, grads):
    for name, twin in twins.items():
        twin.grad = grads[name].clone()
    optimizer.step()


def moved(rule, grads, state, params):
    if hasattr(rule, "step"):
        return rule.step(grads, state, params)
    updates, state = rule.update(grads, state, params)
    return tree.map(torch.add, params, updates), state


def close(found, wanted):
    return all(torch.allclose(found[n], wanted[n], rtol=LIMIT, atol=LIMIT) for n in wanted)


@pytest.mark.parametrize("name", TWINS)
def test_a_hundred_steps_equal_torch_optim(name):
    make, twin = TWINS[name]
    rule, params = make(), draw()
    twins = {n: p.clone() for n, p in params.items()}
    optimizer, state = twin(list(twins.values())), rule.init(params)
    for _ in range(100):
        grads = draw()
        params, state = moved(rule, grads, state, params)
        twin_step(optimizer, twins, grads)
        assert close(params, twins)


@pytest.mark.parametrize("name", ["nesterov", "dampening"])
def test_sgd_steps_equal_torch_optim_bit_for_bit(dtype, name):
    make, twin = TWINS[name]
    rule, params = make(), draw(dtype=dtype)
    twins = {n: p.clone() for n, p in params.items()}
    optimizer, state = twin(list(twins.values())), rule.init(params)
    for _ in range(20):
        grads = draw(dtype=dtype)
        params, state = rule.step(grads, state, params)
        twin_step(optimizer, twins, grads)
        assert all(torch.equal(params[n], twins[n]) for n in twins)


@pytest.mark.parametrize("start", [0, 10])
@pytest.mark.parametrize("name", TWINS)
def test_torch_optim_goes_on_where_the_rule_stopped(name, start):
    make, twin = TWINS[name]
    rule, params = make(), draw()
    twins = {n: p.clone() for n, p in params.items()}
    optimizer, state = twin(list(twins.values())), rule.init(params)
    for _ in range(start):
        grads = draw()
        params, state = moved(rule, grads, state, params)
        twin_step(optimizer, twins, grads)
    kept = [x.clone() for x in tree.leaves(state) if isinstance(x, torch.Tensor)]
    plain = rule.torch_optimizer(params, state)
    assert type(plain) is twin.func
    for _ in range(10):
        grads = draw()
        twin_step(plain, params, grads)
        twin_step(optimizer, twins, grads)
        assert close(params, twins)
    left = [x for x in tree.leaves(state) if isinstance(x, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(kept, left, strict=True))


def test_what_torch_optim_cannot_hold_is_refused_by_name():
    params = draw()
    spread = {n: torch.rand_like(p) for n, p in params.items()}
    for rule in (optim.adam(0.1, spread), optim.rmsprop(0.1, 0.9, spread), optim.adagrad(spread)):
        with pytest.raises(ng.UnsupportedOptimizer, match=r"3 values, limit: 1.*Remedy"):
            rule.torch_optimizer(params, rule.init(params))
    rule = optim.sgd(0.1, dampening=0.3)
    with pytest.raises(ng.UnsupportedOptimizer, match=r"dampening: 0.3 with momentum 0.*Remedy"):
        rule.torch_optimizer(params, rule.init(params))
    with pytest.raises(ng.InvalidInput, match=r"nesterov=True with dampening 0.3.*Remedy"):
        optim.sgd(0.1, 0.9, dampening=0.3, nesterov=True)


def test_dampening_acts_from_the_second_step_without_momentum_too():
    params, grads = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, -2.0])}
    rule = optim.sgd(0.5, dampening=0.25)
    first, state = rule.update(grads, rule.init(params), params)
    second, _ = rule.update(grads, state, params)
    assert torch.equal(first["w"], -0.5 * grads["w"])
    assert torch.equal(second["w"], -0.375 * grads["w"])


def test_lion_follows_its_paper():
    params, lr, b1, b2, decay = draw(), 0.03, 0.8, 0.95, 0.1
    rule = optim.lion(lr, b1, b2, decay)
    state, by_hand, m = rule.init(params), dict(params), {n: torch.zeros_like(p) for n, p in params.items()}
    for _ in range(100):
        grads = draw()
        params, state = moved(rule, grads, state, params)
        for n, g in grads.items():
            c = b1 * m[n] + (1 - b1) * g
            by_hand[n] = by_hand[n] - lr * (torch.sign(c) + decay * by_hand[n])
            m[n] = b2 * m[n] + (1 - b2) * g
        assert close(params, by_hand)


SETTINGS = {
    "sgd": (functools.partial(optim.sgd, nesterov=True), [0.1, 0.9, 0.01]),
    "sgd, damped": (optim.sgd, [0.1, 0.9, 0.01, 0.3]),
    "adam": (optim.adam, [0.1, 0.8, 0.9, 1e-2, 0.01]),
    "adamw": (optim.adamw, [0.1, 0.8, 0.9, 1e-2, 0.01]),
    "rmsprop": (optim.rmsprop, [0.1, 0.8, 1e-2, 0.5, 0.01]),
    "rmsprop, centered": (functools.partial(optim.rmsprop, centered=True), [0.1, 0.8, 1e-2, 0.5, 0.01]),
    "adagrad": (functools.partial(optim.adagrad, initial_accumulator=0.1), [0.1, 1e-2, 0.01, 0.1]),
    "lion": (optim.lion, [0.1, 0.8, 0.9, 0.01]),
    "clipped": (lambda lr, mu, norm: optim.clipped(optim.sgd(lr, mu), norm), [0.1, 0.9, 0.5]),
    "cosine": (lambda lr, n, low, mu: optim.sgd(optim.cosine(lr, n, low), mu), [0.1, 7.0, 0.2, 0.9]),
}


def update_of(name, state, shapes):
    """The tensors that one update makes, as a function of settings, params and gradients."""
    make, settings = SETTINGS[name]

    def run(*flat):
        rest = flat[len(settings) :]
        rule = make(*flat[: len(settings)])
        updates, after = rule.update(list(rest[len(shapes) :]), state, list(rest[: len(shapes)]))
        return [x for x in tree.leaves([updates, after]) if isinstance(x, torch.Tensor) and x.requires_grad]

    return run


@pytest.mark.parametrize("check", [gradcheck, functools.partial(gradgradcheck, atol=1e-5)], ids=["first", "second"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_update_has_first_and_second_derivatives_in_all_that_it_is_given(check, name):
    shapes = [(), (2,)]
    make, settings = SETTINGS[name]
    params, grads = ([torch.randn(s, dtype=torch.float64) for s in shapes] for _ in range(2))
    rule = make(*settings)
    _, state = rule.update(grads, rule.init(params), params)
    state = tree.map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, state)
    numbers = [torch.tensor(x, dtype=torch.float64) for x in settings]
    inputs = [x.clone().requires_grad_() for x in (*numbers, *params, *grads)]
    assert check(update_of(name, state, shapes), inputs, rtol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_derivatives_at_exactly_zero_gradients_are_finite(dtype, name):
    make, settings = SETTINGS[name]
    params = [torch.zeros(3, dtype=dtype)]
    rule = make(*settings)
    numbers = [torch.tensor(x, dtype=dtype) for x in settings]
    inputs = [x.clone().requires_grad_() for x in (*numbers, *params, torch.zeros(3, dtype=dtype))]
    found = update_of(name, rule.init(params), [(3,)])(*inputs)
    first = torch.autograd.grad(
        found, inputs, [torch.ones_like(x) for x in found], create_graph=True, allow_unused=True
    )
    first = [x for x in first if x is not None and x.requires_grad]
    assert all(bool(x.isfinite().all()) for x in first)
    second = torch.autograd.grad(first, inputs, [torch.ones_like(x) for x in first], allow_unused=True)
    assert all(bool(x.isfinite().all()) for x in second if x is not None)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("clipped", "cosine")])
def test_settings_a_weight_equal_one_setting_and_may_be_mixed(name):
    make, settings = SETTINGS[name]
    params, grads = draw(), draw()
    ends = []
    for spread in (
        lambda x: x,
        lambda x: {n: torch.tensor(x, dtype=torch.float64) for n in params},
        lambda x: {n: torch.full_like(p, x) for n, p in params.items()},
    ):
        rule = make(*map(spread, settings))
        state, end = rule.init(params), params
        for _ in range(3):
            end, state = moved(rule, grads, state, end)
        ends.append(end)
    assert close(ends[1], ends[0])
    assert close(ends[2], ends[0])


@pytest.mark.parametrize("name", SETTINGS)
def test_all_weights_in_one_vector_move_as_they_do_apart(name):
    make, settings = SETTINGS[name]
    params, grads = draw(), draw()
    rule = make(*settings)
    _, state = rule.update(grads, rule.init(params), params)
    apart, _ = rule.update(grads, state, params)
    row = [torch.cat([x.reshape(-1) for x in tensors.values()]) for tensors in (grads, params, apart)]
    together, _ = rule.update(row[0], rule.flat_state(state), row[1])
    assert torch.allclose(together, row[2], rtol=LIMIT, atol=LIMIT)


def test_piecewise_constant_is_the_value_between_its_boundaries():
    schedule = optim.piecewise_constant([2, 5], [0.3, 0.2, 0.1])
    assert [schedule(count) for count in (0, 1, 2, 4, 5, 9)] == [0.3, 0.3, 0.2, 0.2, 0.1, 0.1]
    assert [float(schedule(torch.tensor(count))) for count in (0, 1, 2, 4, 5, 9)] == [0.3, 0.3, 0.2, 0.2, 0.1, 0.1]
    with pytest.raises(ng.InvalidInput, match=r"2 values for boundaries \[2, 5\], limit: 3 values"):
        optim.piecewise_constant([2, 5], [0.3, 0.2])


def test_cosine_falls_from_its_start_to_its_share():
    schedule = optim.cosine(0.4, 8, 0.25)
    wanted = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    plan = wanted(optimizer, T_max=8, eta_min=0.1)
    for count in range(9):
        assert abs(schedule(count) - optimizer.param_groups[0]["lr"]) < 1e-12
        assert abs(float(schedule(torch.tensor(count))) - schedule(count)) < 1e-15
        optimizer.step()
        plan.step()
    assert schedule(20) == pytest.approx(0.1, abs=1e-15)


def test_a_rule_follows_its_schedule():
    params, grads = draw(), draw()
    rule = optim.adamw(optim.piecewise_constant([1], [0.1, 0.01]), weight_decay=0.1)
    state, inner = rule.init(params), optim.adamw(0.1, weight_decay=0.1).init(params)
    for count, rate in enumerate((0.1, 0.01, 0.01)):
        assert state["count"] == count
        found, state = rule.update(grads, state, params)
        wanted, inner = optim.adamw(rate, weight_decay=0.1).update(grads, inner, params)
        assert close(found, wanted)


def test_clipping_equals_torch_clip_grad_norm():
    params, grads = draw(), draw()
    held = [g.clone().requires_grad_() for g in grads.values()]
    for x in held:
        x.grad = x.detach().clone()
    torch.nn.utils.clip_grad_norm_(held, 0.5)
    found, _ = optim.clipped(optim.sgd(1.0), 0.5).update(grads, {"trace": None}, params)
    assert close(found, {n: -x.grad for n, x in zip(grads, held, strict=True)})
    whole, _ = optim.clipped(optim.sgd(1.0), 1e3).update(grads, {"trace": None}, params)
    assert all(torch.equal(whole[n], -g) for n, g in grads.items())


PROGRAMS = {
    "damped": lambda h: optim.sgd(h["lr"], 0.5, dampening=0.3),
    "adamw": lambda h: optim.adamw(h["lr"], 0.8, 0.9, 1e-3),
    "adagrad": lambda h: optim.adagrad(h["lr"], lr_decay=0.1, initial_accumulator=0.1),
    "pieces": lambda h: optim.clipped(optim.rmsprop(optim.piecewise_constant([1, 3], [0.1, h["lr"], 0.01])), 0.5),
    "cosine": lambda h: optim.sgd(optim.cosine(h["lr"], 5), 0.5),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_traced_programs_follow_rules_with_counts(monkeypatch, name):
    monkeypatch.setattr("nestgrad_torch._compile.programs.CANDIDATES", ("traced",))
    x, y = torch.randn(8, 3), torch.randn(8)

    def loss(params, hparams, batch):
        return ((batch[0] @ params["w"] - batch[1]) ** 2).mean()

    ends = []
    for compiled in (False, True):
        tuner = ng.OnePass(
            ng.BilevelProblem(ng.WeightUpdate(loss, PROGRAMS[name]), loss),
            hparams={"lr": ng.Log10(0.05)},
            every=2,
            method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)),
            outer_optimizer=functools.partial(torch.optim.Adam, lr=0.05),
            compile=compiled,
        )
        state = tuner.init({"w": torch.ones(3)})
        for _ in range(6):
            state, _ = tuner.step(state, (x, y), (x, y))
        ends.append((state["params"]["w"], state["hparams"]["lr"]))
    for eager, traced in zip(*ends, strict=True):
        assert torch.allclose(eager, traced, rtol=1e-5, atol=1e-6)
