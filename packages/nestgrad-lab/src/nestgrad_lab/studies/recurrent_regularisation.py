"""Section 3.5.5 and table 3.4 of Lorraine's thesis: the regularisation of an LSTM, by seven numbers or by many."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.averages import mean_and_error
from nestgrad_lab.studies.recurrent_regularisation_settings import FULL, PENALTIES, RATES, SMALL, TUNED, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
An LSTM with tied embedding and decoder, and seven hyperparameters: rates of input, hidden, output and embedding dropout
and of DropConnect on the hidden-to-hidden weights, as logits; α of the squared outputs and β of the squared differences
of successive outputs, by softplus. A rate p acts through a factor 1 + ε √(p/(1-p)), ε standard normal: the mean and the
variance of dropout's own factor, with a derivative in p (Gaussian dropout; no concrete relaxation). A factor is drawn
for a whole window; DropConnect's and the embedding's for a batch. The outer loss has no noise, no α and no β, and so no
direct term. many: a rate for each unit and one for each hidden-to-hidden weight, shared by the layers; at 650 units
1,691,951 rates, and α and β. random: the best of some draws by validation, each trained as long as the others.
Methods: one-pass tuning by the identity (1 term). No row is a self-tuning network yet.
Departures: WikiText-2 in place of Penn Treebank; the state is zero at the first word of each window; for each method
the weights of the look with the least validation loss are judged.
small: 8,000 words of 500 different ones, 64 units. full: all words, 650 units, rate 30, clipping 0.25, outer 1e-3."""
METHODS = {
    "untuned": "untuned",
    "random": "random search",
    "seven": "7 hyperparameters",
    "many": "one a unit and weight",
}
PATHS = ("valid", "test", "train")


def pieces(settings: Settings) -> list[Piece]:
    """Each method's runs; the random search is a piece a draw."""
    found: list[Piece] = []
    for run in range(settings.runs):
        found += [
            Piece(f"random, run {run + 1}, draw {draw + 1}", {"method": "random", "run": run, "draw": draw})
            for draw in range(settings.draws)
        ]
        found += [Piece(f"{method}, run {run + 1}", {"method": method, "run": run}) for method in ("untuned", *TUNED)]
    return found


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Losses at the looks, and the hyperparameters there."""
    from nestgrad_lab.studies import torch_recurrent_regularisation as torch_side  # noqa: PLC0415  (a framework)

    given = dict(piece.arguments)
    model = torch_side.LanguageModel(settings, context, run=given["run"])
    return model.learned(given["method"], drawn(settings, context.seed, given["run"], given.get("draw")))


def drawn(settings: Settings, seed: int, run: int, draw: int | None) -> dict[str, float]:
    """The hyperparameters that a run begins with: those of the settings, or a draw of the random search."""
    if draw is None:
        return {**dict.fromkeys(RATES, settings.first_rate), **dict.fromkeys(PENALTIES, settings.first_penalty)}
    rng = np.random.default_rng([seed, run, draw, 6])
    ends = np.log(settings.penalties)
    return {
        **{name: float(rng.uniform(0.0, settings.highest_rate)) for name in RATES},
        **{name: float(np.exp(rng.uniform(*ends))) for name in PENALTIES},
    }


def counted(settings: Settings) -> int:
    """The hyperparameters of the version with many."""
    return 4 * settings.hidden**2 + 3 * settings.hidden + 1 + len(PENALTIES)


def of_run(settings: Settings, results: Results, method: str, run: int) -> Arrays:
    """What the method's run has found; of the random search, the draw with the least validation loss."""
    if method != "random":
        return results[f"{method}, run {run + 1}"]
    found = [results[f"random, run {run + 1}, draw {draw + 1}"] for draw in range(settings.draws)]
    return min(found, key=lambda one: float(np.nanmin(one["valid"])))


def judged(settings: Settings, results: Results, method: str) -> dict[str, Array]:
    """Of each run: the losses at its best look, and at its last."""
    found: dict[str, list[float]] = {}
    for run in range(settings.runs):
        one = of_run(settings, results, method, run)
        best = int(np.nanargmin(one["valid"]))
        for part in PATHS:
            found.setdefault(f"{part}, best", []).append(float(one[part][best]))
            found.setdefault(f"{part}, last", []).append(float(one[part][-1]))
    return {name: np.array(values) for name, values in found.items()}


def tables(settings: Settings, results: Results) -> list[Table]:
    """Perplexities, losses, differences in the same run, and where the hyperparameters end."""
    found = {method: judged(settings, results, method) for method in METHODS}
    ends = f"Means over {settings.runs} runs ± their standard errors"
    perplexities = [
        [title, *(mean_and_error(np.exp(found[method][f"{part}, best"])) for part in ("valid", "test"))]
        for method, title in METHODS.items()
    ]
    losses = [
        [title, *(mean_and_error(found[method][name]) for name in ("valid, best", "test, best"))]
        + [mean_and_error(found[method][f"{part}, last"]) for part in ("train", "valid", "test")]
        for method, title in METHODS.items()
    ]
    columns = ["method", "valid", "test", "last train", "last valid", "last test"]
    pairs = [("random", "untuned"), ("seven", "untuned"), ("seven", "random"), ("many", "seven"), ("many", "random")]
    names = ("valid, best", "test, best", "test, last")
    apart = [
        [f"{one} - {other}", *(mean_and_error(found[one][name] - found[other][name]) for name in names)]
        for one, other in pairs
    ]
    note = f"{ends}, at the look with the least validation loss. many has {counted(settings)} hyperparameters."
    return [
        Table("Perplexity of a word (table 3.4)", ["method", "valid", "test"], perplexities, [note]),
        Table("Cross entropy of a word", columns, losses, [f"{ends}, at the best look, and at the last."]),
        Table("Differences of the cross entropy in the same run", ["methods", "valid", "test", "last test"], apart),
        _ends(settings, results),
    ]


def _ends(settings: Settings, results: Results) -> Table:
    """The hyperparameters at the last look."""
    rows: list[list[Any]] = []
    for name in (*RATES, *PENALTIES):
        row: list[Any] = [name]
        for method in ("random", *TUNED):
            own = [of_run(settings, results, method, run)[name][-1] for run in range(settings.runs)]
            row.append(float(np.mean(own)))
        rows.append(row)
    note = "Means over the runs, and of many over units and weights; connect: of DropConnect."
    return Table("Hyperparameters at the end", ["hyperparameter", "random search", "7", "many"], rows, [note])


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Validation losses on the way; the hyperparameters on theirs; the many rates at the end."""
    return {"losses": _losses(settings, results), "hyperparameters": _hyperparameters(settings, results)}


def _losses(settings: Settings, results: Results) -> Any:
    figure = new_figure(9, 3.8)
    axes = figure.subplots(1, 2)
    for (method, title), style in zip(METHODS.items(), [*line_styles(4)[1:], *line_styles(1)], strict=True):
        own = [of_run(settings, results, method, run) for run in range(settings.runs)]
        for axis, part in zip(axes, ("train", "valid"), strict=True):
            axis.plot(own[0]["step"], np.mean([one[part] for one in own], 0), lw=1.6, label=title, **style)
    low = min(float(axes[1].get_ylim()[0]), 10.0)
    best = [judged(settings, results, method)["valid, best"].mean() for method in METHODS]
    axes[1].set_ylim(low - 0.02, max(best) + 0.5)
    for axis, title in zip(axes, ("training windows, no noise", "validation"), strict=True):
        axis.set(xlabel="training step", title=title)
    axes[0].set_ylabel("cross entropy of a word, mean of runs")
    axes[1].legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


def _hyperparameters(settings: Settings, results: Results) -> Any:
    figure = new_figure(10, 3.6)
    axes = figure.subplots(1, 3)
    own = of_run(settings, results, "seven", 0)
    for axis, names in zip(axes, (RATES, PENALTIES), strict=False):
        for name, style in zip(names, line_styles(len(names)), strict=True):
            axis.plot(own["step"], own[name], lw=1.5, label={"alpha": "α", "beta": "β"}.get(name, name), **style)
        axis.set_xlabel("training step")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set(title="7 hyperparameters, run 1: rates", ylim=(0, 1))
    axes[1].set(title="penalties", yscale="log")
    many = of_run(settings, results, "many", 0)
    for name, style in zip(("connect", "input", "hidden", "output"), line_styles(4), strict=True):
        values = np.sort(many[f"all {name}"])
        axes[2].plot(values, (np.arange(len(values)) + 0.5) / len(values), lw=1.5, label=name, **style)
    axes[2].axvline(settings.first_rate, color="0.8", lw=3, zorder=0)
    axes[2].set(title="many, run 1: rates at the end", xlabel="rate (grey: the first)", ylabel="share below")
    axes[2].legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


STUDY = Study(
    name="recurrent-regularisation",
    title="Do hypergradients regularise an LSTM, by 7 numbers or by many? (table 3.4)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
