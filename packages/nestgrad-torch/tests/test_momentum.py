"""Complex, aggregated, recurrently linked momentum, complex Adam, optimistic descent; the torch.optim drop-ins."""

import cmath
import copy
import math

import pytest
import torch
from torch.autograd import gradcheck

import nestgrad_torch as ng
from nestgrad_torch import optim

D = torch.float64
RATE, MODULUS, ARGUMENT = 0.07, 0.8, math.pi / 5
BETA = cmath.rect(MODULUS, ARGUMENT)


def rand(*shape, seed=0):
    return torch.randn(shape or (1,), dtype=D, generator=torch.Generator().manual_seed(seed)).reshape(shape)


def params():
    return {"w": rand(3, 2, seed=1), "deep": [rand(seed=2), rand(4, seed=3)]}


def drawn(step):
    return {"w": rand(3, 2, seed=10 * step), "deep": [rand(seed=10 * step + 1), rand(4, seed=10 * step + 2)]}


def run(rule, steps=25, make=drawn, start=None):
    """The params after each step."""
    w = params() if start is None else start
    state, seen = rule.init(w), []
    for step in range(steps):
        updates, state = rule.update(make(step), state, w)
        w = ng.tree.map(torch.add, w, updates)
        seen.append(w)
    return seen


def distance(one, other):
    rows = zip(ng.tree.leaves(one), ng.tree.matched(one, other)[0], strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in rows)


def test_m1_an_argument_of_zero_is_heavy_ball_and_one_of_pi_negative_momentum():
    for argument, momentum in ((0.0, MODULUS), (math.pi, -MODULUS)):
        found = run(optim.complex_momentum(RATE, MODULUS, argument))
        assert distance(found, run(optim.sgd(RATE, momentum))) < 1e-13


def test_m1_a_modulus_of_zero_is_gradient_descent_bit_for_bit():
    assert distance(run(optim.complex_momentum(RATE, 0.0, 1.0)), run(optim.sgd(RATE))) == 0.0


def test_m2_the_conjugate_takes_the_same_steps():
    found = run(optim.complex_momentum(RATE, MODULUS, -ARGUMENT))
    assert distance(found, run(optim.complex_momentum(RATE, MODULUS, ARGUMENT))) < 1e-14


def by_hand(move):
    """A run of w ← w + move(step, gradients so far), leaf by leaf."""
    w, seen, grads = params(), [], []
    for step in range(25):
        grads.append(drawn(step))
        w = ng.tree.map(lambda x, *gs: x + move(gs), w, *grads)
        seen.append(w)
    return seen


def test_m3_the_real_form_is_the_complex_one():
    def move(grads):
        velocity = torch.zeros_like(grads[0], dtype=torch.complex128)
        for g in grads:
            velocity = BETA * velocity - g
        return RATE * velocity.real

    assert distance(run(optim.complex_momentum(RATE, MODULUS, ARGUMENT)), by_hand(move)) < 1e-13


def test_m4_a_step_is_a_history_weighted_by_cosines():
    def move(grads):
        return -RATE * sum(MODULUS**k * math.cos(k * ARGUMENT) * g for k, g in enumerate(reversed(grads)))

    assert distance(run(optim.complex_momentum(RATE, MODULUS, ARGUMENT)), by_hand(move)) < 1e-13


def test_m5_complex_momentum_is_that_of_a_conjugate_pair_and_a_mixing_that_turns():
    def move(grads):
        pair = [torch.zeros_like(grads[0], dtype=torch.complex128)] * 2
        for g in grads:
            pair = [beta * v - g for beta, v in zip((BETA, BETA.conjugate()), pair, strict=True)]
        return RATE / 2 * (pair[0] + pair[1]).real

    found = run(optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    assert distance(found, by_hand(move)) < 1e-13
    turning = [[BETA.real, -BETA.imag], [BETA.imag, BETA.real]]
    assert distance(found, run(optim.recurrently_linked_momentum(turning, [1.0, 0.0], [RATE, 0.0]))) < 1e-13


def test_m5_aggregated_momentum_is_a_diagonal_mixing_and_one_of_it_heavy_ball():
    momenta = [0.0, 0.9, 0.5]
    found = run(optim.aggregated_momentum(RATE, momenta))
    mixing = torch.diag(torch.tensor(momenta, dtype=D))
    assert distance(found, run(optim.recurrently_linked_momentum(mixing, [1.0] * 3, [RATE / 3] * 3))) < 1e-13
    assert distance(run(optim.aggregated_momentum(RATE, [0.9])), run(optim.sgd(RATE, 0.9))) < 1e-13


def test_m6_play_of_a_linear_game_is_a_power_of_its_matrix():
    game = ng.Game(
        {
            "x": lambda p, _: p["x"] @ p["y"] * 1.3 + 0.2 * p["x"].square().sum(),
            "y": lambda p, _: -1.3 * p["x"] @ p["y"],
        }
    )
    start = {"x": rand(2, seed=5), "y": rand(2, seed=6)}
    jacobian, one = ng.game_jacobian(game, start), torch.eye(4, dtype=D)
    r, i = BETA.real, BETA.imag
    rows = [[r * one, -i * one, -jacobian], [i * one, r * one, 0 * one]]
    rows.append([RATE * r * one, -RATE * i * one, one - RATE * jacobian])
    matrix = torch.cat([torch.cat(row, 1) for row in rows])
    play = ng.Play(game, optimizer=optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    state = play.init(start)
    for _ in range(30):
        state, _ = play.step(state)
    at_first = torch.cat([torch.zeros(8, dtype=D), start["x"], start["y"]])
    at_end = torch.linalg.matrix_power(matrix, 30) @ at_first
    a, b = (torch.cat([state["opt_state"][n][part] for n in ("x", "y")]) for part in ("real", "imag"))
    reached = torch.cat([a, b, state["players"]["x"], state["players"]["y"]])
    assert torch.allclose(reached, at_end, rtol=1e-11, atol=1e-13)


def test_complex_adam_is_the_formula():
    rule, w = optim.complex_adam(RATE, MODULUS, ARGUMENT, b2=0.9, eps=1e-3), params()
    found, expected = run(rule), []
    moments = [(x.to(torch.complex128) * 0, x * 0) for x in ng.tree.leaves(w)]
    for step in range(25):
        leaves, grads = ng.tree.leaves(w), ng.tree.matched(w, drawn(step))[0]
        moments = [(BETA * mu - g, 0.9 * v + 0.1 * g**2) for g, (mu, v) in zip(grads, moments, strict=True)]
        scales = [(v / (1 - 0.9 ** (step + 1))).sqrt() + 1e-3 for _, v in moments]
        rows = zip(leaves, moments, scales, strict=True)
        w = ng.tree.unflatten(w, [x + RATE * mu.real / scale for x, (mu, _), scale in rows])
        expected.append(w)
    assert distance(found, expected) < 1e-12


def test_optimistic_descent_is_the_formula():
    def move(grads):
        before = grads[-2] if len(grads) > 1 else grads[-1]
        return -RATE * (2 * grads[-1] - before)

    assert distance(run(optim.optimistic(RATE)), by_hand(move)) < 1e-14


def test_sgd_takes_a_negative_momentum():
    def move(grads):
        return -RATE * sum((-0.5) ** k * g for k, g in enumerate(reversed(grads)))

    assert distance(run(optim.sgd(RATE, -0.5)), by_hand(move)) < 1e-14


SETTINGS = {
    "complex_momentum": (0.1, 0.8, 0.6),
    "complex_adam": (0.1, 0.8, 0.6, 0.9, 0.01),
    "optimistic": (0.1,),
    "aggregated_momentum": (0.1, [0.3, 0.9]),
    "recurrently_linked_momentum": ([[0.5, -0.3], [0.2, 0.7]], [1.0, 0.4], [0.1, 0.3]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_and_gradients_have_derivatives(name):
    settings = [torch.tensor(x, dtype=D, requires_grad=True) for x in SETTINGS[name]]
    grads = [rand(3, seed=k).requires_grad_() for k in range(3)]

    def after(*given):
        rule = getattr(optim, name)(*given[: len(settings)])
        seen = run(rule, 3, lambda step: {"w": given[len(settings) + step]}, {"w": torch.zeros(3, dtype=D)})
        return seen[-1]["w"]

    assert gradcheck(after, [*settings, *grads])


@pytest.mark.parametrize("name", ["complex_momentum", "complex_adam"])
def test_weights_in_one_vector_take_the_same_step(name):
    rule = getattr(optim, name)(*SETTINGS[name])
    w, state = params(), rule.init(params())
    for step in range(2):
        updates, after = rule.update(drawn(step), state, w)
        joined = torch.cat([x.reshape(-1) for x in ng.tree.leaves(drawn(step))])
        in_one, _ = rule.update(joined, rule.flat_state(state), torch.cat([x.reshape(-1) for x in ng.tree.leaves(w)]))
        assert torch.allclose(in_one, torch.cat([x.reshape(-1) for x in ng.tree.leaves(updates)]), rtol=1e-14)
        state = after
    assert getattr(optim, name)(params(), *SETTINGS[name][1:]).flat_state(state) is None


def test_a_learning_rate_may_be_a_schedule():
    half = optim.piecewise_constant([1], [RATE, RATE / 2])
    found = run(optim.complex_momentum(half, MODULUS, ARGUMENT), 2)
    whole = run(optim.complex_momentum(RATE, MODULUS, ARGUMENT), 2)
    moved = [ng.tree.map(torch.sub, after, before) for before, after in ((found[0], found[1]), (whole[0], whole[1]))]
    assert distance(ng.tree.map(lambda x: 2 * x, moved[0]), moved[1]) < 1e-14


def test_a_hypergradient_of_an_argument_is_its_difference():
    def inner(w, h, batch):
        return ((w - 1.0) ** 2 * torch.tensor([1.0, 3.0], dtype=D)).sum()

    def outer(w, h, batch):
        return w.square().sum()

    update = ng.WeightUpdate(inner, lambda h: optim.complex_momentum(0.1, h["modulus"], h["argument"]))
    method, w = ng.Unrolled(num_steps=6), torch.zeros(2, dtype=D)
    h = {"modulus": torch.tensor(0.7, dtype=D), "argument": torch.tensor(0.5, dtype=D)}
    found = ng.hypergradient(ng.BilevelProblem(update, outer), w, h, method=method).total

    def reached(name, by):
        moved = {**h, name: h[name] + by}
        return ng.hypergradient(ng.BilevelProblem(update, outer), w, moved, method=method).outer_loss

    for name in h:
        slope = (reached(name, 1e-6) - reached(name, -1e-6)) / 2e-6
        assert float(found[name]) == pytest.approx(float(slope), rel=1e-7)


def leaves_of(w):
    return {name: x.clone().requires_grad_() for name, x in ng.tree.named_leaves(w).items()}


def stepped(optimizer, held, step):
    for name, g in ng.tree.named_leaves(drawn(step)).items():
        held[name].grad = g.clone()
    optimizer.step()


DROP_INS = {
    "complex_momentum": (optim.ComplexMomentum, optim.complex_momentum),
    "complex_adam": (optim.ComplexAdam, optim.complex_adam),
    "aggregated_momentum": (optim.AggregatedMomentum, optim.aggregated_momentum),
    "recurrently_linked_momentum": (optim.RecurrentlyLinkedMomentum, optim.recurrently_linked_momentum),
    "optimistic": (optim.Optimistic, optim.optimistic),
}


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"maximize": True}, {"weight_decay": 0.1, "maximize": True}]
)
@pytest.mark.parametrize("name", DROP_INS)
def test_a_drop_in_takes_the_steps_of_its_rule(name, options):
    kind, rule = DROP_INS[name]
    held, rule, w = leaves_of(params()), rule(*SETTINGS[name]), params()
    optimizer, state = kind(held.values(), *SETTINGS[name], **options), rule.init(w)
    sign, decay = (-1.0 if options.get("maximize") else 1.0), options.get("weight_decay", 0.0)
    for step in range(50):
        stepped(optimizer, held, step)
        grads = ng.tree.map(lambda g, x: sign * g + decay * x, drawn(step), w)
        updates, state = rule.update(grads, state, w)
        w = ng.tree.map(torch.add, w, updates)
        assert distance(list(held.values()), ng.tree.leaves(w)) < 1e-12


def test_a_drop_in_decays_as_sgd_does():
    ours, theirs = leaves_of(params()), leaves_of(params())
    options = {"weight_decay": 0.2, "maximize": True}
    pair = (
        (optim.ComplexMomentum(ours.values(), 0.1, 0.9, 0.0, **options), ours),
        (torch.optim.SGD(theirs.values(), 0.1, 0.9, **options), theirs),
    )
    for step in range(20):
        for optimizer, held in pair:
            stepped(optimizer, held, step)
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("name", DROP_INS)
def test_a_drop_in_goes_on_from_its_state_dict(name):
    kind, held = DROP_INS[name][0], leaves_of(params())
    optimizer = kind(held.values(), *SETTINGS[name])
    for step in range(7):
        stepped(optimizer, held, step)
    again = {n: x.detach().clone().requires_grad_() for n, x in held.items()}
    loaded = kind(again.values(), *SETTINGS[name])
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(7, 14):
        for each, leaves in ((optimizer, held), (loaded, again)):
            stepped(each, leaves, step)
        assert distance(again, held) == 0.0


@pytest.mark.parametrize("name", ["complex_momentum", "complex_adam"])
def test_a_drop_in_goes_on_from_a_rule(name):
    kind, rule = DROP_INS[name]
    held, rule = leaves_of(params()), rule(*SETTINGS[name])
    optimizer, w, state = kind(held.values(), *SETTINGS[name]), params(), rule.init(params())
    for step in range(7):
        stepped(optimizer, held, step)
        updates, state = rule.update(drawn(step), state, w)
        w = ng.tree.map(torch.add, w, updates)
    followed = leaves_of(w)
    following = rule.torch_optimizer(followed, state)
    for step in range(7, 14):
        for each, leaves in ((optimizer, held), (following, followed)):
            stepped(each, leaves, step)
        assert distance(followed, held) < 1e-12


def test_a_drop_in_leaves_the_gradients_it_was_given():
    held = leaves_of(params())
    for name, (kind, _) in DROP_INS.items():
        optimizer = kind(held.values(), *SETTINGS[name])
        for step in range(3):
            stepped(optimizer, held, step)
            for path, g in ng.tree.named_leaves(drawn(step)).items():
                assert torch.equal(held[path].grad, g)


def test_a_drop_in_follows_schedulers_closures_and_params_without_a_gradient():
    x, unused = torch.ones(2, dtype=D, requires_grad=True), torch.ones(2, dtype=D, requires_grad=True)
    optimizer = optim.ComplexMomentum([{"params": [x]}, {"params": [unused], "lr": 1.0}], 0.1, 0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        loss = x.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    scheduler.step()
    optimizer.step(closure)
    assert x.tolist() == pytest.approx([0.85, 0.85], rel=1e-14)
    assert unused.tolist() == [1.0, 1.0]


def test_what_a_drop_in_or_a_rule_cannot_have_is_named():
    x = [torch.ones(2, requires_grad=True)]
    with pytest.raises(ng.InvalidInput, match=r"ComplexMomentum\.modulus: got 1\.0, limit: a number from 0 to below 1"):
        optim.ComplexMomentum(x, 0.1, 1.0)
    with pytest.raises(ng.InvalidInput, match=r"ComplexAdam\.lr: got -1, limit"):
        optim.ComplexAdam(x, -1)
    with pytest.raises(ng.InvalidInput, match=r"argument: got nan, limit: finite"):
        optim.ComplexMomentum(x, 0.1, 0.5, math.nan)
    with pytest.raises(
        ng.InvalidInput, match=r"AggregatedMomentum\.momenta: got \(0\.5, 1\.0\), limit: 1 or more, each"
    ):
        optim.AggregatedMomentum(x, 0.1, [0.5, 1.0])
    with pytest.raises(ng.InvalidInput, match=r"RecurrentlyLinkedMomentum: mixing with rows of \[1\], 2 inputs and 2"):
        optim.RecurrentlyLinkedMomentum(x, [[0.5]], [1.0, 1.0], [0.1, 0.1])
    with pytest.raises(ng.InvalidInput, match=r"Optimistic\.lr: got -0\.1, limit: a number from 0"):
        optim.Optimistic(x, -0.1)
    table = torch.nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ng.InvalidInput, match="1 gradients are sparse, limit 0"):
        optim.ComplexMomentum(table.parameters(), 0.1).step()
    with pytest.raises(ng.InvalidInput, match=r"mixing: got shape \(1, 2\), limit: \(2, 2\) for 2 inputs"):
        optim.recurrently_linked_momentum([[0.1, 0.2]], [1.0, 1.0], [1.0, 1.0]).init(params())
    with pytest.raises(ng.InvalidInput, match="0 momenta, limit: at least 1"):
        optim.aggregated_momentum(0.1, [])
    many = optim.complex_momentum(params(), 0.5, 0.1)
    with pytest.raises(ng.UnsupportedOptimizer, match="complex_momentum learning_rate: 3 values, limit: 1"):
        many.torch_optimizer(leaves_of(params()), many.init(params()))
