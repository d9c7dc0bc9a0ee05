"""Functional SGD: torch.optim.SGD's own numbers, differentiable in every setting."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import nestgrad_torch as ng
from nestgrad_torch.optim import SGD, sgd

SHAPES = [(), (1,), (7,), (33,), (257,), (3, 5), (2, 3, 4)]
SETTINGS = [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)]


def draw(dtype, shapes=SHAPES):
    return {f"{i}": torch.randn(shape, dtype=dtype) for i, shape in enumerate(shapes)}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in right)


def torch_twin(params, settings, **more):
    twins = {name: p.clone() for name, p in params.items()}
    lr, momentum, decay = (float(x) for x in settings)
    return twins, torch.optim.SGD(list(twins.values()), lr=lr, momentum=momentum, weight_decay=decay, **more)


def take_step(optimizer, twins, grads):
    for name, twin in twins.items():
        twin.grad = grads[name].clone()
    optimizer.step()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("as_tensors", [False, True], ids=["floats", "tensors"])
def test_a_hundred_steps_equal_torch_optim_bit_for_bit(dtype, settings, as_tensors):
    settings = (0.013, *settings)
    if as_tensors:
        settings = tuple(torch.tensor(x, dtype=dtype) for x in settings)
    params = draw(dtype)
    twins, optimizer = torch_twin(params, settings)
    rule = sgd(*settings)
    state = rule.init(params)
    for _ in range(100):
        grads = draw(dtype)
        params, state = rule.step(grads, state, params)
        take_step(optimizer, twins, grads)
        assert equal(params, twins)


def test_step_changes_nothing_in_place(dtype):
    rule = sgd(0.1, momentum=0.9, weight_decay=0.01)
    params, grads = draw(dtype), draw(dtype)
    _, state = rule.step(grads, rule.init(params), params)
    kept = [{n: t.clone() for n, t in held.items()} for held in (params, grads, state["trace"])]
    rule.step(grads, state, params)
    rule.update(grads, state, params)
    assert all(equal(a, b) for a, b in zip((params, grads, state["trace"]), kept, strict=True))


@pytest.mark.parametrize("setting", ["learning_rate", "momentum", "weight_decay"])
def test_a_setting_a_parameter_equals_a_loop_by_hand(dtype, setting):
    params, scalars = draw(dtype), {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.05}
    spread = {name: torch.rand_like(p) for name, p in params.items()}
    by_hand = {name: p.double() for name, p in params.items()}
    trace = {name: torch.zeros_like(p) for name, p in by_hand.items()}
    rule = SGD(**{**scalars, setting: spread})
    state = rule.init(params)
    for _ in range(5):
        grads = draw(dtype)
        params, state = rule.step(grads, state, params)
        for name, w in by_hand.items():
            rate, mu, decay = ({**scalars, setting: spread[name].double()}[key] for key in scalars)
            trace[name] = mu * trace[name] + grads[name].double() + decay * w
            by_hand[name] = w - rate * trace[name]
    tolerance = 20 * torch.finfo(dtype).eps
    assert all(torch.allclose(params[n].double(), w, rtol=tolerance, atol=tolerance) for n, w in by_hand.items())


def test_a_rate_a_tensor_may_be_0d(dtype):
    params, grads = draw(dtype, [(3,), (2, 2)]), draw(dtype, [(3,), (2, 2)])
    rates = {"0": torch.tensor(0.1, dtype=dtype), "1": torch.tensor(0.5, dtype=dtype)}
    rule = sgd(rates)
    moved, _ = rule.step(grads, rule.init(params), params)
    for name, rate in rates.items():
        alone, _ = sgd(float(rate)).step({name: grads[name]}, {"trace": None}, {name: params[name]})
        assert torch.equal(moved[name], alone[name])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_update_differs_from_step_by_the_rounding_of_one_addition(dtype, settings):
    rule = sgd(0.1, *settings)
    params, grads = draw(dtype), draw(dtype)
    _, state = rule.step(grads, rule.init(params), params)
    moved, by_step = rule.step(grads, state, params)
    updates, by_update = rule.update(grads, state, params)
    for name, w in params.items():
        gap = (w + updates[name] - moved[name]).abs()
        assert (gap <= torch.finfo(dtype).eps * (updates[name].abs() + moved[name].abs())).all()
    if by_step["trace"] is not None:
        assert equal(by_step["trace"], by_update["trace"])


def test_update_takes_all_weights_in_one_vector(dtype):
    rule = sgd(torch.tensor(0.1, dtype=dtype), momentum=0.9, weight_decay=0.01)
    params, grads = draw(dtype), draw(dtype)
    _, state = rule.step(grads, rule.init(params), params)
    updates, _ = rule.update(grads, state, params)
    row = [torch.cat([t.reshape(-1) for t in tensors.values()]) for tensors in (grads, params, updates)]
    in_one, _ = rule.update(row[0], rule.flat_state(state), row[1])
    assert torch.equal(in_one, row[2])
    assert sgd({"0": torch.ones(())}).flat_state({"trace": None}) is None


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("spread", [False, True], ids=["scalar", "per-parameter"])
def test_update_is_differentiable_in_every_setting_and_argument(check, spread):
    shapes = [(3,), (), (2, 2)]
    params, grads, trace = (list(draw(torch.float64, shapes).values()) for _ in range(3))
    settings = [torch.tensor(x, dtype=torch.float64) for x in (0.1, 0.9, 0.01)]
    rates = [torch.rand_like(p) for p in params] if spread else [settings[0]]
    inputs = [t.requires_grad_() for t in (*rates, settings[1], settings[2], *params, *grads)]

    def moves(*flat):
        rate, rest = (list(flat[:3]), flat[3:]) if spread else (flat[0], flat[1:])
        rule = sgd(rate, rest[0], rest[1])
        updates, state = rule.update(list(rest[5:]), {"trace": trace}, list(rest[2:5]))
        return (*updates, *state["trace"])

    assert check(moves, inputs)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_torch_optimizer_goes_on_bit_for_bit(dtype, settings):
    settings = tuple(torch.tensor(x, dtype=dtype) for x in (0.05, *settings))
    rule = sgd(*settings)
    params = draw(dtype)
    state = rule.init(params)
    for _ in range(10):
        params, state = rule.step(draw(dtype), state, params)
    twins = {name: p.clone() for name, p in params.items()}
    optimizer = rule.torch_optimizer(twins, state)
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert [group[key] for key in ("lr", "momentum", "weight_decay")] == [float(x) for x in settings]
    handed, kept = state["trace"], {n: t.clone() for n, t in state["trace"].items()}
    for _ in range(10):
        grads = draw(dtype)
        take_step(optimizer, twins, grads)
        params, state = rule.step(grads, state, params)
        assert equal(params, twins)
    assert equal(handed, kept)


@pytest.mark.parametrize("setting", ["learning_rate", "momentum", "weight_decay"])
def test_a_setting_a_parameter_has_no_torch_optimizer(setting):
    params = draw(torch.float64, [(3,), (2,)])
    spread = {name: torch.rand_like(p) for name, p in params.items()}
    rule = SGD(**{"learning_rate": 0.1, setting: spread})
    with pytest.raises(ng.UnsupportedOptimizer, match=rf"{setting}: 2 values, limit: 1.*Remedy"):
        rule.torch_optimizer(params, rule.init(params))


@pytest.mark.parametrize("wrong", [torch.ones(2), 0.5, torch.ones(3, 1)], ids=["shape", "float", "rank"])
def test_a_setting_of_another_shape_is_refused_by_name(wrong):
    params = {"w": torch.ones(3)}
    with pytest.raises(ng.InvalidInput, match=r"learning_rate\['w'\].*limit: shape \(\) or \(3,\).*Remedy"):
        sgd({"w": wrong}).update(params, {"trace": None}, params)


def test_a_setting_for_other_params_is_refused_by_name():
    params = {"w": torch.ones(3)}
    with pytest.raises(ng.InvalidInput, match="'v'"):
        sgd({"v": torch.ones(3)}).update(params, {"trace": None}, params)
