"""`nestgrad experiment` and `nestgrad report`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nestgrad_lab.engines import backend_named
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.cells import Cell, cells_of, choose
from nestgrad_lab.experiments.execute import run_here, run_in_processes, run_on_ray
from nestgrad_lab.experiments.folder import ExperimentFolder
from nestgrad_lab.experiments.render import finished_results, render
from nestgrad_lab.experiments.spec import Experiment, find_experiment, shipped
from nestgrad_lab.experiments.tables import on_screen, table_rows
from nestgrad_lab.networks import network_for
from nestgrad_lab.progress import display
from nestgrad_lab.runs import ROOT, State
from nestgrad_lab.searches.bayesian import import_bayes_opt
from nestgrad_lab.searches.cluster import import_ray
from nestgrad_lab.settings import require_at_least
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.studies.run import report_study
from nestgrad_lab.tables import print_table

FILES = "results.csv, table.md, table.tex, summary.json, report.html"


def list_experiments(console: Console) -> None:
    """The experiments that come with the lab."""
    print_table(console, "Experiments", ["name", "what"], [list(pair) for pair in shipped().items()], text=True)


def run_experiment(
    name: str,
    *,
    out: Path | None = None,
    resume: bool = False,
    jobs: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    console: Console | None = None,
    **options: Any,
) -> State:
    """Run what is not finished, and write and print the results; how it ended.

    options: those of the command line that replace entries of the experiment's file, None for none.
    """
    console = console or Console()
    require_at_least("--jobs", jobs, 1)
    if ray is not None and jobs > 1:
        raise OptionError(f"--jobs {jobs} with --ray, limit: one of both. Remedy: leave --jobs out; Ray has its own.")
    folder = ExperimentFolder(out or ROOT / Path(name).stem)
    given = {key: value for key, value in options.items() if value is not None} | {"device": device}
    if resume and (before := folder.options()) is not None and list(given) == ["device"] and device == "cpu":
        given = before["given"]
    device = given["device"]
    experiment = _experiment(name, given)
    _require_present(experiment, ray)
    folder.begin({"name": name, "given": given, "fingerprint": experiment.fingerprint(experiment)}, resume=resume)
    cells = cells_of(experiment, device)
    command = shlex.join(["nestgrad", "experiment", name, *_flags(given)])
    work = [(cell, folder.cell(cell)) for cell in cells]
    state: State = "failed"
    with folder.locked():
        folder.tell("running")
        try:
            with asked_to_stop() as stop:
                finished = _worked(work, stop, console, jobs, ray)
            state = "finished" if finished else "interrupted"
        except KeyboardInterrupt:
            state = "interrupted"
        finally:
            results = finished_results(cells, folder)
            summaries = render(experiment, folder, results, state=state, total=len(cells), command=command)
            folder.tell(state)
    print_table(console, experiment.title, *on_screen(table_rows(summaries)))
    drawn = "".join(f", {figure}.png" for figure in experiment.figures if results)
    console.print(f"{folder.path}: {FILES}{drawn}", highlight=False, markup=False, soft_wrap=True)
    if state == "interrupted":
        console.print(f"Interrupted: {len(results)} of {len(cells)} cells finished. --resume goes on.", highlight=False)
    return state


def _require_present(experiment: Experiment, ray: str | None) -> None:
    """Raise what tells of a backend, data or a package that is missing, before anything is written."""
    backend_named(experiment.backend)
    for data in experiment.data:
        network_for(experiment.network, experiment.sizes, choose(data))
    rules = [experiment.algorithm(one) for one in experiment.algorithms]
    if any(rule.search == "bayesian" for rule in rules):
        import_bayes_opt()
    if ray is not None or any(rule.by_ray_tune for rule in rules):
        import_ray()


def _worked(
    work: Sequence[tuple[Cell, Path]], stop: Callable[[], bool], console: Console, jobs: int, ray: str | None
) -> bool:
    """Run the cells, showing how far they are; whether all are finished."""
    total = sum(cell.steps * (cell.last - cell.first) for cell, _ in work)
    taken = 0

    def show(steps: int) -> None:
        nonlocal taken
        taken += steps
        shown.show(taken, {})

    with display(console, total, "step of all runs") as shown:
        if ray is not None:
            return run_on_ray(work, show, stop, ray)
        if jobs > 1:
            return run_in_processes(work, show, stop, jobs)
        return run_here(work, show, stop)


def report(path: Path, console: Console | None = None) -> None:
    """Write the tables, figures and page of an experiment's folder again, or those of a study's."""
    console = console or Console()
    folder = ExperimentFolder(path)
    begun = folder.options()
    if begun is None:
        raise OptionError(
            f"{path}: no experiment was begun there, limit: a folder of nestgrad experiment or study. Remedy: name one."
        )
    if "study" in begun:
        report_study(path, begun, console)
        return
    experiment = _experiment(begun["name"], begun["given"])
    cells = cells_of(experiment, begun["given"]["device"])
    with folder.locked():
        results = finished_results(cells, folder)
        state = "finished" if len(results) == len(cells) else "interrupted"
        command = shlex.join(["nestgrad", "experiment", begun["name"], *_flags(begun["given"])])
        render(experiment, folder, results, state=state, total=len(cells), command=command)
    console.print(f"{path / 'report.html'}: {len(results)} of {len(cells)} cells", highlight=False, soft_wrap=True)


def _experiment(name: str, given: Mapping[str, Any]) -> Experiment:
    return find_experiment(name).varied(**{key: _entry(value) for key, value in given.items() if key != "device"})


def _entry(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _flags(given: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in given.items():
        if name == "device" and value == "cpu":
            continue
        option = {"algorithms": "--algorithm"}.get(name, f"--{name}")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            flags += [option, str(one)]
    return flags
