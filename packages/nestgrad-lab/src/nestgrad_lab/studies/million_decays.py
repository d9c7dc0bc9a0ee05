"""Chapter 3 of Lorraine's thesis, taken to a million hyperparameters: a weight decay for each weight of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.averages import mean_and_error
from nestgrad_lab.studies.million_decays_settings import FULL, PARTS, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
A ReLU network of three layers, 1,037,760 weights and biases, trained by SGD with momentum on the cross entropy and half
of Σ λ_j w_j², λ = e^leaf. One-pass tuning by the Neumann series of 5 terms moves the λ_j, by Adam on the leaves: fixed,
one for all of them, or one a weight. All begin at the same λ and weights. Test rows are only looked at. So many decays
learn the validation rows, which is why there is a fixed decay besides with training on the rows of both.
cost: a hypergradient of 5 terms, at the minimum of the loss (Minimize) and along the optimizer's step (WeightUpdate),
and the tuner's whole hyper step, in units of one training step by torch.optim.SGD on as many rows; processor time
(medians over interleaved rounds), and memory taken at the peak above what was held before, gradients included. These
are measurements: they differ a little from run to run.
small: 1,000 training and 1,000 validation digits. full: 50,000 and 10,000."""
KINDS = {"fixed": "fixed", "one": "1 decay", "many": "one a weight", "both": "fixed, validation rows train too"}
COSTS = {
    "minimum one": "Minimize, 1 decay",
    "minimum many": "Minimize, one a weight",
    "update one": "WeightUpdate, 1 decay",
    "update tensors": "WeightUpdate, one a tensor",
    "update many": "WeightUpdate, one a weight",
    "step one": "tuner's hyper step, 1 decay",
    "step many": "tuner's hyper step, one a weight",
}


def pieces(settings: Settings) -> list[Piece]:
    """What it costs, then each kind's runs."""
    runs = [
        Piece(f"{kind}, run {run + 1}", {"kind": kind, "run": run}) for run in range(settings.runs) for kind in KINDS
    ]
    return [Piece("cost"), *runs]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Seconds and bytes; or the losses of one run, and its decays at the end."""
    from nestgrad_lab.studies import torch_million_decays as torch_side  # noqa: PLC0415  (a framework)

    if piece.name == "cost":
        return torch_side.Decays(settings, context, run=0).costs()
    return torch_side.Decays(settings, context, run=piece.arguments["run"]).learned(piece.arguments["kind"])


def weights_of(settings: Settings) -> int:
    """Weights and biases of the network."""
    return sum(a * b + b for a, b in zip(settings.sizes[:-1], settings.sizes[1:], strict=True))


def last(settings: Settings, results: Results, kind: str, name: str) -> Array:
    """What each of the kind's runs ends with."""
    return np.array([float(results[f"{kind}, run {run + 1}"][name][-1]) for run in range(settings.runs)])


def tables(settings: Settings, results: Results) -> list[Table]:
    """Costs over a training step's; losses and accuracies with and without tuning; the decays found."""
    return [_costs(settings, results["cost"]), *_outcomes(settings, results), _decays(settings, results)]


def _costs(settings: Settings, found: Arrays) -> Table:
    rows: list[list[Any]] = []
    for name, title in COSTS.items():
        times, bytes_ = found[f"{name}: seconds"], float(found[f"{name}: bytes"])
        ratio = float(np.median(times / found["training: seconds"]))
        rows.append([title, ratio, bytes_ / float(found["training: bytes"]), bytes_ / 1e6])
    kinds = ("minimum", "update", "step")
    many = [float(np.median(found[f"{kind} many: seconds"] / found[f"{kind} one: seconds"])) for kind in kinds]
    seconds, megabytes = float(np.median(found["training: seconds"])), float(found["training: bytes"]) / 1e6
    one = f"{weights_of(settings)} weights; a training step of {settings.cost_rows} rows takes "
    notes = [
        one + f"{seconds:.3g} s and {megabytes:.4g} MB.",
        f"One a weight takes {many[0]:.3g}, {many[1]:.3g} and {many[2]:.3g} times the time of 1 decay.",
    ]
    return Table("Cost in training steps", ["what", "time", "peak memory", "MB"], rows, notes)


def _outcomes(settings: Settings, results: Results) -> list[Table]:
    rows, apart = [], []
    for kind, title in KINDS.items():
        seen = [last(settings, results, kind, f"{part}_loss") for part in PARTS]
        accuracies = [100 * last(settings, results, kind, f"{part}_accuracy") for part in PARTS[1:]]
        rows.append([title, *map(mean_and_error, [*seen, *accuracies])])
    for one, other in (("one", "fixed"), ("many", "fixed"), ("many", "one"), ("many", "both")):
        pairs = [last(settings, results, kind, f"{part}_loss") for part in PARTS[1:] for kind in (one, other)]
        accuracy = [100 * last(settings, results, kind, "test_accuracy") for kind in (one, other)]
        differences = [pairs[0] - pairs[1], pairs[2] - pairs[3], accuracy[0] - accuracy[1]]
        apart.append([f"{one} - {other}", *map(mean_and_error, differences)])
    columns = ["decays", *(f"{part} loss" for part in PARTS), "valid %", "test %"]
    note = f"Means over {settings.runs} runs ± their standard errors, after {settings.steps} steps; % are accuracies."
    return [
        Table("Tuned to the end", columns, rows, [note]),
        Table("Differences in the same run", ["decays", "valid loss", "test loss", "test %"], apart),
    ]


def _decays(settings: Settings, results: Results) -> Table:
    """Percentiles of the decays of all weights, in the first run."""
    shares = (5, 25, 50, 75, 95)
    rows: list[list[Any]] = []
    for kind in ("one", "many"):
        values = results[f"{kind}, run 1"]["decays"]
        rows.append([KINDS[kind], *(float(np.percentile(values, share)) for share in shares)])
    columns = ["decays", *(f"{share} %" for share in shares)]
    return Table("Percentiles of the decays, run 1", columns, rows, [f"All began at {settings.decay:g}."])


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Losses on the way; the decays found, and those of the first layer by pixel."""
    return {"losses": _losses(settings, results), "decays": _found(settings, results)}


def _losses(settings: Settings, results: Results) -> Any:
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for (kind, title), style in zip(KINDS.items(), line_styles(4), strict=True):
        own = [results[f"{kind}, run {run + 1}"] for run in range(settings.runs)]
        for axis, part in zip(axes, PARTS[1:], strict=True):
            for k, one in enumerate(own):
                axis.plot(one["step"], one[f"{part}_loss"], lw=1.4, label=None if k else title, **style)
            axis.set(xlabel="training step", yscale="log", title={"valid": "validation", "test": "test"}[part])
    axes[0].set_ylabel("cross entropy, each run")
    axes[1].legend(frameon=False, fontsize=8, title="decays", title_fontsize=8, loc="lower left")
    plain(axes)
    return figure


def _found(settings: Settings, results: Results) -> Any:
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2)
    one = results["many, run 1"]
    values = np.log10(one["decays"])
    low, high = np.percentile(values, (0.1, 99.9))
    axes[0].hist(np.clip(values, low, high), bins=80, color="0.6", log=True)
    axes[0].axvline(np.log10(settings.decay), color="black", lw=1, ls=(0, (5, 2)))
    axes[0].set(xlabel="log10 decay (dashed: the first)", ylabel="weights", title=f"{len(values):,} decays, run 1")
    plain(axes[:1])
    pixels = one["pixels"]
    side = round(len(pixels) ** 0.5)
    if side**2 == len(pixels):
        image = axes[1].imshow(pixels.reshape(side, side), cmap="Greys")
        figure.colorbar(image, ax=axes[1], label="mean log10 decay of a pixel's weights")
    axes[1].set(xticks=[], yticks=[], title="first layer")
    return figure


STUDY = Study(
    name="million-decays",
    title="What does tuning a weight decay for each of a million weights cost, and bring?",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
