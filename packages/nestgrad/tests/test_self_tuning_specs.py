"""Gated responses and self-tuning tuners: what they are built from is checked, and their schedule is as told."""

import math

import pytest

from nestgrad import (
    ENTROPY_OF_UNIT_NORMAL,
    BilevelProblem,
    GatedResponse,
    InvalidInput,
    LinearResponse,
    Log10,
    Minimize,
    Normal,
    PredictionLoss,
    UnsupportedSpec,
    WeightUpdate,
    check_hyper_training,
    check_self_tuning,
    moves_outer,
    shared_columns,
    softplus_inverse,
)

SPACES = {"decay": Log10(0.1), "rate": {"in": Log10(0.2), "out": Log10(0.3)}}
PLAIN = Minimize(lambda p, h, b: 0.0)
PREDICTED = Minimize(PredictionLoss(predict=lambda p, h, b: p + h * b, loss=lambda z, h, b: z * z - h))


def self_tuning(inner=PLAIN, **options):
    given = {
        "response": GatedResponse(),
        "objective": "sampled",
        "samples": "examples",
        "scale": 0.5,
        "entropy": 1e-3,
        "every": 2,
        "warmup_steps": 0,
        "shared": (),
    }
    return check_self_tuning(BilevelProblem(inner, PLAIN.loss), SPACES, **{**given, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response": LinearResponse()}, r"SelfTuning\.response: got LinearResponse\(\), limit: GatedResponse"),
        ({"objective": "linear"}, r"SelfTuning\.objective: got 'linear', limit: sampled, centred, linearised"),
        ({"objective": "linearised"}, r"with a plain loss, limit: a PredictionLoss"),
        ({"samples": 0}, r"SelfTuning\.samples: got 0, limit: an int of at least 1, or \"examples\""),
        ({"samples": True}, r"SelfTuning\.samples: got True"),
        ({"samples": "rows"}, r"SelfTuning\.samples: got 'rows'"),
        ({"scale": 0.0}, r"SelfTuning\.scale: got 0\.0, limit: a finite number above 0"),
        ({"scale": math.inf}, r"SelfTuning\.scale: got inf"),
        ({"entropy": -1e-3}, r"SelfTuning\.entropy: got -0\.001, limit: None, or a finite number of at least 0"),
        ({"every": 0}, r"SelfTuning\.every: got 0"),
        ({"warmup_steps": -1}, r"SelfTuning\.warmup_steps: got -1, limit: an int of at least 0"),
        ({"shared": ("momentum",)}, r"SelfTuning\.shared: got 'momentum', limit: a tuple of decay, rate/in, rate/out"),
        ({"guard": 1.0}, r"SelfTuning\.guard: got 1\.0"),
    ],
)
def test_what_a_self_tuning_tuner_cannot_be_built_from_is_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        self_tuning(**options)


def test_a_self_tuning_tuner_takes_a_loss_and_no_optimizer():
    with pytest.raises(UnsupportedSpec, match="inner problem WeightUpdate, limit: Minimize"):
        self_tuning(WeightUpdate(PLAIN.loss, lambda h: None))
    assert self_tuning(PREDICTED, objective="linearised", entropy=None, samples=3) is PREDICTED


def test_hyper_training_takes_a_gated_response():

    problem = BilevelProblem(PLAIN, PLAIN.loss)
    options = {"distribution": Normal(variance=0.1), "samples": 1, "response_steps": None}
    assert check_hyper_training(problem, SPACES, response=GatedResponse(), **options) is PLAIN


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: GatedResponse(axis=True), r"got axis=True"),
        (lambda: GatedResponse(axes=("words", 1)), r"axes=\('words', 1\), limit: an int, and a tuple of pairs"),
        (lambda: GatedResponse(axes=(("words", 1.0),)), "a tuple of pairs"),
        (lambda: GatedResponse(axes={"words": 1}), "a tuple of pairs"),
        (lambda: GatedResponse(gate_scale=-0.1), r"GatedResponse\.gate_scale: got -0\.1"),
        (lambda: GatedResponse(axis=2).axis_of("w", (3, 4)), r"axis 2 of params\['w'\], limit: .* \(3, 4\) has 2"),
        (lambda: GatedResponse(axis=-2).axis_of("b", (3,)), r"axis -2 of params\['b'\]"),
        (lambda: GatedResponse(axes=(("word", 1),)).require_paths(["words"]), r"'word', limit: the leaves words"),
    ],
)
def test_a_gated_response_names_what_is_wrong(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()


def test_outputs_are_those_of_the_axis_that_a_leaf_has():
    response = GatedResponse(axis=0, axes=(("words", -1),))
    assert [response.axis_of("w", (3, 4)), response.axis_of("words", (9, 5)), response.axis_of("s", ())] == [0, 1, 0]
    assert hash(response) == hash(GatedResponse(axes=(("words", -1),)))


def test_a_prediction_loss_is_the_loss_of_the_prediction():
    assert PREDICTED.loss(1.0, 2.0, 3.0) == 7.0 * 7.0 - 2.0


def test_the_scale_begins_at_what_was_given():
    for scale in (1e-9, 0.5, 1.0, 40.0):
        raw = softplus_inverse(scale)
        assert math.log1p(math.exp(-abs(raw))) + max(raw, 0.0) == pytest.approx(scale, rel=1e-12)


def test_the_entropy_of_a_unit_normal_is_in_nats():
    assert pytest.approx(math.log(math.sqrt(2.0 * math.pi * math.e)), abs=1e-15) == ENTROPY_OF_UNIT_NORMAL


def test_hyperparameters_move_each_so_many_steps_once_warmed_up():
    assert [step for step in range(9) if moves_outer(step, 2, 0)] == [1, 3, 5, 7]
    assert [step for step in range(9) if moves_outer(step, 3, 2)] == [4, 7]
    assert [step for step in range(4) if moves_outer(step, 1, 0)] == [0, 1, 2, 3]


def test_shared_draws_are_named_by_space_for_all_their_leaves():
    leaves = {"rate": {"out": 0.3, "in": 0.2}, "decay": 0.1, "rates": 0.4}
    assert shared_columns(leaves, ("rate",)) == [False, True, True, False]
    assert shared_columns(leaves, ("rate/out", "decay")) == [True, False, True, False]
