"""The parts of the lab, one by one."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from threadpoolctl import threadpool_info, threadpool_limits

from nestgrad_lab.batches import Batches, Stream, distinct_lengths, segment_lengths
from nestgrad_lab.data.dataset import shuffled, statistics
from nestgrad_lab.errors import RunFolderError
from nestgrad_lab.models import draw_weights, mean_loss, predict
from nestgrad_lab.progress import display
from nestgrad_lab.runs import RunFolder, next_path
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.threads import one_thread


def test_help_needs_no_framework_and_no_numpy():
    program = (
        "import sys; from nestgrad_lab.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['tune', '--help']).exit_code == 0; "
        "heavy = {'numpy', 'torch', 'jax', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_library_gives_the_names_of_the_command():
    import nestgrad_lab

    assert callable(nestgrad_lab.tune)
    assert nestgrad_lab.Settings(steps=20).start["momentum"] == 0.5
    with pytest.raises(AttributeError, match="no attribute 'tuna'"):
        nestgrad_lab.tuna  # noqa: B018


def test_a_stream_shows_every_row_once_a_pass_in_batches_of_equal_size():
    stream = Stream(10, 4, [0, 1])
    rows = np.concatenate([stream.take(2), stream.take(3)])
    assert rows.shape == (5, 4)
    flat = rows.ravel()
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10].tolist() != flat[10:].tolist()


def test_a_stream_does_not_depend_on_how_it_is_cut():
    one, other = Stream(7, 3, [5, 1]), Stream(7, 3, [5, 1])
    np.testing.assert_array_equal(one.take(6), np.concatenate([other.take(1), other.take(3), other.take(2)]))


def test_full_batches_need_no_rows():
    segment = Batches((8, 8), (4, 2), 0).segment(3)
    assert segment.rows is None
    assert segment.valid_rows.shape == (2,)


@pytest.mark.parametrize(("steps", "every"), [(45, 10), (300, 130), (7, 1), (1000, 1000), (250, 100), (20, 20)])
def test_segments_end_at_every_hyper_step_and_are_never_long(steps, every):
    lengths = list(segment_lengths(steps, every))
    ends = np.cumsum(lengths)
    assert ends[-1] == steps
    assert min(lengths) >= 1
    assert max(lengths) <= 100
    assert distinct_lengths(steps, every) == sorted(set(lengths))
    assert set(range(every, steps + 1, every)) <= set(ends.tolist())


def test_statistics_are_those_of_numpy_but_for_constant_columns():
    x = np.random.default_rng(0).normal(size=(9, 3))
    x[:, 1] = 0.1
    mean, scale = statistics(x)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(scale[[0, 2]], x.std(axis=0, ddof=1)[[0, 2]])
    assert scale[1] == 1.0


def test_splits_are_disjoint_and_complete():
    parts = shuffled(101, 4)
    assert [len(part) for part in parts] == [61, 20, 20]
    assert sorted(np.concatenate(parts)) == list(range(101))


def test_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    weights = draw_weights(64, 400, 10, "float32", [0, 3])
    assert {name: (value.shape, value.dtype) for name, value in weights.items()} == {
        "hidden.weight": ((400, 64), np.float32),
        "hidden.bias": ((400,), np.float32),
        "output.weight": ((10, 400), np.float32),
        "output.bias": ((10,), np.float32),
    }
    for name, bound in [("hidden.weight", 1 / 8), ("output.weight", 1 / 20)]:
        assert np.abs(weights[name]).max() <= bound
        assert weights[name].std() == pytest.approx(bound / np.sqrt(3), rel=0.03)


def test_cross_entropy_and_squared_error_are_right_on_numbers_done_by_hand():
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0]])
    assert mean_loss("classification", logits, np.array([1, 0])) == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    assert mean_loss("regression", np.array([[1.0], [3.0]]), np.array([[0.0], [5.0]])) == pytest.approx(2.5)


def test_predictions_are_those_of_one_hidden_relu_layer():
    weights = {
        "hidden.weight": np.array([[1.0], [-1.0]]),
        "hidden.bias": np.array([0.0, 0.5]),
        "output.weight": np.array([[2.0, 3.0]]),
        "output.bias": np.array([0.25]),
    }
    np.testing.assert_allclose(predict(weights, np.array([[1.0], [-1.0]])), [[2.25], [4.75]])


def test_a_run_folder_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nestgrad_lab.runs.Path.write_bytes", fail)
    with pytest.raises(RunFolderError, match="No space left"):
        RunFolder.create(tmp_path / "run", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_says_running_and_whose_process_until_told_otherwise(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"a": 1}, steps=7)
    status = json.loads((folder.path / "status.json").read_text())
    assert (status["state"], status["process"], status["steps"]) == ("running", os.getpid(), 7)
    folder.set_state("finished", step=7)
    status = json.loads((folder.path / "status.json").read_text())
    assert (status["state"], status["step"], status["steps"]) == ("finished", 7, 7)


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"a": 1})
    with folder.table("rows.csv", ["step", "note"]) as table:
        table.add({"note": "a, b", "step": 1})
        assert (folder.path / "rows.csv").read_text() == 'step,note\n1,"a, b"\n'


def test_numbers_that_are_not_finite_become_null_in_json(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"a": 1})
    folder.write_json("figures.json", {"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads((folder.path / "figures.json").read_text()) == {"a": [None, 1.5], "b": None}


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", {"a": 1})
    folder.write("note.txt", "old")

    def half(path, raw):
        with path.open("wb") as file:
            file.write(raw[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("nestgrad_lab.runs.Path.write_bytes", half)
        with pytest.raises(RunFolderError):
            folder.write("note.txt", "new and longer")
    assert (folder.path / "note.txt").read_text() == "old"


def test_run_folders_have_the_permissions_of_any_folder(tmp_path):
    (tmp_path / "plain").mkdir()
    folder = RunFolder.create(tmp_path / "run", {"a": 1})
    assert folder.path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_free_numbers_are_found_and_odd_names_made_safe(tmp_path):
    (tmp_path / "a-b-001").mkdir()
    assert next_path("a/b", tmp_path) == tmp_path / "a-b-002"


def test_a_terminal_sees_the_bar_and_the_latest_figures():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with display(console, 20, "step") as shown:
        shown.show(10, {"lr": 0.125, "momentum": 0.75})
        shown.show(20, {"lr": 0.25, "momentum": 0.875})
    seen = screen.getvalue()
    assert "20/20" in seen
    assert "0.875" in seen
    assert "left" in seen


def test_one_thread_is_used_unless_the_environment_says_otherwise(monkeypatch):
    def counts():
        return [pool["num_threads"] for pool in threadpool_info()]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threadpool_limits(limits=2):
        with one_thread():
            assert set(counts()) == {1}
        before = counts()
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with one_thread():
            assert counts() == before


def test_the_first_signal_asks_and_the_second_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with asked_to_stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
