"""Hyper-training: its step written out, its own draws, phases, guards, and a ridge regression whose decay it tunes."""

import copy
import importlib.util
import io
import pathlib
from functools import partial

import pytest
import torch

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("learned", pathlib.Path(__file__).with_name("learned.py"))
learned = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(learned)

D, SGD, RESPONSES = learned.D, learned.SGD, learned.RESPONSES
rand, params, same, close, kind = learned.rand, learned.params, learned.same, learned.close, learned.kind


def inner(w, h, batch):
    error = w["w"].sum(1) + w["deep"][1] * h["b"].sum() - batch
    return (error**2).mean() + h["a"] * (w["w"] ** 2).sum() + (w["deep"][0] - h["b"]).square().sum()


def outer(w, h, batch):
    return ((w["w"] - batch) ** 2).sum() + w["deep"][0].sum() ** 2 + w["deep"][1].sin() + 0.1 * h["a"] ** 2


def spaces(dtype=D):
    """In an order that is not that of the paths."""
    return {"b": ng.Real(torch.tensor([0.2, -0.1], dtype=dtype)), "a": ng.Log(0.4)}


def tuner(response=RESPONSES[0], **settings):
    problem = ng.BilevelProblem(ng.Minimize(inner), outer)
    given = {"hparams": spaces(), "optimizer": ng.optim.sgd(0.01), "outer_optimizer": SGD, **settings}
    return ng.HyperTraining(problem, response=response, **given)


def batches(dtype=D):
    return rand(3, seed=8, dtype=dtype), rand(3, 1, seed=9, dtype=dtype)


def natural(leaves):
    return {"b": leaves["b"], "a": leaves["a"].exp()}


@pytest.mark.parametrize(
    ("distribution", "drawn"),
    [
        (ng.Normal(variance=0.04), lambda center, noise: center + 0.2 * noise),
        (ng.Normal(variance=0.04, mean=0.5), lambda center, noise: 0.5 + 0.2 * noise),
        (ng.Uniform(low=-1.0, high=2.0), lambda center, noise: -1.0 + 3.0 * noise),
    ],
)
@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_a_step_is_what_it_is_defined_to_be(response, distribution, drawn):
    run = tuner(response, distribution=distribution, samples=3)
    state = run.init(params(), key=5)
    state["params"] = ng.tree.map(lambda x: x + 0.1 * rand(*x.shape, seed=2), state["params"])
    noise, (train, test) = rand(3, 3, seed=6).abs() / 4.0, batches()
    kept, before = copy.deepcopy(state), torch.get_rng_state()
    after, info = run.step(state, train, test, noise=noise)
    assert all(same(kept[key], state[key]) for key in ("params", "hparams"))
    assert torch.equal(torch.get_rng_state(), before)

    phi = ng.tree.map(lambda x: x.clone().requires_grad_(), state["params"])
    center = torch.cat([state["hparams"]["a"].reshape(1), state["hparams"]["b"]])
    losses = []
    for row in drawn(center, noise):
        leaves = {"b": row[1:], "a": row[0]}
        losses.append(inner(ng.respond(response, phi, leaves), natural(leaves), train))
    loss = sum(losses) / 3.0
    slopes = torch.autograd.grad(loss, ng.tree.leaves(phi))
    moved = ng.tree.map(lambda x, g: x.detach() - 0.01 * g, phi, ng.tree.unflatten(phi, slopes))
    assert close(after["params"], moved, rtol=1e-12, atol=1e-14)
    assert float(info.inner_loss) == pytest.approx(loss.item(), rel=1e-13)

    leaves = ng.tree.map(lambda x: x.clone().requires_grad_(), state["hparams"])
    total = outer(ng.respond(response, moved, leaves), natural(leaves), test)
    right = ng.tree.unflatten(leaves, torch.autograd.grad(total, ng.tree.leaves(leaves)))
    assert close(info.hypergradient.total, right, rtol=1e-11)
    assert close(after["hparams"], ng.tree.map(lambda x, g: x.detach() - 0.1 * g, leaves, right), rtol=1e-12)
    assert close(info.hparams, natural(after["hparams"]), rtol=1e-13)
    assert same(run.values(after), info.hparams)
    assert close(run.response_params(after), ng.respond(response, after["params"], after["hparams"]), rtol=1e-13)
    assert info.tuned
    assert after["step"] == 1


@pytest.mark.parametrize("distribution", [ng.Normal(variance=0.1), ng.Uniform(low=-1.0, high=0.0)], ids=repr)
def test_noise_is_the_runs_own_by_key_and_step(distribution):
    run, (train, test) = tuner(distribution=distribution), batches()

    def moved(key=5, step=0):
        state = {**run.init(params(), key=key), "step": step}
        return run.step(state, train, test)[0]["params"]["weight"]["w"]

    torch.manual_seed(1)
    first, before = moved(), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(moved(), first)
    assert not torch.equal(moved(key=6), first)
    assert not torch.equal(moved(step=1), first)
    assert torch.equal(torch.manual_seed(1).get_state(), before)


@pytest.mark.parametrize("response", RESPONSES, ids=kind)
def test_a_run_goes_on_from_a_saved_state_in_the_same_bits(response, dtype):
    (train, test), guard = batches(dtype), ng.Guard()
    settings = {"hparams": spaces(dtype), "optimizer": ng.optim.adam(0.01), "guard": guard}
    settings["outer_optimizer"] = partial(torch.optim.Adam, lr=0.01)
    run = tuner(response, **settings)
    state = run.init(params(dtype), key=5)
    for _ in range(3):
        state, _ = run.step(state, train, test)
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    other, again = tuner(response, **settings), torch.load(held)
    for _ in range(3):
        state, info = run.step(state, train, test)
        again, _ = other.step(again, train, test)
    for key in ("params", "hparams"):
        assert same(state[key], again[key])
    found = (state["params"], state["opt_state"]["m"], state["hparams"], info.hypergradient.total, info.inner_loss)
    assert {leaf.dtype for leaf in ng.tree.leaves(found)} == {dtype}
    assert (state["step"], state["seed"]) == (6, 5)
    assert state["events"] == {"clipped": 0, "skipped": 0}


def test_with_phases_the_response_moves_first_and_hyperparameters_after_it():
    run, (train, test) = tuner(response_steps=2, distribution=ng.Normal(variance=1.5, mean=0.0)), batches()
    state = run.init(params(), key=0)
    for _ in range(2):
        after, info = run.step(state, train, None)
        assert not same(after["params"], state["params"])
        assert same(after["hparams"], state["hparams"])
        assert not info.tuned
        assert info.hypergradient.status is ng.Status.IDLE
        state = after
    for _ in range(2):
        after, info = run.step(state, train, test)
        assert same(after["params"], state["params"])
        assert not same(after["hparams"], state["hparams"])
        assert info.tuned
        now = inner(run.response_params(state), run.values(state), train)
        assert float(info.inner_loss) == pytest.approx(float(now), rel=1e-13)
        by_hand = ng.hypergradient(
            ng.BilevelProblem(
                ng.Minimize(lambda w, h, batch: inner(w, natural(h), batch)),
                lambda w, h, batch: outer(w, natural(h), batch),
            ),
            state["params"],
            state["hparams"],
            method=run.response,
            inner_batch=train,
            outer_batch=test,
        )
        assert close(info.hypergradient.total, by_hand.total, rtol=1e-13)
        assert info.hypergradient.stats == by_hand.stats
        state = after


def test_what_is_not_finite_raises_or_is_skipped_or_is_said():
    train, test = batches()
    broken = test * torch.nan
    run = tuner()
    with pytest.raises(ng.NonFinite, match="training step 1"):
        run.step(run.init(params(), key=0), train, broken)
    guarded = tuner(guard=ng.Guard())
    state = guarded.init(params(), key=0)
    after, info = guarded.step(state, train, broken)
    assert info.event is ng.Event.SKIPPED
    assert after["events"]["skipped"] == 1
    assert same(after["hparams"], state["hparams"])
    assert not same(after["params"], state["params"])
    quiet = tuner(throw=False)
    _, info = quiet.step(quiet.init(params(), key=0), train, broken)
    assert info.hypergradient.status is ng.Status.NONFINITE


def test_leaves_beyond_their_clip_range_are_set_to_its_end():
    held = {"b": ng.Real(torch.zeros(2, dtype=D)), "a": ng.Log(0.4, clip=(0.39, 0.41))}
    run = tuner(hparams=held, outer_optimizer=partial(torch.optim.SGD, lr=1e3))
    after, _ = run.step(run.init(params(), key=0), *batches())
    assert min(abs(float(run.values(after)["a"]) - end) for end in (0.39, 0.41)) < 1e-12


def test_noise_of_another_shape_is_refused():
    run = tuner()
    state = run.init(params(), key=0)
    with pytest.raises(ng.InvalidInput, match=r"noise of shape \(3, 2\), limit: \(2, 3\)"):
        run.step(state, *batches(), noise=torch.zeros(3, 2))
    with pytest.raises(ng.DtypeMismatch, match="inner_batch"):
        run.step(state, *batches(torch.float32))


def test_it_works_where_the_caller_takes_no_gradients():
    run = tuner()
    state = run.init(params(), key=0)
    right, _ = run.step(state, *batches())
    start, given = params(), batches()
    with torch.inference_mode():
        after, _ = run.step(run.init(start, key=0), *given)
    assert same(after["params"], right["params"])
    assert same(after["hparams"], right["hparams"])


X, TEST = rand(20, 3, seed=1), rand(30, 3, seed=2)
TRUTH = torch.tensor([1.0, -2.0, 0.5], dtype=D)
Y, GOAL = X @ TRUTH + rand(20, seed=3), TEST @ TRUTH + rand(30, seed=4)


def ridge(w, h, batch):
    return 0.5 * ((X @ w["w"] - Y) ** 2).mean() + 0.5 * h["decay"] * (w["w"] ** 2).sum()


def on_test(w, h, batch):
    return 0.5 * ((TEST @ w["w"] - GOAL) ** 2).mean()


def solved(decay):
    gram = X.T @ X / 20 + decay * torch.eye(3, dtype=D)
    return {"w": torch.linalg.solve(gram, X.T @ Y / 20)}


def test_a_ridge_regressions_decay_is_tuned_by_hypergradients_that_are_nearly_the_implicit_ones():
    steps = 1000
    run = ng.HyperTraining(
        ng.BilevelProblem(ng.Minimize(ridge), on_test),
        hparams={"decay": ng.Log(1.0)},
        response=ng.LinearResponse(),
        optimizer=ng.optim.adam(ng.optim.cosine(0.3, steps), b2=0.95),
        outer_optimizer=partial(torch.optim.SGD, lr=5e-5),
        distribution=ng.Normal(variance=1e-3),
    )
    state = run.init({"w": torch.zeros(3, dtype=D)}, key=0)
    for _ in range(steps):
        state, _ = run.step(state, None, None)
    decay = run.values(state)["decay"]
    assert float(decay) < 0.98
    assert on_test(solved(decay), None, None) < on_test(solved(1.0), None, None)
    assert torch.allclose(run.response_params(state)["w"], solved(decay)["w"], rtol=1e-3)
    in_log = ng.BilevelProblem(ng.Minimize(lambda w, h, batch: ridge(w, {"decay": h["decay"].exp()}, batch)), on_test)
    exact = ng.Implicit(solver=ng.Dense())
    right = ng.hypergradient(in_log, solved(decay), state["hparams"], method=exact).total["decay"]
    found = ng.hypergradient(in_log, state["params"], state["hparams"], method=ng.LinearResponse()).total["decay"]
    assert abs(float(found / right) - 1.0) < 1e-3
