"""What tuners are built from is checked when they are built, and guards judge as they say."""

import math

import pytest

from nestgrad import (
    CG,
    GMRES,
    BilevelProblem,
    Event,
    Guard,
    Implicit,
    InvalidInput,
    LinearResponse,
    Log10,
    Minimize,
    MLPResponse,
    Neumann,
    Normal,
    Nystrom,
    Uniform,
    Unrolled,
    UnsupportedSpec,
    WeightUpdate,
    begins_run,
    check_fixed,
    check_full_horizon,
    check_hyper_training,
    check_many_runs,
    check_one_pass,
    check_random_multiplier,
    require_leading_axis,
    space_paths,
    window_position,
)

SERIES = Implicit(solver=Neumann(num_terms=5, step_size=1.0))
SOLVE = Implicit(solver=GMRES(rtol=1e-6, atol=0.0, max_steps=10))
SPACES = {"lr": Log10(0.1)}
UPDATE = WeightUpdate(lambda p, h, b: 0.0, lambda h: None)


def hyper_training(inner=None, **options):
    problem = BilevelProblem(inner or Minimize(UPDATE.loss), UPDATE.loss)
    given = {"response": LinearResponse(), "distribution": Normal(variance=0.1), "samples": 2, "response_steps": None}
    return check_hyper_training(problem, options.pop("hparams", SPACES), **{**given, **options})


def one_pass(every=10, method=SERIES, **options):
    return check_one_pass(BilevelProblem(UPDATE, UPDATE.loss), SPACES, every, method, **options)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: one_pass(every=0), InvalidInput, r"OnePass\.every: got 0, limit: an int of at least 1"),
        (lambda: one_pass(method=CG(rtol=0.1, max_steps=1)), UnsupportedSpec, "limit: Implicit or Unrolled"),
        (lambda: one_pass(method=Implicit(solver=Nystrom(rank=2, damping=0.1))), UnsupportedSpec, "draws at random"),
        (lambda: one_pass(3, Unrolled(num_steps=4)), InvalidInput, "num_steps=4, limit: every=3"),
        (lambda: one_pass(warm_start=True), InvalidInput, "warm_start: given to Neumann"),
        (lambda: one_pass(None, None, warm_start=True), InvalidInput, "warm_start: True with no method"),
        (lambda: one_pass(guard=0.1), InvalidInput, r"OnePass\.guard: got 0\.1, limit: a Guard or None"),
        (lambda: check_full_horizon(SERIES), UnsupportedSpec, r"FullHorizon\.method: .* limit: Unrolled"),
        (lambda: check_fixed(Minimize(UPDATE.loss), SPACES), UnsupportedSpec, "Fixed: inner problem Minimize"),
        (lambda: check_fixed(UPDATE, {}), InvalidInput, r"Fixed\.hparams: 0 hyperparameters"),
        (lambda: check_random_multiplier(UPDATE, SPACES, 10, 1.0, 0.9), InvalidInput, r"low=1\.0, high=0\.9"),
        (lambda: check_random_multiplier(UPDATE, SPACES, 10, 0.0, 0.9), InvalidInput, "0 < low < high"),
        (lambda: check_random_multiplier(UPDATE, SPACES, 10, 0.9, math.inf), InvalidInput, "finite numbers"),
        (lambda: check_random_multiplier(UPDATE, SPACES, 0, 0.9, 1.0), InvalidInput, r"RandomMultiplier\.every"),
        (lambda: hyper_training(UPDATE), UnsupportedSpec, "inner problem WeightUpdate, limit: Minimize"),
        (
            lambda: hyper_training(response=MLPResponse),
            InvalidInput,
            r"HyperTraining\.response: .* limit: LinearResponse",
        ),
        (lambda: hyper_training(distribution=0.1), InvalidInput, r"distribution: got 0\.1, limit: Normal or Uniform"),
        (
            lambda: hyper_training(samples=0),
            InvalidInput,
            r"HyperTraining\.samples: got 0, limit: an int of at least 1",
        ),
        (lambda: hyper_training(response_steps=True), InvalidInput, r"HyperTraining\.response_steps: got True"),
        (lambda: hyper_training(hparams={}), InvalidInput, r"HyperTraining\.hparams: 0 hyperparameters"),
        (lambda: hyper_training(guard=1.0), InvalidInput, r"HyperTraining\.guard: got 1\.0"),
        (lambda: MLPResponse(0), InvalidInput, r"MLPResponse\.hidden: got 0, limit: an int of at least 1"),
        (
            lambda: Normal(variance=-1.0),
            InvalidInput,
            r"Normal\.variance: got -1\.0, limit: a finite number of at least 0",
        ),
        (lambda: Normal(variance=1.0, mean=math.nan), InvalidInput, r"Normal\.mean: got nan, limit: a finite number"),
        (lambda: Uniform(low=1.0, high=1.0), InvalidInput, "low=1.0, high=1.0, limit: low below high"),
        (lambda: Guard(max_norm=0.0), InvalidInput, r"Guard\.max_norm: got 0\.0"),
        (lambda: Guard(too_long="drop"), InvalidInput, r"Guard\.too_long: got 'drop'"),
        (lambda: check_many_runs(object(), 2), UnsupportedSpec, "tuner object, limit: OnePass, FullHorizon"),
        (lambda: require_leading_axis("params['w']", (3,), 2), InvalidInput, r"shape \(3,\), limit: \(2, …\)"),
        (lambda: require_leading_axis("params['c']", (), 2), InvalidInput, r"shape \(\), limit: \(2, …\)"),
    ],
)
def test_what_a_tuner_cannot_be_built_from_is_refused(made, error, message):
    with pytest.raises(error, match=message):
        made()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"every": None},
        {"method": None},
        {"every": None, "method": None},
        {"method": Unrolled(num_steps=10)},
        {"every": None, "method": Unrolled(num_steps=10)},
        {"method": SOLVE, "warm_start": True},
        {"guard": Guard()},
    ],
)
def test_legal_one_pass_tuners_are_built(options):
    assert one_pass(**options) is UPDATE


def test_a_guard_lets_a_moderate_hypergradient_pass_and_skips_one_that_is_not_finite():
    assert Guard().judge(1e30, finite=True) == (Event.NONE, 1.0)
    assert Guard(max_norm=2.0).judge(2.0, finite=True) == (Event.NONE, 1.0)
    assert Guard(max_norm=2.0).judge(math.nan, finite=False) == (Event.SKIPPED, 0.0)


def test_a_guard_clips_to_its_norm_or_skips_beyond_it():
    assert Guard(max_norm=2.0).judge(8.0, finite=True) == (Event.CLIPPED, 0.25)
    assert Guard(max_norm=2.0, too_long="skip").judge(8.0, finite=True) == (Event.SKIPPED, 0.0)


def test_a_window_is_the_last_steps_of_an_interval():
    assert [window_position(step, 5, 2) for step in range(6)] == [-3, -2, -1, 0, 1, -3]


def test_a_run_begins_after_a_whole_horizon():
    assert [step for step in range(10) if begins_run(step, 3)] == [3, 6, 9]


def test_every_leaf_has_the_path_of_its_space():
    spaces = {"lr": Log10(0.1), "nest": [Log10(1.0), Log10(2.0)]}
    values = {"lr": {"w": 1.0, "b": 2.0}, "nest": [3.0, {"w": 4.0}]}
    assert space_paths(spaces, values) == ["lr", "lr", "nest/0", "nest/1"]
    assert space_paths(Log10(0.1), {"w": 1.0}) == [""]


def test_a_users_own_kind_of_one_pass_may_have_many_runs():
    one_pass_kind = type("OnePass", (), {"method": SERIES})
    check_many_runs(type("Mine", (one_pass_kind,), {})(), 2)
    with pytest.raises(UnsupportedSpec, match="chooses its own look-back"):
        check_many_runs(type("Mine", (one_pass_kind,), {"method": None})(), 2)


def test_leaves_are_drawn_with_the_variance_about_the_mean_and_between_the_ends():
    assert Normal(variance=0.25).sample(3.0, -1.0) == 2.5
    assert Normal(variance=0.25, mean=1.0).sample(3.0, 2.0) == 2.0
    assert Uniform(low=-1.0, high=3.0).sample(9.0, 0.25) == 0.0
