"""`nestgrad tune` from end to end."""

import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from nestgrad_lab.data import load
from nestgrad_lab.models import predict

SHORT = ("--steps", "40", "--hidden", "8")


def test_digits_end_better_with_tuning_than_without(lab, backend):
    run = lab.tune("--backend", backend, "--steps", "600")
    loss, accuracy = run.summary["validation_loss"], run.summary["test_accuracy"]
    assert loss["tuned"] < 0.2 * loss["untuned"]
    assert accuracy["tuned"] > 0.9 > accuracy["untuned"]
    assert run.summary["time"]["ratio"] > 1.0
    assert run.status["state"] == "finished"
    assert "without tuning" in run.output
    assert "as a multiple of plain training" in run.output


def test_the_first_free_number_names_the_run_folder(lab):
    for _ in range(2):
        assert lab("tune", *SHORT).exit_code == 0
    assert sorted(path.name for path in (lab.folder / "runs").iterdir()) == ["digits-001", "digits-002"]


def test_same_seed_gives_the_same_bytes(lab, backend):
    first, again = (lab.tune("--backend", backend, *SHORT, out=out) for out in ("first", "again"))
    assert first.metrics_text == again.metrics_text
    for name in ("weights.safetensors", "tuned.toml", "picture.png"):
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes()


def test_another_seed_gives_another_split_other_weights_and_other_batches(lab):
    first, other = (lab.tune(*SHORT, "--seed", seed, out=str(seed)) for seed in (0, 1))
    assert not np.isclose(first.metrics["inner_loss"], other.metrics["inner_loss"], rtol=1e-4).any()


@pytest.mark.parametrize("data", ["digits", "table"])
def test_backends_agree_on_the_first_fifty_steps_in_float64(lab, data):
    pytest.importorskip("nestgrad_jax")
    source = ("--data", lab.write_table(), "--target", "y") if data == "table" else ()
    torch, jax = (
        lab.tune(*source, "--backend", backend, "--steps", 50, "--dtype", "float64", "--lr", 0.02, out=backend).metrics
        for backend in ("torch", "jax")
    )
    assert torch.keys() == jax.keys()
    assert torch.pop("status").tolist() == jax.pop("status").tolist()
    for name, values in torch.items():
        np.testing.assert_allclose(jax[name], values, rtol=1e-9, atol=1e-15, err_msg=name)


def test_both_runs_are_one_until_the_first_hyper_step(lab):
    metrics = lab.tune(*SHORT, "--lr", 0.02).metrics
    assert metrics["inner_loss"][0] == pytest.approx(metrics["untuned_inner_loss"][0], rel=1e-6)
    assert metrics["outer_loss"][0] == pytest.approx(metrics["untuned_outer_loss"][0], rel=1e-6)
    assert metrics["outer_loss"][-1] != pytest.approx(metrics["untuned_outer_loss"][-1], rel=1e-6)


@pytest.mark.parametrize(
    ("backend", "every", "steps", "rows"),
    [("torch", 10, 45, 4), ("torch", 1, 3, 3), ("torch", 130, 300, 2), ("jax", 10, 25, 2)],
)
def test_metrics_hold_a_row_for_each_hyper_step(lab, backend, every, steps, rows):
    pytest.importorskip(f"nestgrad_{backend}")
    run = lab.tune("--backend", backend, "--every", every, "--steps", steps, "--hidden", 4)
    assert run.metrics["step"].tolist() == [every * (i + 1) for i in range(rows)]
    assert set(run.metrics["status"]) <= {"TRUNCATED", "DIVERGED"}
    assert run.status["step"] == run.summary["step"] == steps
    last = {name: run.metrics[name][-1] for name in ("learning_rate", "momentum", "weight_decay")}
    assert run.tuned == {"step": every * rows, **last}


def test_adam_moves_every_leaf_by_its_rate_in_the_first_hyper_step(lab):
    """Adam's first step is 0.05 against the gradient's sign: in log10 for rates, in the logit for momentum."""
    first = {name: values[0] for name, values in lab.tune(*SHORT).metrics.items() if name != "status"}
    for name, leaf, start in [
        ("learning_rate", np.log10, 1e-4),
        ("weight_decay", np.log10, 1e-4),
        ("momentum", lambda mu: np.log(mu / (1 - mu)), 0.5),
    ]:
        slope = first[f"hypergradient_{name}"]
        expected = -0.05 * slope / (abs(slope) + 1e-8)
        assert leaf(first[name]) - leaf(start) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_identity_is_a_look_back_of_one(lab):
    identity = lab.tune(*SHORT, "--method", "identity", out="identity").metrics
    one = lab.tune(*SHORT, "--lookback", 1, out="one").metrics
    five = lab.tune(*SHORT, out="five").metrics
    np.testing.assert_allclose(identity["hypergradient_momentum"], one["hypergradient_momentum"], rtol=1e-6)
    assert not np.allclose(five["hypergradient_momentum"], one["hypergradient_momentum"], rtol=1e-2)


def test_dense_method_runs_on_a_small_network(lab, backend):
    table = lab.write_table()
    run = lab.tune(
        "--backend", backend, "--data", table, "--target", "y", "--method", "dense", "--hidden", 2, "--steps", 20,
        "--dtype", "float64",
    )  # fmt: skip
    assert np.isfinite(run.metrics["hypergradient_learning_rate"]).all()
    assert "lookback" not in run.config["tuning"]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_weights_file_predicts_from_raw_rows_what_the_summary_scores(lab, kind):
    table = lab.write_table(kind=kind)
    run = lab.tune("--data", table, "--target", "y", "--steps", 200, "--lr", 0.05)
    data, kept = load(table, target="y"), load_file(run.path / "weights.safetensors")
    raw = data.test.x * data.x_scale + data.x_shift
    predicted = predict(kept, (raw - kept["inputs.shift"]) / kept["inputs.scale"])
    if kind == "classification":
        score = float(np.mean(predicted.argmax(axis=1) == data.test.y))
        assert run.summary["test_accuracy"]["tuned"] == pytest.approx(score)
        assert data.classes == ("high", "low")
    else:
        natural = predicted * kept["target.scale"] + kept["target.shift"]
        wanted = data.test.y * data.y_scale + data.y_shift
        assert run.summary["test_mean_squared_error"]["tuned"] == pytest.approx(float(np.mean((natural - wanted) ** 2)))


def test_the_task_is_found_from_the_column_and_said_in_the_log(lab):
    for kind in ("regression", "classification"):
        run = lab.tune("--data", lab.write_table(kind=kind), "--target", "y", *SHORT, out=kind)
        assert run.config["data"]["task"] == kind
        assert "--task says otherwise" in run.output


def test_the_task_can_be_said(lab):
    (lab.folder / "counts.csv").write_text("a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(30)))
    found = lab.tune("--data", "counts.csv", "--target", "y", *SHORT, out="found")
    said = lab.tune("--data", "counts.csv", "--target", "y", "--task", "regression", *SHORT, out="said")
    assert found.config["data"]["task"] == "classification"
    assert said.config["data"]["task"] == "regression"
    assert said.config["model"]["outputs"] == 1


def test_a_text_column_can_be_dropped(lab):
    (lab.folder / "named.csv").write_text("name,a,y\n" + "".join(f"row {i},{i},{i * i / 7}\n" for i in range(30)))
    run = lab.tune("--data", "named.csv", "--target", "y", "--drop", "name", *SHORT)
    assert run.config["model"]["inputs"] == 1


def test_config_holds_what_decides_the_numbers(lab):
    config = lab.tune(*SHORT, "--seed", 3, "--batch-size", 32).config
    assert config["training"] == {
        "steps": 40,
        "batch_size": 32,
        "validation_batch_size": 359,
        "seed": 3,
        "start": {"learning_rate": 1e-4, "momentum": 0.5, "weight_decay": 1e-4},
    }
    assert config["tuning"]["lookback"] == 5
    assert config["backend"] == {"name": "torch", "device": "cpu"}
    assert config["data"]["rows"] == {"train": 1079, "validation": 359, "test": 359}
    assert len(config["data"]["sha256"]) == 64
    assert "numpy" in config["versions"]


def test_picture_is_a_png_with_ink_on_it(lab):
    from matplotlib.image import imread

    path = lab.tune(*SHORT).path / "picture.png"
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    pixels = imread(path)[..., :3]
    assert (width, height) == (pixels.shape[1], pixels.shape[0])
    assert width > 600
    assert height > 600
    assert 0.01 < (pixels.min(axis=-1) < 0.5).mean() < 0.3
    assert np.ptp(pixels, axis=-1).max() == 0.0, "the picture uses colour"


def test_a_log_gets_plain_lines_with_the_time_left(lab):
    output = lab.tune("--steps", 100, "--hidden", 8).output
    lines = [line for line in output.splitlines() if line.startswith("step ")]
    assert len(lines) == 10
    assert "step 100/100" in lines[-1]
    assert "s left" in lines[-1]
    assert "momentum" in lines[-1]
    assert "\x1b" not in output


def test_a_run_that_diverges_says_failed_and_keeps_what_was_measured(lab):
    table = lab.write_table()
    wild = ("--lr", 1, "--momentum", 0.999, "--hidden", 400, "--batch-size", 36, "--steps", 2000, "--lookback", 20)
    result = lab("tune", "--data", table, "--target", "y", *wild, "--out", "out")
    assert result.exit_code == 1
    assert "limit: finite numbers" in result.stderr
    assert "smaller --lr" in result.stderr
    status = lab.read("out").status
    assert status["state"] == "failed"
    assert "limit: finite numbers" in status["message"]
    assert (lab.folder / "out" / "metrics.csv").read_text().count("\n") >= 2
    assert (lab.folder / "out" / "picture.png").exists()
