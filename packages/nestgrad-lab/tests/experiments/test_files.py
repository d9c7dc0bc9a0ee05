"""An experiment's file in, its tables and pictures out."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from nestgrad_lab.data.dataset import resplit
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.entries import FIGURES
from nestgrad_lab.experiments.figures import Track, _curves
from nestgrad_lab.experiments.spec import find_experiment, parse, shipped
from nestgrad_lab.experiments.statistics import best_of, summarise

GOOD = 'title = "t"\ndata = ["uci/energy"]\nalgorithms = ["Random"]\nstarts = 2\nsteps = 10\n'


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_experiment_is_whole(name):
    experiment = find_experiment(name)
    assert experiment.title == shipped()[name]
    for algorithm in experiment.algorithms:
        experiment.algorithm(algorithm)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("starts = 2", "starts = 0"), "starts = 0, limit: a whole number, at least 1"),
        (("starts = 2", 'starts = "2"'), "starts = '2', limit: a whole number"),
        (("steps = 10", "steps = 9"), r"steps \(with 'Ours WD\+LR'\) = 9, limit: a whole number, at least 10"),
        (("starts = 2", "start = 2"), "unknown entry 'start', limit: .* Nearest: 'starts'"),
        (("steps = 10\n", ""), "no entry 'steps'"),
        (('"Random"', '"Randon"'), "algorithm 'Randon', limit: .* Nearest: 'Random'"),
        (('data = ["uci/energy"]', "data = []"), "0 data sets or algorithms"),
        (('"uci/energy"', '{name = "uci/energy", validation = 1.5}'), "validation 1.5 of uci/energy"),
        (('"uci/energy"', '{name = "uci/energy", splits = 1}'), "unknown entry 'splits', .* Nearest: 'split'"),
        (("steps = 10", 'steps = 10\nfigures = ["curve"]'), "figure 'curve', limit: distribution"),
        (("steps = 10", 'steps = 10\ndtype = "half"'), "dtype 'half', limit: float32 or float64"),
        (("steps = 10", 'steps = 10\nnetwork = "lstn"'), "network 'lstn', limit: mlp, .* Nearest: 'lstm'"),
        (
            ("steps = 10", 'steps = 10\nnetwork = "lstm"\nwidth = 2'),
            "width = 2 with network 'lstm', limit: hidden, layers",
        ),
        (("steps = 10", 'steps = 10\nnetwork = "lstm"\nlayers = 0'), "layers = 0, limit: a whole number, at least 1"),
        (("steps = 10", "steps = 10\nclip = 0.0"), "clip = 0.0, limit: a number above 0"),
        (('"uci/energy"', '{name = "wikitext-2", window = 0}'), "window of wikitext-2 = 0, limit: a whole number"),
        (("steps = 10", "steps = 10\nstarts = 3"), "limit: TOML"),
        (("steps = 10", 'steps = 10\n[[variant]]\nname = "x"'), "no 'of'"),
        (
            ("steps = 10", 'steps = 10\n[[variant]]\nname = "x"\nof = "Random"\nrule = "none"'),
            "rule 'none', limit: fixed",
        ),
        (("steps = 10", 'steps = 10\n[[variant]]\nname = "x"\nof = "Random"\nlook = 3'), "unknown entry 'look'"),
    ],
)
def test_a_wrong_entry_is_named(change, said):
    text = GOOD.replace('"Random"', '"Ours WD+LR"') if "steps = 9" in change[1] else GOOD
    with pytest.raises(OptionError, match=said):
        parse(text.replace(*change), "t")


def test_an_unknown_experiment_is_named_with_the_nearest():
    with pytest.raises(OptionError, match=r"experiment 'enrgy': .* Nearest: 'energy'"):
        find_experiment("enrgy")


def test_a_grid_is_an_algorithm_for_each_pair_that_can_be():
    text = GOOD + '[grid]\nof = "Diff-through-Opt"\nevery = [1, 2]\nlookback = [1, 2]\n'
    experiment = parse(text, "t")
    assert experiment.algorithms[1:] == tuple(f"Diff-through-Opt, T={t}, i={i}" for t, i in [(1, 1), (2, 1), (2, 2)])
    one = experiment.algorithm("Diff-through-Opt, T=2, i=1")
    assert (one.rule, one.every, one.lookback) == ("unrolled", 2, 1)


def test_all_that_is_left_for_people(small):
    more = f'figures = {[name for name in FIGURES if name != "grid"]}\nnote = "a < b"'.replace("'", '"')
    rows = small(["Random", "Ours WD+LR", "Random (3-batched)"], starts=4, more=more)
    out = small.folder / "out"
    losses = rows["test_loss"].astype(float).reshape(3, 4)
    summary = json.loads((out / "summary.json").read_text())["rows"]
    for name, own in zip(["Random", "Ours WD+LR"], losses, strict=False):
        found = summary[f"uci/small | {name}"]
        assert (found["runs"], found["nan"]) == (4, 0)
        assert found["mean_value"] == pytest.approx(own.mean())
        assert found["median_value"] == pytest.approx(np.median(own))
        assert found["best"] == pytest.approx(own.min())
    assert summary["uci/small | Random (3-batched)"]["runs"] == 1
    table = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[1] for line in table[2:5]] == ["Random", "Ours WD+LR", "Random (3-batched)"]
    assert (out / "table.tex").read_text().count(r"\\") == 4
    page = (out / "report.html").read_text()
    assert "finished</span>: 3 of 3 cells" in page
    assert "a &lt; b" in page
    assert page.count("<img") == 3
    for name in ("distribution", "curves", "trajectories"):
        assert (out / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")  # noqa: S314
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert small.lab("report", "out").exit_code == 0
    for name in ("results.csv", "table.md", "summary.json", "distribution.png", "report.html"):
        assert (out / name).read_bytes() == before[name], name


def test_the_curve_is_the_median_of_the_table():
    seen = np.array([[1.0, 2.0, 4.0, np.nan], [1.0, 3.0, np.nan, np.nan]])
    track = Track(
        data="d", algorithm="a", steps=np.array([0, 1]), seen={"test": seen}, final=seen[-1], every=1, lookback=1
    )
    figure = Figure()
    _curves(figure, [track])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3.0, np.inf])


def test_the_picture_of_a_grid(small):
    grid = '[grid]\nof = "Ours WD+LR+M"\nevery = [5, 10]\nlookback = [1, 2]\n'
    small([], more='figures = ["grid"]\n' + grid)
    assert (small.folder / "out" / "grid.png").stat().st_size > 10_000


def test_a_run_that_ends_in_nan_is_counted_and_left_out_of_the_rest(small, monkeypatch):
    scores = iter([1.0, float("nan"), 3.0, 8.0])
    monkeypatch.setattr("nestgrad_lab.experiments.cells.test_score", lambda data, w: next(scores))
    small(["Random"], starts=4)
    found = json.loads((small.folder / "out" / "summary.json").read_text())["rows"]["uci/small | Random"]
    assert (found["runs"], found["nan"], found["median_value"], found["mean_value"]) == (4, 1, 3.0, 4.0)
    assert "| 4 | 1 |" in (small.folder / "out" / "table.md").read_text()


def test_nothing_finite_at_all_is_told_as_such():
    nan = np.full(3, np.nan)
    found = summarise(nan, nan, 10, 0)
    assert found.nan == 3
    assert np.isnan([found.mean.value, found.median.resampled, found.best, found.best_seen]).all()


def test_the_bootstrap_is_that_of_the_paper():
    """Mean of the resampled statistic and its population deviation; for a mean the deviation is σ/√n."""
    values = np.random.default_rng(0).lognormal(size=200)
    found = summarise(values, values, 4000, 0)
    assert found.mean.error == pytest.approx(values.std() / np.sqrt(200), rel=0.05)
    assert found.mean.resampled == pytest.approx(values.mean(), abs=0.1 * found.mean.error)
    assert found.median.value == np.median(values)
    assert summarise(values, values, 4000, 0) == found


def test_the_best_of_three_is_chosen_by_validation_and_never_a_nan():
    validation = np.array([3.0, np.nan, 1.0, 2.0, np.nan, 0.0, 5.0])
    order = np.random.default_rng([0, 9]).permutation(7)
    groups = [order[:3], order[3:6]]
    chosen = best_of(3, validation, 0)
    assert len(chosen) == 2
    for run, group in zip(chosen, groups, strict=True):
        assert run in group
        assert validation[run] == np.nanmin(validation[group])
    np.testing.assert_array_equal(best_of(1, validation, 0), np.arange(7))
    np.testing.assert_array_equal(best_of(8, validation, 0), np.arange(7))


def test_another_split_moves_training_and_validation_rows_only(small):
    for share, seed in [(0.25, 0), (None, 1), (0.5, 2)]:
        other = resplit(small.data, share, seed)
        assert other.test is small.data.test
        np.testing.assert_allclose(np.sort(other.merged.x[:, 0]), np.sort(small.data.merged.x[:, 0]))
        assert len(other.valid) == (len(small.data.valid) if share is None else round(share * len(small.data.merged)))
    assert (resplit(small.data, None, 1).valid.x != small.data.valid.x).any()


def test_experiments_are_listed(lab):
    result = lab("experiment")
    assert result.exit_code == 0
    assert all(name in result.output for name in shipped())


def test_results_are_read_by_a_csv_reader_as_they_are(small):
    small(["Random"])
    with (small.folder / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["start"] for row in rows] == ["0", "1"]
    assert all(np.isfinite(float(row["test_loss"])) for row in rows)
