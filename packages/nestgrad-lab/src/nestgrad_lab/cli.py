"""The command `nestgrad`: options in, one screen of words out, and the exit code.

0: done. 1: a check failed or training diverged. 2: bad input, nothing written. 130: interrupted.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nestgrad import NestgradError, NestgradWarning
from nestgrad_lab.errors import TrainingDiverged
from nestgrad_lab.hyperparameters import POOR_START

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Spoken(TyperGroup):
    """A group of commands whose errors of ours are one message without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", NestgradWarning)
                warnings.showwarning = _say
                return super().invoke(ctx)
        except NestgradError as error:
            typer.echo(f"nestgrad: error: {error}", err=True)
            raise typer.Exit(FAILED if isinstance(error, TrainingDiverged) else BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("nestgrad: interrupted before the run began; nothing was written.", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _say(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A warning as one line."""
    typer.echo(f"nestgrad: warning: {message}", err=True)


app = typer.Typer(
    name="nestgrad",
    cls=Spoken,
    help="Tune hyperparameters during one training run, and check that a backend's hypergradients are right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it takes longer than all the rest of `--help`
)


@app.command()
def tune(
    data: Annotated[
        str,
        typer.Option(
            help="digits, uci/NAME (boston concrete energy kin8nm naval power wine-red yacht), or a CSV file."
        ),
    ] = "digits",
    target: Annotated[str | None, typer.Option(help="The CSV column to predict.")] = None,
    task: Annotated[
        str | None, typer.Option(help="regression or classification; found from the column by default.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A CSV column to leave out; may be given again.")] = None,
    backend: Annotated[str | None, typer.Option(help="torch or jax; the first that is installed by default.")] = None,
    method: Annotated[str, typer.Option(help="neumann, identity or dense.")] = "neumann",
    every: Annotated[int, typer.Option(help="Training steps per hyper step.")] = 10,
    lookback: Annotated[int | None, typer.Option(help="Terms of the Neumann series; 5 by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; 2000, or 4000 for a UCI set, by default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Training rows a step; 64, or all for a UCI set, by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches and split; the same seed gives the same numbers.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or what the backend knows: cuda:0, gpu.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    hidden: Annotated[int, typer.Option(help="Hidden units.")] = 50,
    lr: Annotated[float, typer.Option(help="Initial learning rate, poor on purpose.")] = POOR_START["learning_rate"],
    momentum: Annotated[float, typer.Option(help="Initial momentum.")] = POOR_START["momentum"],
    weight_decay: Annotated[float, typer.Option(help="Initial weight decay.")] = POOR_START["weight_decay"],
    out: Annotated[
        Path | None, typer.Option(help="The run folder, which must be new; runs/NAME-001 and so on by default.")
    ] = None,
) -> None:
    """Train a small network that tunes its own learning rate, momentum and weight decay in one run.

    With no option: scikit-learn's digits from a deliberately poor start, beside the same start without tuning.
    """
    from nestgrad_lab.report import report_tuning  # noqa: PLC0415  (--help need not wait for NumPy)
    from nestgrad_lab.settings import Settings  # noqa: PLC0415

    settings = Settings(
        data=data,
        target=target,
        task=task,
        drop=tuple(drop or ()),
        backend=backend,
        method=method,
        every=every,
        lookback=lookback,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        dtype=dtype,
        hidden=hidden,
        learning_rate=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        out=out,
    )
    if report_tuning(settings) == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def backends() -> None:
    """List the installed backends and what each supports."""
    from nestgrad_lab.backends import print_backends  # noqa: PLC0415

    print_backends()


@app.command()
def check(
    backend: Annotated[str, typer.Option(help="An installed backend, or package.module:harness.")],
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    examples: Annotated[int, typer.Option(help="Random problems per check.")] = 100,
    report: Annotated[Path | None, typer.Option(help="Write the results as JSON to this new file.")] = None,
) -> None:
    """Run the conformance suite on a backend, which says whether its hypergradients are right."""
    from nestgrad_lab.check import check_and_print  # noqa: PLC0415

    if not check_and_print(backend, dtype, examples, report):
        raise typer.Exit(FAILED)


@app.command()
def experiment(
    name: Annotated[
        str | None,
        typer.Argument(help="One that comes with the lab, or a file NAME.toml; without it, they are listed."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the folder stands.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes of this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster, or local (needs nestgrad-lab[ray]).")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Instead of the file's; may be given several times.")] = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="Instead of the file's; several times.")] = None,
    backend: Annotated[str | None, typer.Option(help="torch or jax, instead of the file's.")] = None,
    starts: Annotated[int | None, typer.Option(help="Random starts, instead of the file's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each, instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of starts, weights and batches, instead of the file's.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64, instead of the file's.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or what the backend knows: cuda:0, gpu.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The folder; runs/NAME by default.")] = None,
) -> None:
    """Run an experiment: algorithms from many random starts, in tables and pictures; it survives a crash."""
    from rich.console import Console  # noqa: PLC0415

    from nestgrad_lab.experiments.run import list_experiments, run_experiment  # noqa: PLC0415

    if name is None:
        list_experiments(Console())
        return
    chosen = {"data": data, "algorithms": algorithm, "backend": backend, "starts": starts, "steps": steps}
    state = run_experiment(
        name, out=out, resume=resume, jobs=jobs, ray=ray, device=device, seed=seed, dtype=dtype, **chosen
    )
    if state == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="One of the lab; without it, they are listed.")] = None,
    full: Annotated[bool, typer.Option("--full", help="As large as in the paper, which may take hours.")] = False,
    settings: Annotated[str | None, typer.Option(help="Named settings, where the study has several.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: another value of a setting; several times.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the folder stands.")] = False,
    backend: Annotated[str | None, typer.Option(help="torch or jax; the study's first by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, noise and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or what the backend knows: cuda:0, gpu.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The folder; runs/NAME by default.")] = None,
) -> None:
    """Run a study: one question with tables and pictures of its own; it survives a crash."""
    from rich.console import Console  # noqa: PLC0415

    from nestgrad_lab.studies.run import list_studies, run_study  # noqa: PLC0415

    if name is None:
        list_studies(Console())
        return
    asked = {"full": full, "settings": settings, "set": change or [], "backend": backend, "seed": seed}
    if run_study(name, out=out, resume=resume, device=device, **asked) == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of an experiment or a study.")]) -> None:
    """Write an experiment's or a study's tables and pictures again from what is finished."""
    from nestgrad_lab.experiments.run import report as write_report  # noqa: PLC0415

    write_report(folder)


@app.command()
def bias(
    data: Annotated[str, typer.Option(help="A UCI set: uci/energy and so on.")] = "uci/energy",
    draws: Annotated[int, typer.Option(help="Random starts.")] = 200,
    backend: Annotated[str | None, typer.Option(help="torch or jax; the first that is installed by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the starts and their weights.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
) -> None:
    """Compare the first hypergradient of one-pass tuning with the derivative through the steps themselves."""
    from nestgrad_lab.accuracy.bias import report_bias  # noqa: PLC0415

    report_bias(data=data, draws=draws, backend=backend, seed=seed, dtype=dtype)


def main() -> None:
    """The console script."""
    app()
