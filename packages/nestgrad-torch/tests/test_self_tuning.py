"""Self-tuning: each objective's step written out by plain autograd, its own draws, identities, and what it refuses."""

import copy
import importlib.util
import io
import math
import pathlib
from functools import partial

import pytest
import torch

import nestgrad_torch as ng
from nestgrad_torch import gated

_spec = importlib.util.spec_from_file_location("learned", pathlib.Path(__file__).with_name("learned.py"))
learned = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(learned)

D, SGD = learned.D, learned.SGD
rand, same, close = learned.rand, learned.same, learned.close

OBJECTIVES = ["sampled", "centred", "linearised"]
KINDS = ["examples", 3]
RESPONSE = ng.GatedResponse(gate_scale=0.3)
NOISE = {"examples": (rand(4, 3, seed=6), rand(5, 3, seed=7)), 3: (rand(3, 3, seed=6), rand(3, 3, seed=7))}


def params(dtype=D):
    hidden = {"weight": rand(3, 2, seed=1, dtype=dtype), "bias": rand(3, seed=2, dtype=dtype)}
    return {"out": {"weight": rand(2, 3, seed=3, dtype=dtype)}, "hidden": hidden}


def batches(dtype=D):
    """Of 4 and 5 rows."""
    return tuple((rand(n, 2, seed=n, dtype=dtype), rand(n, 2, seed=9 * n, dtype=dtype)) for n in (4, 5))


def predict(w, h, batch):
    """A network on shifted inputs, and the size of its general weights."""
    hidden = gated.linear(w["hidden"], batch[0] + h["shift"]).tanh()
    general = w.general if isinstance(w, gated.GatedParams) else w
    return {"y": gated.linear(w["out"], hidden), "size": sum(x.square().sum() for x in ng.tree.leaves(general))}


def penalised(line, h, batch):
    errors = (line["y"] - batch[1]).square().sum(1)
    return (errors + (h["decay"] * line["size"]).expand(len(errors))).mean()


def outer(w, h, batch):
    errors = (predict(w, h, batch)["y"] - batch[1]).cos().sum(1)
    return (errors + 0.1 * h["decay"].square().expand(len(errors))).mean()


PROBLEM = ng.BilevelProblem(ng.Minimize(ng.PredictionLoss(predict=predict, loss=penalised)), outer)


def spaces(dtype=D):
    """In an order that is not that of the paths."""
    return {"shift": ng.Real(torch.tensor([0.2, -0.1], dtype=dtype)), "decay": ng.Log(0.1)}


def natural(leaves):
    return {"shift": leaves["shift"], "decay": leaves["decay"].exp()}


def tuner(**settings):
    given = {
        "hparams": spaces(),
        "optimizer": ng.optim.sgd(0.01),
        "outer_optimizer": SGD,
        "response": RESPONSE,
        "entropy": 0.02,
        "every": 1,
        **settings,
    }
    return ng.SelfTuning(given.pop("problem", PROBLEM), **given)


def norm(values):
    return float(torch.cat([x.reshape(-1) for x in ng.tree.leaves(values)]).norm())


def leaves_of(row):
    return {"shift": row[1:], "decay": row[0]}


def cases(samples, batch, rows):
    """(perturbation, batch) of each draw: a row of the batch, or all of it."""
    if samples == "examples":
        return [(row, tuple(x[i : i + 1] for x in batch)) for i, row in enumerate(rows)]
    return [(row, batch) for row in rows]


def by_hand(objective, samples, phi, center, rows, batch):
    """(what φ's step is taken on, the loss to report), a draw after the other."""
    still = {**phi, "bias": ng.tree.map(torch.detach, phi["bias"])}

    def prediction(weights, code, settings, part):
        w = ng.respond(RESPONSE, weights, {"code": code})
        found = predict(w, settings, part)
        if samples == "examples":
            found["size"] = sum(x.square().sum() for x in ng.tree.leaves(weights["bias"]))
        return found

    def mean(one):
        return torch.stack([one(row, part) for row, part in cases(samples, batch, rows)]).mean()

    def sampled(row, part):
        at = natural(leaves_of(center + row))
        return penalised(prediction(phi, center + row, at, part), at, part)

    def centred(row, part):
        at = natural(leaves_of(center + row))
        return penalised(prediction(still, row, at, part), at, part)

    def linearised(row, part):
        at = natural(leaves_of(center + row))
        value, slope = torch.func.jvp(lambda c: prediction(still, c, at, part), (torch.zeros(3, dtype=D),), (row,))
        return penalised(ng.tree.map(torch.add, value, slope), at, part)

    if objective == "sampled":
        loss = mean(sampled)
        return loss, loss
    at = natural(leaves_of(center))
    general = penalised(predict(phi["bias"], at, batch), at, batch)
    return general + mean({"centred": centred, "linearised": linearised}[objective]), general


def outer_by_hand(objective, samples, phi, leaves, codes, rows, batch):
    """The mean outer loss, at leaves for the losses and codes for the gates; rows: perturbations."""
    losses = []
    for row, part in cases(samples, batch, rows):
        at = natural({name: leaf + leaves_of(row)[name] for name, leaf in leaves.items()})
        center = codes.detach() if objective != "sampled" else torch.zeros(3, dtype=D)
        losses.append(outer(ng.respond(RESPONSE, phi, {"code": codes + row - center}), at, part))
    return torch.stack(losses).mean()


def begun(run, key=5):
    """A state with no zeros in it."""
    state = run.init(params(), key=key)
    state["params"] = ng.tree.map(lambda x: x + 0.1 * rand(*x.shape, seed=2), state["params"])
    state["scales"] = state["scales"] + 0.2 * rand(3, seed=4)
    return state


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch.func.jvp calls
@pytest.mark.parametrize("samples", KINDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_what_it_is_defined_to_be(objective, samples):
    run, (train, test), noise = tuner(objective=objective, samples=samples), batches(), NOISE[samples]
    state = begun(run)
    kept, before = copy.deepcopy((state, train, test)), torch.get_rng_state()
    after, info = run.step(state, train, test, noise=noise)
    assert all(same(kept[0][key], state[key]) for key in ("params", "hparams", "scales"))
    assert same(kept[1:], (train, test))
    assert torch.equal(torch.get_rng_state(), before)

    phi = ng.tree.map(lambda x: x.clone().requires_grad_(), state["params"])
    center = torch.cat([state["hparams"]["decay"].reshape(1), state["hparams"]["shift"]])
    sizes = state["scales"].exp().log1p()
    taken, loss = by_hand(objective, samples, phi, center, sizes * noise[0], train)
    slopes = ng.tree.unflatten(phi, torch.autograd.grad(taken, ng.tree.leaves(phi)))
    moved = ng.tree.map(lambda x, g: x.detach() - 0.01 * g, phi, slopes)
    assert close(after["params"], moved, rtol=1e-11, atol=1e-13)
    assert float(info.inner_loss) == pytest.approx(loss.item(), rel=1e-12)

    leaves = ng.tree.map(lambda x: x.clone().requires_grad_(), state["hparams"])
    codes, scales = center.clone().requires_grad_(), state["scales"].clone().requires_grad_()
    rows = scales.exp().log1p() * noise[1]
    value = outer_by_hand(objective, samples, moved, leaves, codes, rows, test)
    objective_in_all = value - 0.02 * (scales.exp().log1p() * math.sqrt(2 * math.pi * math.e)).log().sum()
    direct, of_decay, of_codes, of_scales = torch.autograd.grad(
        objective_in_all, [leaves["shift"], leaves["decay"], codes, scales]
    )
    found = info.hypergradient
    assert close(found.direct, {"shift": direct, "decay": of_decay}, rtol=1e-10, atol=1e-13)
    assert close(found.indirect, leaves_of(of_codes), rtol=1e-10, atol=1e-13)
    assert close(found.total, ng.tree.map(torch.add, found.direct, found.indirect), rtol=1e-14)
    assert float(found.outer_loss) == pytest.approx(value.item(), rel=1e-12)
    right = ng.tree.map(lambda x, g: x - 0.1 * g, state["hparams"], found.total)
    assert close(after["hparams"], right, rtol=1e-14)
    assert torch.allclose(after["scales"], state["scales"] - 0.1 * of_scales, rtol=1e-11)

    assert (info.tuned, info.event, found.status, after["step"]) == (True, ng.Event.NONE, ng.Status.TRUNCATED, 1)
    assert close(info.hparams, natural(after["hparams"]), rtol=1e-13)
    assert found.stats.indirect_norm == pytest.approx(float(of_codes.norm()), rel=1e-10)
    norms = [
        torch.cat([x.reshape(-1) for x in ng.tree.leaves(part)]).norm() for part in (moved["bias"], slopes["bias"])
    ]
    assert found.stats.params_norm == pytest.approx(float(norms[0]), rel=1e-11)
    assert found.stats.inner_optimality == pytest.approx(float(norms[1]), rel=1e-10)
    assert math.isnan(found.stats.adjoint_norm)
    assert (found.stats.steps, found.stats.products) == (0, 0)
    assert close(run.scales(after), leaves_of(after["scales"].exp().log1p()), rtol=1e-13)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_response_weights_are_those_of_which_the_response_gives_the_params_of_now(objective):
    run = tuner(objective=objective)
    state = begun(run)
    state, _ = run.step(state, *batches())
    now = run.response_params(state)
    assert close(ng.respond(run.response, run.response_weights(state), state["hparams"]), now, rtol=1e-12)
    assert same(now, state["params"]["bias"]) == (objective != "sampled")


def test_hyperparameters_move_every_so_many_steps_after_the_warm_up():
    run, (train, test) = tuner(every=2, warmup_steps=3), batches()
    state, tuned = begun(run), []
    for _ in range(7):
        after, info = run.step(state, train, test if (state["step"] + 1) in {5, 7} else None)
        moved = not same(after["hparams"], state["hparams"])
        assert moved == info.tuned == (not same(after["scales"], state["scales"]))
        assert info.tuned or info.hypergradient.status is ng.Status.IDLE
        assert not same(after["params"], state["params"])
        tuned.append(info.tuned)
        state = after
    assert tuned == [False, False, False, False, True, False, True]


@pytest.mark.parametrize("samples", KINDS)
def test_noise_is_the_runs_own_by_key_and_step_and_level(samples):
    run, (train, test), seen = tuner(samples=samples), batches(), []

    def watched(level):
        def loss(w, h, batch):
            seen.append((level, h["shift"]))
            return (outer if level else inner_loss)(w, h, batch)

        return loss

    def inner_loss(w, h, batch):
        return PROBLEM.inner.loss(w, h, batch)

    run = tuner(samples=samples, problem=ng.BilevelProblem(ng.Minimize(watched(0)), watched(1)), every=2)

    def drawn(key=5, step=1):
        seen.clear()
        run.step({**run.init(params(), key=key), "step": step}, train, test)
        return {level: torch.stack([h for at, h in seen if at == level]).detach() for level in (0, 1)}

    torch.manual_seed(1)
    first, before = drawn(step=3), torch.get_rng_state()
    torch.manual_seed(2)
    assert same(drawn(step=3), first)
    assert not torch.equal(drawn(key=6, step=3)[0], first[0])
    assert not torch.equal(drawn(step=5)[0], first[0])
    assert not torch.equal(first[0].reshape(-1)[:6], first[1].reshape(-1)[:6])
    assert torch.equal(torch.manual_seed(1).get_state(), before)


def test_own_draws_are_standard_normal_and_independent():
    many = tuple((rand(20000, 2), rand(20000, 2)) for _ in range(2))
    seen = []

    def loss(w, h, batch):
        seen.append(torch.cat([h["decay"].log().unsqueeze(1), h["shift"]], 1).detach())
        return PROBLEM.inner.loss(w, h, batch)

    run = tuner(problem=ng.BilevelProblem(ng.Minimize(loss), loss), scale=0.5)
    state = {**run.init(params(), key=0), "step": 3}
    run.step(state, *many)
    center = torch.cat([state["hparams"]["decay"].reshape(1), state["hparams"]["shift"]])
    rows = (torch.cat(seen, 1) - center.repeat(2)) / 0.5
    assert torch.allclose(rows.mean(0), torch.zeros(6, dtype=D), atol=0.03)
    assert torch.allclose(rows.T @ rows / len(rows), torch.eye(6, dtype=D), atol=0.03)


def test_shared_hyperparameters_have_one_draw_for_all_rows():
    seen = []

    def loss(w, h, batch):
        seen.append(h)
        return PROBLEM.inner.loss(w, h, batch)

    run = tuner(shared=("shift",), problem=ng.BilevelProblem(ng.Minimize(loss), outer))
    state, noise = begun(run), NOISE["examples"]
    for given in (None, noise):
        seen.clear()
        run.step({**state, "step": 5}, *batches(), noise=given)
        (h,) = seen
        assert torch.equal(h["shift"], h["shift"][:1].expand(4, 2))
        assert len(set(h["decay"].tolist())) == 4
    moved = state["scales"].exp().log1p()[1:] * noise[0][0, 1:]
    assert torch.allclose(h["shift"][3], state["hparams"]["shift"] + moved, rtol=1e-13)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_goes_on_from_a_saved_state_in_the_same_bits(objective, dtype):
    (train, test), guard = batches(dtype), ng.Guard()
    settings = {"hparams": spaces(dtype), "optimizer": ng.optim.adam(0.01), "guard": guard, "objective": objective}
    settings["outer_optimizer"] = partial(torch.optim.Adam, lr=0.01)
    run = tuner(**settings)
    state = run.init(params(dtype), key=5)
    for _ in range(3):
        state, _ = run.step(state, train, test)
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    other, again = tuner(**settings), torch.load(held)
    for _ in range(3):
        state, info = run.step(state, train, test)
        again, _ = other.step(again, train, test)
    for key in ("params", "hparams", "scales", "outer_opt_state"):
        assert same(state[key], again[key])
    found = (state["params"], state["opt_state"]["m"], state["hparams"], state["scales"], info.hypergradient.total)
    assert {leaf.dtype for leaf in ng.tree.leaves((found, info.inner_loss))} == {dtype}
    assert (state["step"], state["seed"]) == (6, 5)
    assert state["events"] == {"clipped": 0, "skipped": 0}


def test_without_entropy_the_scales_stay_in_their_bits():
    momentum = partial(torch.optim.SGD, lr=0.1, weight_decay=0.1, momentum=0.9)
    run = tuner(entropy=None, outer_optimizer=momentum)
    state = start = begun(run)
    for _ in range(3):
        state, _ = run.step(state, *batches())
    assert torch.equal(state["scales"], start["scales"])
    assert not same(state["hparams"], start["hparams"])
    assert not state["outer_opt_state"][-1] or "momentum_buffer" in state["outer_opt_state"][-1]


def test_what_is_not_finite_raises_or_is_skipped_or_is_said():
    train, test = batches()
    broken = (test[0], test[1] * torch.nan)
    with pytest.raises(ng.NonFinite, match="training step 1"):
        tuner().step(tuner().init(params(), key=0), train, broken)
    guarded = tuner(guard=ng.Guard())
    state = guarded.init(params(), key=0)
    after, info = guarded.step(state, train, broken)
    assert info.event is ng.Event.SKIPPED
    assert after["events"]["skipped"] == 1
    for key in ("hparams", "scales", "outer_opt_state"):
        assert same(after[key], state[key])
    assert not same(after["params"], state["params"])
    quiet = tuner(throw=False)
    _, info = quiet.step(quiet.init(params(), key=0), train, broken)
    assert info.hypergradient.status is ng.Status.NONFINITE


def test_a_clip_scales_the_gradient_of_the_scales_by_the_same_factor():
    free, limit = tuner(), 1e-3
    clipped = tuner(guard=ng.Guard(max_norm=limit))
    state = begun(clipped)
    plain, found = free.step(state, *batches())
    after, info = clipped.step(state, *batches())
    assert info.event is ng.Event.CLIPPED
    size = norm(found.hypergradient.total)
    assert size > limit
    whole, part = plain["scales"] - state["scales"], after["scales"] - state["scales"]
    assert torch.allclose(part, whole * limit / size, rtol=1e-9)


def test_leaves_beyond_their_clip_range_are_set_to_its_end():
    held = {**spaces(), "decay": ng.Log(0.4, clip=(0.39, 0.41))}
    run = tuner(hparams=held, outer_optimizer=partial(torch.optim.SGD, lr=1e3))
    after, _ = run.step(run.init(params(), key=0), *batches())
    assert min(abs(float(run.values(after)["decay"]) - end) for end in (0.39, 0.41)) < 1e-12


def test_what_it_cannot_take_is_refused():
    run, (train, test) = tuner(), batches()
    state = run.init(params(), key=0)
    with pytest.raises(ng.InvalidInput, match=r"noise\[0\] of shape \(3, 2\), limit: \(4, 3\)"):
        run.step(state, train, test, noise=(rand(3, 2), None))
    with pytest.raises(ng.InvalidInput, match="a pair"):
        run.step(state, train, test, noise=rand(4, 3))
    with pytest.raises(ng.InvalidInput, match=r"inner_batch\['1'\] \(3, 2\)"):
        run.step(state, (train[0], train[1][:3]), test)
    with pytest.raises(ng.InvalidInput, match="inner_batch of 0 tensors"):
        run.step(state, None, test)
    with pytest.raises(ng.InvalidInput, match=r"outer_batch\['0'\] \(\)"):
        run.step(state, train, (rand(), rand()))
    with pytest.raises(ng.DtypeMismatch, match="inner_batch"):
        run.step(state, batches(torch.float32)[0], test)
    with pytest.raises(ng.DtypeMismatch, match="outer_batch"):
        run.step(state, train, batches(torch.float32)[1])
    with pytest.raises(ng.UnsupportedModule, match="functional_call"):
        run.init(torch.nn.Linear(2, 1), key=0)
    with pytest.raises(ng.UnsupportedOptimizer, match="function of the leaves"):
        tuner(outer_optimizer=torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
    plain = ng.BilevelProblem(ng.Minimize(lambda w, h, batch: w["out"]["weight"].sum()), outer)
    with pytest.raises(ng.InvalidInput, match="PredictionLoss"):
        tuner(problem=plain, objective="linearised")
    with pytest.raises(ng.InvalidInput, match="GatedResponse"):
        tuner(response=ng.LinearResponse())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_hyperparameter_of_neither_loss_is_refused(objective):
    run = tuner(hparams={**spaces(), "lonely": ng.Real(0.0)}, objective=objective, every=2)
    before = torch.get_rng_state()
    state, _ = run.step(run.init(params(), key=0), *batches())
    with pytest.raises(ng.DisconnectedHyperparameter, match="'lonely'"):
        run.step(state, *batches())
    assert torch.equal(torch.get_rng_state(), before)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return 2.0 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_, slope):
        return 2.0 * slope


@pytest.mark.parametrize(
    ("apply", "named"),
    [
        (Once.apply, "once_differentiable"),
        (torch.nn.functional.hardsigmoid, "hardsigmoid"),
        (lambda y: torch.cdist(y.unsqueeze(1), y.unsqueeze(1)).reshape(-1, 1), "cdist"),
    ],
    ids=["once differentiable", "hardsigmoid", "cdist"],
)
def test_predictions_without_a_second_derivative_are_named_where_they_are_made_linear(apply, named):
    def odd(w, h, batch):
        found = predict(w, h, batch)
        return {**found, "y": apply(found["y"])}

    problem = ng.BilevelProblem(ng.Minimize(ng.PredictionLoss(predict=odd, loss=penalised)), outer)
    run = tuner(problem=problem, objective="linearised")
    with pytest.raises(ng.DoubleBackwardUnsupported, match=named):
        run.step(begun(run), *batches())


def test_softmax_and_attention_are_made_linear_too():
    def attentive(w, h, batch):
        found = predict(w, h, batch)
        seen = torch.nn.functional.scaled_dot_product_attention(*[found["y"].unsqueeze(0)] * 3)
        return {**found, "y": seen[0].log_softmax(1)}

    problem = ng.BilevelProblem(ng.Minimize(ng.PredictionLoss(predict=attentive, loss=penalised)), outer)
    run, linear = tuner(problem=problem, objective="centred"), tuner(problem=problem, objective="linearised")
    state, tiny = begun(run), (1e-5 * NOISE["examples"][0], NOISE["examples"][1])
    start = state["params"]
    slopes = [
        ng.tree.map(torch.sub, start, each.step(state, *batches(), noise=tiny)[0]["params"]) for each in (run, linear)
    ]
    for key in ("weight", "gates"):
        assert close(slopes[0][key], slopes[1][key], rtol=1e-3, atol=1e-12)
        assert any(x.any() for x in ng.tree.leaves(slopes[1][key]))


def test_it_works_where_the_caller_takes_no_gradients():
    for objective in OBJECTIVES:
        run = tuner(objective=objective)
        state = run.init(params(), key=0)
        right, _ = run.step(state, *batches())
        start, given = params(), batches()
        with torch.inference_mode():
            after, _ = run.step(run.init(start, key=0), *given)
        for key in ("params", "hparams", "scales"):
            assert same(after[key], right[key])
