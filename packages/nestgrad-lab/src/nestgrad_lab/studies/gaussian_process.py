"""Figure 2.6 of Lorraine's thesis: who predicts the validation loss of hyperparameters never tried."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.gaussian_process_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
A linear classifier of images, squared error to one-hot targets, Σ e^λ_c ‖w_c‖² with a λ for each of the ten classes,
drawn uniformly from [-3, 3]. Weights are optimised by Adam for 25 such λ, and for many others that are held out. A
Gaussian process (scikit-learn, RBF kernel, one restart) sees the 25 pairs of λ and validation loss; a hypernetwork is
trained on the same 25 λ alone; another one on fresh λ in every step (algorithm 2), with as many gradients as the 25
optimisations take. The Gaussian process is shown with the mean 0 that scikit-learn takes, and about the mean of the 25.
text: responses of 50 ReLU units, as in the text's other global response. released: linear ones, as released.
small: 100 rows train, 375 λ are held out. full, as in the released code: 50,000 rows in batches of 100, 1,000 steps of
Adam of 1e-4 a λ, 10,215 held out."""


LINEAR = {"hidden": 0, "response_rate": 1e-4}
ZERO, CENTRED = "GP, mean 0", "GP, mean of points"
FIXED, FRESH = "hypernet, same points", "hypernet, fresh points"
METHODS = (ZERO, CENTRED, FIXED, FRESH)


def pieces(settings: Settings) -> list[Piece]:
    """Chunks of optimised λ, then each method."""
    total = settings.points + settings.held
    chunks = [
        Piece(f"optimised {first}", {"first": first, "last": min(first + settings.chunk, total)})
        for first in range(0, total, settings.chunk)
    ]
    needs = tuple(piece.name for piece in chunks)
    return [*chunks, *(Piece(name, needs=needs) for name in METHODS)]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """The validation losses of optimised weights, or those that a method predicts for all λ."""
    at = hyperparameters(settings, context.seed)
    if piece.name in {ZERO, CENTRED}:
        seen = joined(context.results)["loss"][: settings.points]
        return {"predicted": gaussian_process(at, seen, context.seed, centred=piece.name == CENTRED)}
    from nestgrad_lab.studies import torch_gaussian_process as torch_side  # noqa: PLC0415  (a framework)

    if piece.arguments:
        return torch_side.optimised(settings, context, at[piece.arguments["first"] : piece.arguments["last"]])
    return torch_side.learned(settings, context, at, fresh=piece.name == FRESH)


def hyperparameters(settings: Settings, seed: int) -> Array:
    """All λ, (points + held, 10), those that the Gaussian process sees first."""
    rng = np.random.default_rng([seed, 26])
    return rng.uniform(settings.low, settings.high, (settings.points + settings.held, 10))


def gaussian_process(at: Array, seen: Array, seed: int, *, centred: bool) -> Array:
    """The posterior mean at all λ, from the losses of the first of them."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  (seconds, when cold)
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel  # noqa: PLC0415

    model = GaussianProcessRegressor(
        ConstantKernel(1.0, (1e-4, 1e4)) * RBF(1.0, (1e-2, 1e3)),
        alpha=1e-8,
        n_restarts_optimizer=1,
        normalize_y=centred,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer too
        return np.asarray(model.fit(at[: len(seen)], seen).predict(at))


def joined(results: Results) -> Arrays:
    """The chunks in their order."""
    chunks = [one for name, one in results.items() if name.startswith("optimised")]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def tables(settings: Settings, results: Results) -> list[Table]:
    """The error of each method on the held-out λ, and whether the hypernetwork on fresh points beats each other."""
    true = joined(results)
    held = true["loss"][settings.points :]
    rows: list[Sequence[Any]] = []
    errors = {name: results[name]["predicted"][settings.points :] - held for name in METHODS}
    own = errors[FRESH]
    for name, error in errors.items():
        chosen = held[results[name]["predicted"][settings.points :].argmin()]
        better = abs(own.mean()) < abs(error.mean()) and own.std() < error.std()
        judged: bool | str = "" if name == FRESH else bool(better)
        root = float(np.sqrt((error**2).mean()))
        rows.append([name, float(error.mean()), float(error.std()), root, _order(error + held, held), chosen, judged])
    columns = ["method", "mean", "deviation", "RMS", "order", "best", "beaten"]
    apart = np.abs(true["loss"] - true["exact"]).max()
    said = (
        f"Error: predicted less true validation loss on {len(held)} held-out λ, whose losses go from {held.min():.4g} "
        f"to {held.max():.4g}: mean, deviation and root mean square. Order: rank correlation. Best: true loss of the "
        "held-out λ that the method predicts least for. Beaten: the hypernet on fresh points has a mean error nearer 0 "
        "and a smaller deviation."
    )
    notes = [said, f"Validation losses of optimised weights are within {apart:.2g} of the closed form's."]
    return [Table("Predicted validation losses", columns, rows, notes)]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Histograms of the errors, and predicted against true losses."""
    held = joined(results)["loss"][settings.points :]
    predicted = {name: results[name]["predicted"][settings.points :] for name in METHODS}
    return {"errors": _errors(held, predicted), "scatter": _scatter(held, predicted)}


def _errors(held: Array, predicted: dict[str, Array]) -> Any:
    figure = new_figure(7, 7)
    axes = figure.subplots(len(predicted), 1, sharex=True)
    errors = {name: values - held for name, values in predicted.items()}
    low, high = np.quantile(np.concatenate(list(errors.values())), [0.002, 0.998])
    edges = np.linspace(low, high, 71)
    for axis, (name, error) in zip(axes, errors.items(), strict=True):
        axis.hist(np.clip(error, low, high), edges, color="0.6")
        axis.axvline(0.0, color="black", lw=1)
        axis.axvline(error.mean(), color="black", lw=1, ls=(0, (3, 2)))
        axis.set_title(f"{name}: {error.mean():+.3g} ± {error.std():.2g}", fontsize=10, loc="left")
        axis.set_ylabel("held-out λ")
    axes[-1].set_xlabel("predicted less true validation loss (dashed: mean)")
    plain(axes)
    return figure


def _scatter(held: Array, predicted: dict[str, Array]) -> Any:
    figure = new_figure(11, 3.4)
    axes = figure.subplots(1, len(predicted), sharex=True, sharey=True)
    for axis, (name, values) in zip(axes, predicted.items(), strict=True):
        axis.plot(held, values, ".", color="black", ms=2.5, alpha=0.6)
        axis.plot([held.min(), held.max()], [held.min(), held.max()], color="0.6", lw=1)
        axis.set_title(name.replace(", ", ",\n"), fontsize=9)
        axis.set_xlabel("true")
    axes[0].set_ylabel("predicted validation loss")
    plain(axes)
    return figure


def _order(predicted: Array, held: Array) -> float:
    """Spearman's correlation, of values that are all different."""
    one, other = (values.argsort().argsort().astype(np.float64) for values in (predicted, held))
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


STUDY = Study(
    name="gaussian-process",
    title="Does a hypernetwork predict losses better than a Gaussian process? (figure 2.6)",
    note=NOTE,
    settings={
        "text": (SMALL, FULL),
        "released": (dataclasses.replace(SMALL, **LINEAR), dataclasses.replace(FULL, **LINEAR)),
    },
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
