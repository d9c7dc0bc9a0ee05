"""Windows, whole runs, guards, carried adjoints, numbers found by measuring, and baselines: tuners of one shape."""

import copy
import importlib.util
import pathlib

import pytest
import torch

import nestgrad_torch as ng
from nestgrad_torch.tuners._window import along

_spec = importlib.util.spec_from_file_location("one_pass_runs", pathlib.Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

PROBLEM = ng.BilevelProblem(inner=ng.WeightUpdate(runs.error, runs.sgd), outer_loss=runs.error)
LINEAR = ng.BilevelProblem(inner=ng.WeightUpdate(runs.linear_error, runs.sgd), outer_loss=runs.linear_error)


def made(kind=ng.OnePass, problem=PROBLEM, **options):
    return kind(problem, hparams=runs.spaces(), outer_optimizer=runs.ADAM, **options)


def start():
    return {"w": torch.randn(3, 1, dtype=torch.float64)}


def steps(count, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def drawn():
        x, y = (torch.randn(9, width, generator=generator, dtype=torch.float64) for width in (3, 1))
        return x, y

    return [(drawn(), drawn()) for _ in range(count)]


def test_a_window_takes_the_steps_of_the_run_again_with_their_draws():
    tuner, module = made(every=4, method=ng.Unrolled(num_steps=3)), runs.noisy_network()
    state = tuner.init(module)
    for inner, outer in steps(3):
        state, _ = tuner.step(state, inner, outer)
        torch.randn(7)  # what a loop draws between steps is none of the window's
    assert len(state["window"]["batches"]) == 2
    (inner, outer) = steps(1, seed=5)[0]
    point = tuner._point(state)
    window = tuner._entered(point, state, inner)
    found = along(tuner.method, PROBLEM, point, window, tuner.values(state), outer)
    after, info = tuner.step(state, inner, outer)
    for name, value in after["params"].items():
        assert torch.allclose(found.params[name], value, rtol=1e-12, atol=1e-14)
    assert info.tuned
    assert after["window"] == {}
    assert info.hypergradient.params is None


def test_a_windows_hyper_steps_draw_nothing_and_leave_the_training_as_it_is():
    frozen = made(every=2, method=ng.Unrolled(num_steps=2), guard=ng.Guard(max_norm=1e-30, too_long="skip"))
    fixed = ng.Fixed(PROBLEM.inner, hparams=runs.spaces())
    module, ends = runs.noisy_network(), []
    for tuner in (frozen, fixed):
        torch.manual_seed(1)
        state = tuner.init(module)
        for inner, outer in steps(6):
            state, _ = tuner.step(state, inner, outer)
        ends.append((state["params"], state["buffers"]))
    assert runs.same(*ends)


@pytest.mark.parametrize("kind", ["window", "chosen"])
def test_training_steps_may_be_programs_where_hyper_steps_are_not(monkeypatch, kind):
    monkeypatch.setattr("nestgrad_torch._compile.programs.CANDIDATES", ("traced",))
    options = {"every": 3, "method": ng.Unrolled(num_steps=2)} if kind == "window" else {}
    ends, first = [], start()
    for compiled in (False, True):
        tuner = made(problem=LINEAR, compile=compiled, **options)
        state = tuner.init(first)
        batches = steps(6)
        state, seen = tuner.run(state, [inner for inner, _ in batches], batches[0][1])
        ends.append((state["params"]["w"], state["hparams"]["lr"], seen.hypergradients[-1].total["lr"]))
        assert len(seen.events) == len(seen.hypergradients) >= 1
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*ends, strict=True))


def test_what_cannot_be_part_of_a_program_is_refused_by_name():
    for method, name in ((ng.Unrolled(num_steps=2, mode="forward"), "forward"), (warm_method(), "GMRES")):
        with pytest.raises(ng.UnsupportedSpec, match=name):
            made(every=2, method=method, compile=True)


def warm_method():
    return ng.Implicit(solver=ng.GMRES(rtol=1e-10, atol=0.0, max_steps=40, restart=5))


@pytest.mark.parametrize("carry", ["weights", "weights_and_state"])
def test_a_carried_adjoint_ends_where_cold_solves_do(carry):
    problem = ng.BilevelProblem(ng.WeightUpdate(runs.linear_error, runs.sgd, carry), runs.linear_error)
    ends, first = [], start()
    for warm in (False, True):
        tuner = made(problem=problem, every=2, method=warm_method(), warm_start=warm)
        state = tuner.init(first)
        (inner, outer) = steps(1)[0]
        for _ in range(12):
            state, info = tuner.step(state, inner, outer)
            assert info.hypergradient.adjoint is None
        ends.append(state)
    assert torch.allclose(ends[0]["hparams"]["lr"], ends[1]["hparams"]["lr"], rtol=1e-6)
    assert "adjoint" not in ends[0]
    adjoint = ends[1]["adjoint"] if carry == "weights" else ends[1]["adjoint"]["params"]
    assert bool(adjoint["w"].abs().sum() > 0.0)


def test_a_chosen_look_back_is_told_by_the_state_and_goes_on_from_a_copy():
    tuner, again = made(problem=LINEAR), made(problem=LINEAR)
    state = tuner.init(start())
    assert state["chosen"] == {"every": 5, "num_terms": 1, "near": False, "since": 0, "until_probe": 0}
    for inner, outer in steps(5):
        state, _ = tuner.step(state, inner, outer)
    assert state["chosen"] == {"every": 10, "num_terms": 5, "near": True, "since": 0, "until_probe": 19}
    other = copy.deepcopy(state)
    for inner, outer in steps(20, seed=7):
        state, _ = tuner.step(state, inner, outer)
        other, _ = again.step(other, inner, outer)
    assert runs.same(state["hparams"], other["hparams"])
    assert state["chosen"] == other["chosen"]


def test_a_chosen_look_back_outlives_a_series_that_overflows_with_its_own_guard_or_none():
    far_beyond = {**runs.spaces(), "lr": ng.Log10(1e80)}
    (inner, outer) = steps(1)[0]
    for guard in (None, ng.Guard(max_norm=1.0)):
        tuner = ng.OnePass(LINEAR, hparams=far_beyond, outer_optimizer=runs.ADAM, every=1, guard=guard)
        assert tuner.guard == (guard or ng.Guard())
        state = tuner.init(start())
        state["chosen"] = {**state["chosen"], "num_terms": 5}
        after, info = tuner.step(state, inner, outer)
        assert info.hypergradient.outer_loss.isfinite()
        assert not info.hypergradient.total["lr"].isfinite()
        assert info.event is ng.Event.SKIPPED
        assert after["events"] == {"clipped": 0, "skipped": 1}
        assert runs.same((state["hparams"], state["outer_opt_state"]), (after["hparams"], after["outer_opt_state"]))
        assert after["chosen"] == {"every": 1, "num_terms": 5, "near": True, "since": 0, "until_probe": 19}


def test_a_skipped_hyper_step_changes_neither_leaves_nor_moments():
    tuner = made(problem=LINEAR, every=1, method=ng.Implicit(solver=ng.Identity()), guard=ng.Guard())
    (inner, outer), (other, _) = steps(2)
    state, info = tuner.step(tuner.init(start()), inner, outer)
    assert info.event is ng.Event.NONE
    bad = (outer[0], outer[1] * torch.nan)
    after, info = tuner.step(state, other, bad)
    assert info.event is ng.Event.SKIPPED
    assert after["events"] == {"clipped": 0, "skipped": 1}
    assert runs.same((state["hparams"], state["outer_opt_state"]), (after["hparams"], after["outer_opt_state"]))
    assert not torch.equal(state["params"]["w"], after["params"]["w"])


def test_whole_runs_begin_with_the_buffers_and_the_optimizer_state_of_init():
    method, module = ng.Unrolled(num_steps=2), runs.network(torch.nn.BatchNorm1d(4))
    for stale in (False, True):
        tuner = made(ng.FullHorizon, method=method, stale_state=stale)
        state, batches = tuner.init(module), steps(3)
        leaves = state["hparams"]
        ends = []
        for inner, outer in (*batches[:2], batches[0]):
            state, _ = tuner.step({**state, "hparams": leaves}, inner, outer)
            ends.append(state)
        assert runs.same(ends[0]["buffers"], ends[2]["buffers"])
        assert runs.same(ends[0]["params"], ends[2]["params"]) is not stale


def test_a_fixed_run_on_a_module_is_plain_training():
    module = runs.network()
    tuner = ng.Fixed(PROBLEM.inner, hparams=runs.spaces())
    state, twin = tuner.init(module), copy.deepcopy(module)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.6, weight_decay=1e-3)
    for inner, _ in steps(5):
        state, info = tuner.step(state, inner)
        optimizer.zero_grad()
        runs.error(twin, None, inner).backward()
        optimizer.step()
        assert not info.tuned
    for name, p in twin.named_parameters():
        assert torch.allclose(state["params"][name], p, rtol=1e-12, atol=1e-14)
    assert torch.equal(tuner.module(state)[0].weight, state["params"]["0.weight"])


def test_a_value_that_drifts_out_of_its_space_raises():
    spaces = {**runs.spaces(), "momentum": ng.Logit(0.9)}
    tuner = ng.RandomMultiplier(LINEAR.inner, hparams=spaces, every=1, low=1.2, high=1.3)
    with pytest.raises(ng.OutOfSpace, match="momentum"):
        tuner.step(tuner.init(start(), key=1), *steps(1)[0])
