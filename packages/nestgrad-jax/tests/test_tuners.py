"""What guards, windows, baselines and many runs do besides what every backend does: traces, programs, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

RUNS = 3
_RNG = np.random.default_rng(2)
X, Y, XV, YV = (_RNG.normal(size=shape).astype(np.float32) for shape in ((8, 3), (8,), (5, 3), (5,)))
START = np.array([0.5, -1.0, 2.0], np.float32)
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0))


def loss(params, hparams, batch):
    features, targets = batch
    return ((jnp.matmul(features, params["w"], precision=jax.lax.Precision.HIGHEST) - targets) ** 2).mean()


def sgd(hparams):
    return optim.sgd(hparams["lr"], hparams["m"], hparams["wd"])


UPDATE = ng.WeightUpdate(loss, sgd)
SPACES = {"lr": ng.Log10(0.05), "m": ng.Logit(0.6), "wd": ng.Log10(0.02)}


@functools.cache
def tuner(kind):
    made = functools.partial(
        ng.OnePass, ng.BilevelProblem(UPDATE, loss), hparams=SPACES, outer_optimizer=optim.adam(0.05)
    )
    if kind == "whole runs":
        options = {"hparams": SPACES, "method": ng.Unrolled(num_steps=2), "outer_optimizer": optim.adam(0.05)}
        return ng.FullHorizon(ng.BilevelProblem(UPDATE, loss), **options)
    return {
        "series": lambda: made(every=2, method=SERIES),
        "guarded": lambda: made(every=1, method=SERIES, guard=ng.Guard(max_norm=0.01)),
        "warm": lambda: made(every=2, method=ng.Implicit(solver=ng.GMRES(rtol=1e-6, max_steps=9)), warm_start=True),
        "window": lambda: made(every=3, method=ng.Unrolled(num_steps=2)),
        "chosen": made,
        "fixed": lambda: ng.Fixed(UPDATE, hparams=SPACES),
        "drifting": lambda: ng.RandomMultiplier(UPDATE, hparams=SPACES, every=2),
    }[kind]()


def begun(kind, **options):
    return tuner(kind).init({"w": jnp.asarray(START)}, **({"key": 3} if kind == "drifting" else options))


def batches():
    return jax.tree.map(jnp.asarray, ((X, Y), (XV, YV)))


def stepped(kind, steps, state=None, spoil=()):
    inner, outer = batches()
    state, infos = begun(kind) if state is None else state, []
    for t in range(steps):
        seen = (outer[0], outer[1] + jnp.where(t in spoil, jnp.float32(jnp.nan), jnp.float32(0.0)))
        state, info = tuner(kind).step(state, inner, seen)
        infos.append(info)
    return state, infos


def close(found, expected, rtol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


def test_a_guard_works_inside_a_scan():
    inner, outer = batches()
    state, infos = stepped("guarded", 5, spoil=(2,))

    def body(carry, t):
        return tuner("guarded").step(carry, inner, (outer[0], outer[1] + jnp.where(t == 2, jnp.nan, 0.0).astype("f4")))

    last, seen = jax.lax.scan(body, begun("guarded"), jnp.arange(5))
    close(last, state)
    assert seen.event.dtype == jnp.int32
    assert seen.event.tolist() == [int(info.event) for info in infos]
    assert infos[2].event is ng.Event.SKIPPED
    assert {name: count.dtype for name, count in last["events"].items()} == {"clipped": "int32", "skipped": "int32"}
    assert int(state["events"]["skipped"]) == 1
    assert int(state["events"]["clipped"]) == sum(info.event is ng.Event.CLIPPED for info in infos) > 0


def test_a_skipped_step_keeps_the_outer_state_and_a_clipped_one_has_the_norm():
    before, _ = stepped("guarded", 1)
    after, (info,) = stepped("guarded", 1, before, spoil=(0,))
    for part in ("hparams", "outer_opt_state"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])
    assert info.hypergradient.status is ng.Status.NONFINITE
    assert not np.array_equal(after["params"]["w"], before["params"]["w"])


@pytest.mark.parametrize("kind", ["warm", "drifting", "fixed"])
def test_a_scan_is_the_loop(kind):
    inner, outer = batches()
    state, infos = stepped(kind, 5)
    last, seen = jax.lax.scan(lambda s, _: tuner(kind).step(s, inner, outer), begun(kind), length=5)
    close(last, state, rtol=1e-4)
    assert seen.tuned.tolist() == [bool(info.tuned) for info in infos]


@pytest.mark.parametrize("kind", ["window", "chosen", "whole runs"])
def test_what_is_driven_from_python_is_refused_inside_a_trace(kind):
    inner, outer = batches()
    with pytest.raises(ng.InvalidInput, match=r"\.step: state\['step'\] is traced.*Remedy"):
        jax.jit(lambda step: tuner(kind).step({**begun(kind), "step": step}, inner, outer))(jnp.int32(0))


@pytest.mark.parametrize("kind", ["series", "window", "chosen", "whole runs"])
def test_a_block_is_its_steps(kind):
    inner, outer = batches()
    state, infos = stepped(kind, 7)
    last, told = tuner(kind).run(begun(kind), [inner] * 7, outer)
    close(last["params"], state["params"])
    close(last["hparams"], state["hparams"])
    np.testing.assert_allclose(told.inner_losses, [info.inner_loss for info in infos], rtol=1e-5)
    assert len(told.hypergradients) == len(told.events) == sum(bool(info.tuned) for info in infos)


def test_a_window_is_kept_only_while_it_is_open_and_its_report_has_no_ends():
    kept = []
    state = begun("window")
    for _ in range(4):
        state, (info,) = stepped("window", 1, state)
        kept.append(len(state["window"].get("batches", ())))
    assert kept == [0, 1, 0, 0]
    assert info.hypergradient.params is None


def test_numbers_found_by_measuring_compile_a_program_each():
    made = tuner("chosen")
    state, infos = stepped("chosen", 60)
    assert sum(bool(info.tuned) for info in infos) > 3
    programs = made._programs.tune_by_jitted._cache_size()
    stored = jax.tree.map(np.asarray, state)
    again, _ = stepped("chosen", 3, stored)
    state, _ = stepped("chosen", 3, state)
    jax.tree.map(np.testing.assert_array_equal, again["hparams"], state["hparams"])
    assert programs <= 6, f"{programs} programs in 60 steps"


def test_a_chosen_look_back_outlives_a_hypergradient_that_is_not_finite():
    assert tuner("chosen").guard == ng.Guard()
    for until_probe in (0, 3):
        state = begun("chosen")
        state["chosen"] = {"every": 1, "num_terms": 1, "near": False, "since": 0, "until_probe": until_probe}
        after, (info,) = stepped("chosen", 1, state, spoil=(0,))
        assert info.event == ng.Event.SKIPPED
        assert np.isnan(info.hypergradient.outer_loss)
        for part in ("hparams", "outer_opt_state"):
            jax.tree.map(np.testing.assert_array_equal, state[part], after[part])
        assert after["chosen"]["near"] == (until_probe == 0)


def test_a_factor_that_leads_out_of_its_space_is_named():
    spaces = {**SPACES, "m": ng.Logit(0.9999)}
    made = ng.RandomMultiplier(UPDATE, hparams=spaces, every=1, low=1.01, high=1.02)
    state = made.init({"w": jnp.asarray(START)}, key=0)
    with pytest.raises(ng.OutOfSpace, match="'m'"):
        made.step(state, *batches())


@pytest.mark.parametrize("kind", ["whole runs", "window", "fixed", "drifting"])
def test_many_runs_are_their_single_runs(kind):
    inner, outer = batches()
    starts = [{"w": jnp.asarray(START * factor)} for factor in (1.0, -0.5, 2.0)]
    many = ng.ManyRuns(tuner(kind), runs=RUNS)
    state = many.init(jax.tree.map(lambda *x: jnp.stack(x), *starts), **({"key": 1} if kind == "drifting" else {}))
    alone = [{**begun(kind), "params": start} for start in starts]
    if kind == "drifting":
        factors = [jax.tree.map(lambda x, r=r: x[r], state["multipliers"]) for r in range(RUNS)]
        assert len({float(each["lr"]) for each in factors}) == RUNS
        alone = [{**each, "multipliers": own} for each, own in zip(alone, factors, strict=True)]
    if kind == "whole runs":
        alone = [{**each, "initial": each["params"]} for each in alone]
    last, told = many.run(state, [inner] * 5, outer)
    assert told.inner_losses.shape == (5, RUNS)
    for r, single in enumerate(alone):
        ended, _ = stepped(kind, 5, single)
        for part in ("params", "hparams", "opt_state"):
            close(jax.tree.map(lambda x, r=r: x[r], last[part]), ended[part])


def test_many_runs_say_of_a_number_that_failed_and_raise_nothing():
    inner, outer = batches()
    many = ng.ManyRuns(tuner("series"), runs=RUNS)
    starts = {"w": jnp.stack([jnp.asarray(START)] * RUNS).at[1, 0].set(jnp.inf)}
    state, told = many.run(many.init(starts), [inner] * 2, outer)
    (found,) = told.hypergradients
    assert [int(status) == ng.Status.NONFINITE for status in found.status] == [False, True, False]
    assert np.isfinite(np.asarray(state["hparams"]["lr"])).tolist() == [True, False, True]
    assert found.stats.rhs_norm.shape == (RUNS,)


def test_what_many_runs_do_not_take_is_refused_by_name():
    many = ng.ManyRuns(tuner("series"), runs=2)
    starts = {"w": jnp.stack([jnp.asarray(START)] * 2)}
    state = many.init(starts)
    with pytest.raises(ng.InvalidInput, match="one entry a run"):
        many.init(starts, {name: jnp.full(3, 0.1, jnp.float32) for name in SPACES})
    with pytest.raises(ng.InvalidInput, match="structure"):
        many.init(starts, {"lr": jnp.full(2, 0.1, jnp.float32)})
    with pytest.raises(ng.OutOfSpace, match="'m'"):
        many.init(starts, {name: jnp.full(2, 1.5, jnp.float32) for name in SPACES})
    with pytest.raises(ng.InvalidInput, match="traced"):
        jax.jit(lambda s: many.step(s, *batches()))(state)
    reversible = ng.OnePass(
        ng.BilevelProblem(ng.WeightUpdate(loss, lambda h: optim.reversible_sgd(h["lr"], h["m"])), loss),
        hparams={"lr": ng.Log10(0.05), "m": ng.Logit(0.6)},
        every=2,
        method=ng.Unrolled(num_steps=2, mode="reversible"),
        outer_optimizer=optim.adam(0.05),
    )
    with pytest.raises(ng.UnsupportedSpec, match="reversible"):
        ng.ManyRuns(reversible, runs=2)


def with_rule(rule):
    return ng.OnePass(
        ng.BilevelProblem(ng.WeightUpdate(loss, rule), loss),
        hparams={"lr": ng.Log10(0.01)},
        every=1,
        method=SERIES,
        outer_optimizer=optim.adam(0.05),
    )


def optax_chain(hparams):
    rule = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(hparams["lr"], eps=1e-3))

    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return rule.update(grads, state, params)

    return optax.GradientTransformation(rule.init, update)


def test_an_optax_chain_tunes_as_our_rule_does_where_gradients_are_not_zero():
    totals = []
    for rule in (
        optax_chain,
        lambda h: optim.clipped(optim.adamw(h["lr"], eps=1e-3, weight_decay=1e-4), 0.5),
    ):
        made = with_rule(rule)
        state = made.init({"w": jnp.asarray(START)})
        for _ in range(2):
            state, info = made.step(state, *batches())
        totals.append(float(info.hypergradient.total["lr"]))
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)
    assert totals[0] != 0.0


def test_a_root_at_a_gradient_of_zero_is_an_error_that_names_the_rule_to_use():
    inner, outer = batches()
    absent = (inner[0].at[:, 1].set(0.0), inner[1])
    made = with_rule(optax_chain)
    with pytest.raises(ng.NonFinite, match=r"1 weights have a gradient of exactly zero.*nestgrad_jax\.optim"):
        made.step(made.init({"w": jnp.asarray(START)}), absent, outer)
    ours = with_rule(lambda h: optim.clipped(optim.adamw(h["lr"], eps=1e-3), 0.5))
    _, info = ours.step(ours.init({"w": jnp.asarray(START)}), absent, outer)
    assert info.hypergradient.status.ok
