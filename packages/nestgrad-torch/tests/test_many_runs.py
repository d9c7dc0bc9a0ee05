"""Many runs on a leading axis: each as it is alone, whatever the tuner, the rule and the guard."""

import copy
import functools

import pytest
import torch

import nestgrad_torch as ng
from nestgrad import tree

RUNS = 3
ADAM = functools.partial(torch.optim.Adam, lr=0.05)
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.7))
RULES = {
    "sgd": lambda h: ng.optim.sgd(h["lr"], h["momentum"], 1e-2),
    "adam": lambda h: ng.optim.adam(h["lr"], h["momentum"], 0.9, 1e-3),
    "clipped": lambda h: ng.optim.clipped(ng.optim.sgd(ng.optim.cosine(h["lr"], 9.0), h["momentum"]), 0.5),
}


def loss(params, hparams, batch):
    hidden = torch.tanh(batch[0] @ params["w"] + params["b"])
    return ((hidden @ params["v"] - batch[1]) ** 2).mean() + 0.0 * hparams["lr"]


def problem(rule="sgd", carry="weights"):
    return ng.BilevelProblem(ng.WeightUpdate(loss, RULES[rule], carry), loss)


def spaces():
    return {"lr": ng.Log10(0.05), "momentum": ng.Logit(0.6)}


def tuner(kind=ng.OnePass, rule="sgd", carry="weights", outer_optimizer=ADAM, **options):
    return kind(problem(rule, carry), hparams=spaces(), outer_optimizer=outer_optimizer, throw=False, **options)


KINDS = {
    "series": lambda: tuner(every=2, method=SERIES),
    "identity": lambda: tuner(every=2, method=ng.Implicit(solver=ng.Identity())),
    "carried": lambda: tuner(every=2, method=SERIES, carry="weights_and_state"),
    "adam": lambda: tuner(every=2, method=SERIES, rule="adam"),
    "clipped rule": lambda: tuner(every=2, method=SERIES, rule="clipped"),
    "guarded": lambda: tuner(every=1, method=SERIES, guard=ng.Guard(max_norm=0.05)),
    "skipping": lambda: tuner(every=1, method=SERIES, guard=ng.Guard(max_norm=0.05, too_long="skip")),
    "one by one": lambda: tuner(
        every=1,
        method=SERIES,
        guard=ng.Guard(max_norm=0.05, too_long="skip"),
        outer_optimizer=functools.partial(torch.optim.RMSprop, lr=0.05),
    ),
    "window": lambda: tuner(every=3, method=ng.Unrolled(num_steps=2), rule="adam"),
    "forward window": lambda: tuner(every=2, method=ng.Unrolled(num_steps=2, mode="forward")),
    "whole runs": lambda: tuner(ng.FullHorizon, method=ng.Unrolled(num_steps=2), rule="adam"),
    "stale whole runs": lambda: tuner(ng.FullHorizon, method=ng.Unrolled(num_steps=2), stale_state=True),
    "fixed": lambda: ng.Fixed(problem("adam").inner, hparams=spaces()),
}


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def start(dtype=torch.float64):
    params = {"w": draw(RUNS, 3, 4, dtype=dtype), "b": draw(RUNS, 4, dtype=dtype), "v": draw(RUNS, 4, 1, dtype=dtype)}
    values = {"lr": 0.02 + 0.05 * torch.rand(RUNS, dtype=dtype), "momentum": 0.2 + 0.5 * torch.rand(RUNS, dtype=dtype)}
    return params, values


def batches(count, *lead, dtype=torch.float64):
    def drawn(rows):
        return draw(*lead, rows, 3, dtype=dtype), draw(*lead, rows, 1, dtype=dtype)

    return [(drawn(9), drawn(7)) for _ in range(count)]


def of_run(values, r):
    return tree.map(lambda x: x[r], values)


def alone(single, many, params, values, r):
    """The state of one run by itself, from the leaves that the many runs begin with."""
    begun = many.init(params, values)
    return {**single.init(of_run(params, r)), "hparams": of_run(begun["hparams"], r)}


def close(found, wanted, limit):
    pairs = zip(tree.leaves({"": wanted}), *tree.matched({"": wanted}, {"": found}), strict=True)
    for right, left in pairs:
        assert torch.allclose(left, right, rtol=limit, atol=limit), f"{left} is not {right}"


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_run_is_as_it_is_alone(dtype, kind, shared):
    single = KINDS[kind]()
    many, limit = ng.ManyRuns(single, runs=RUNS, shared_batches=shared), 1e-10 if dtype == torch.float64 else 1e-5
    params, values = start(dtype)
    state = many.init(params, values)
    apart = [alone(single, many, params, values, r) for r in range(RUNS)]
    for inner, outer in batches(6, *(() if shared else (RUNS,)), dtype=dtype):
        state, info = many.step(state, inner, outer)
        for r in range(RUNS):
            own = (inner, outer) if shared else (of_run(inner, r), of_run(outer, r))
            apart[r], seen = single.step(apart[r], *own)
            close(of_run(state["params"], r), apart[r]["params"], limit)
            close(of_run(state["hparams"], r), apart[r]["hparams"], limit)
            close(of_run(info.hypergradient.total, r), seen.hypergradient.total, limit)
            close(of_run(info.hparams, r), seen.hparams, limit)
            close(info.inner_loss[r], seen.inner_loss, limit)
            assert int(info.event[r]) == int(seen.event)
            assert int(info.hypergradient.status[r]) == int(seen.hypergradient.status)
            assert info.tuned == seen.tuned
            if seen.tuned:
                close(info.hypergradient.outer_loss[r], seen.hypergradient.outer_loss, limit)
    for r in range(RUNS):
        if "events" in state:
            assert {name: int(n[r]) for name, n in state["events"].items()} == apart[r]["events"]


def test_the_statistics_of_each_run_are_its_own():
    single = KINDS["series"]()
    many = ng.ManyRuns(single, runs=RUNS)
    params, values = start()
    state = many.init(params, values)
    (inner, outer), (second, _) = batches(2)
    singles = [alone(single, many, params, values, r) for r in range(RUNS)]
    state, _ = many.step(state, inner, outer)
    _, info = many.step(state, second, outer)
    for r, begun in enumerate(singles):
        own, _ = single.step(begun, inner, outer)
        _, seen = single.step(own, second, outer)
        for name in ng.Stats.__dataclass_fields__:
            found, wanted = getattr(info.hypergradient.stats, name), getattr(seen.hypergradient.stats, name)
            found = float(found if name == "eps" else found[r])
            assert found == pytest.approx(wanted, rel=1e-9, nan_ok=True), name


def test_a_run_far_larger_than_the_others_takes_no_digits_from_them():
    many = ng.ManyRuns(KINDS["series"](), runs=RUNS)
    params, values = start(torch.float32)
    ends = []
    for factor in (1.0, 1e15):
        scaled = {**params, "v": torch.cat([params["v"][:1], factor * params["v"][1:2], params["v"][2:]])}
        state = many.init(scaled, values)
        torch.manual_seed(2)
        for inner, outer in batches(2, dtype=torch.float32):
            state, _ = many.step(state, inner, outer)
        ends.append((state["params"], state["hparams"]))
    for r in (0, 2):
        rows = zip(*(tree.leaves(of_run(end, r)) for end in ends), strict=True)
        assert all(torch.equal(a, b) for a, b in rows)


@pytest.mark.parametrize("kind", ["series", "window", "guarded"])
def test_a_nan_stays_in_its_run_and_raises_nothing(kind):
    single = KINDS[kind]()
    single.throw = True
    many = ng.ManyRuns(single, runs=RUNS)
    params, values = start()
    data, ends, info = batches(6), [], None
    for spoiled in (False, True):
        begun = {name: p.clone() for name, p in params.items()}
        begun["w"][1, 0, 0] = torch.nan if spoiled else 0.0
        state = many.init(begun, values)
        for inner, outer in data:
            state, info = many.step(state, inner, outer)
        ends.append((state["params"], state["hparams"]))
    assert [int(status) for status in info.hypergradient.status] == [1, 9, 1]
    for r in (0, 2):
        rows = zip(*(tree.leaves(of_run(end, r)) for end in ends), strict=True)
        assert all(torch.equal(a, b) for a, b in rows)


def test_what_a_guard_skips_in_one_run_keeps_its_moments_and_its_count():
    many = ng.ManyRuns(KINDS["skipping"](), runs=RUNS, shared_batches=False)
    params, values = start()
    state = many.init(params, values)
    (inner, outer), (other, target) = batches(2, RUNS)
    state, _ = many.step(state, inner, outer)
    target[1][1] *= torch.nan
    after, info = many.step(state, other, target)
    assert int(info.event[1]) == ng.Event.SKIPPED
    assert torch.equal(after["hparams"]["lr"][1], state["hparams"]["lr"][1])
    for old, new in zip(state["outer_opt_state"], after["outer_opt_state"], strict=True):
        assert all(torch.equal(old[name][1], new[name][1]) for name in old)
    assert not torch.equal(after["params"]["w"][1], state["params"]["w"][1])


def test_a_state_goes_on_from_a_copy():
    many, again = (ng.ManyRuns(KINDS["window"](), runs=RUNS) for _ in range(2))
    state = many.init(*start())
    data = batches(7)
    for inner, outer in data[:3]:
        state, _ = many.step(state, inner, outer)
    other = copy.deepcopy(state)
    for inner, outer in data[3:]:
        state, _ = many.step(state, inner, outer)
        other, _ = again.step(other, inner, outer)
    assert all(torch.equal(a, b) for a, b in zip(*(tree.leaves(s["params"]) for s in (state, other)), strict=True))


@pytest.mark.parametrize("kind", ["series", "adam", "guarded", "window"])
def test_programs_take_the_same_steps(monkeypatch, kind):
    monkeypatch.setattr("nestgrad_torch._compile.programs.CANDIDATES", ("traced",))
    params, values = start()
    data, ends = batches(6), []
    for compiled in (False, True):
        single = KINDS[kind]()
        if compiled:
            options = {"every": single.every, "method": single.method, "guard": single.guard}
            single = tuner(rule="adam" if kind in ("adam", "window") else "sgd", compile=True, **options)
        many = ng.ManyRuns(single, runs=RUNS)
        state = many.init(params, values)
        state, _ = many.step(state, *data[0])
        state, seen = many.run(state, [inner for inner, _ in data[1:]], data[0][1])
        ends.append((state["params"], state["hparams"], seen.inner_losses, [g.total for g in seen.hypergradients]))
    assert ends[0][2].shape == (5, RUNS)
    for left, right in zip(*(tree.leaves(end) for end in ends), strict=True):
        assert torch.allclose(left, right, rtol=1e-9, atol=1e-11)


def test_stacked_modules_are_runs_through_functional_call():
    modules = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)) for _ in range(RUNS)]
    layers = copy.deepcopy(modules[0])

    def error(params, hparams, batch):
        return ((torch.func.functional_call(layers, params, (batch[0],)) - batch[1]) ** 2).mean()

    def direct(params, hparams, batch):
        return ((params(batch[0]) - batch[1]) ** 2).mean()

    def made(function):
        inner = ng.WeightUpdate(function, RULES["sgd"])
        return ng.OnePass(
            ng.BilevelProblem(inner, function), hparams=spaces(), every=2, method=SERIES, outer_optimizer=ADAM
        )

    many, single = ng.ManyRuns(made(error), runs=RUNS), made(direct)
    with pytest.raises(ng.InvalidInput, match="stack_module_state"):
        many.init(modules[0])
    params, _ = torch.func.stack_module_state(modules)
    state = many.init({name: p.detach() for name, p in params.items()})
    states = [single.init(module) for module in modules]
    for inner, outer in batches(4, dtype=torch.float32):
        state, _ = many.step(state, inner, outer)
        for r in range(RUNS):
            states[r], _ = single.step(states[r], inner, outer)
    for r in range(RUNS):
        close(of_run(state["params"], r), states[r]["params"], 1e-5)


def test_multipliers_are_drawn_for_each_run():
    many = ng.ManyRuns(ng.RandomMultiplier(problem().inner, hparams=spaces(), every=2), runs=RUNS)
    params, values = start()
    state = many.init(params, values, key=3)
    factors = state["multipliers"]
    assert all(f.shape == (RUNS,) and len(set(f.tolist())) == RUNS for f in factors.values())
    for inner, _ in batches(2):
        state, info = many.step(state, inner)
    assert info.tuned
    for name, value in values.items():
        close(info.hparams[name], value * factors[name], 1e-12)


def test_what_runs_cannot_share_is_refused_by_name():
    params, values = start()

    def branching(params, hparams, batch):
        value = loss(params, hparams, batch)
        return value if value > 0.0 else -value

    inner = ng.WeightUpdate(branching, RULES["sgd"])
    many = ng.ManyRuns(ng.Fixed(inner, hparams=spaces()), runs=RUNS)
    with pytest.raises(ng.UnsupportedSpec, match=r"inner loss cannot be taken for all runs at once.*Remedy"):
        many.step(many.init(params), batches(1)[0][0])
    own = ng.ManyRuns(KINDS["fixed"](), runs=RUNS, shared_batches=False)
    with pytest.raises(ng.InvalidInput, match=r"inner_batch\['0'\].*one entry a run"):
        own.step(own.init(params), batches(1)[0][0])
    with pytest.raises(ng.InvalidInput, match=r"hparams\['lr'\].*one entry a run"):
        own.init(params, {"lr": torch.ones(2, dtype=torch.float64), "momentum": values["momentum"]})
    with pytest.raises(ng.InvalidInput, match=r"got key, limit"):
        own.init(params, key=3)
    reversible = tuner(ng.OnePass, every=2, method=ng.Unrolled(num_steps=2, mode="reversible"))
    with pytest.raises(ng.UnsupportedSpec, match="reversible"):
        ng.ManyRuns(reversible, runs=2)
