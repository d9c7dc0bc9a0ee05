"""`nestgrad study`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines import backend_named
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.folder import ExperimentFolder
from nestgrad_lab.progress import display
from nestgrad_lab.runs import ROOT, State
from nestgrad_lab.settings import require_at_least
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.studies.catalogue import all_studies, choose_settings, find_study
from nestgrad_lab.studies.render import as_text, render
from nestgrad_lab.studies.study import Study
from nestgrad_lab.studies.work import Plan, finished, run_piece
from nestgrad_lab.tables import print_table

DEFAULTS: Mapping[str, Any] = {
    "full": False,
    "settings": None,
    "set": [],
    "backend": None,
    "seed": 0,
    "device": "cpu",
}
"""The options that decide a study's numbers."""


def list_studies(console: Console) -> None:
    """The studies that come with the lab."""
    print_table(console, "Studies", ["name", "what"], [[one.name, one.title] for one in all_studies()], text=True)


def run_study(
    name: str, *, out: Path | None = None, resume: bool = False, console: Console | None = None, **options: Any
) -> State:
    """Run the pieces that are not finished; where all are, write and print what they say. How it ended.

    options: those of DEFAULTS. With resume and none of them given, the folder's own are taken.
    """
    console = console or Console()
    given = {key: value for key, value in options.items() if value != DEFAULTS[key]}
    folder = ExperimentFolder(out or ROOT / name)
    if resume and not given and (before := folder.options()) is not None and before.get("study") == name:
        given = before["given"]
    plan, command = _plan(name, given, folder), _command(name, given)
    folder.begin({"study": name, "given": given, "fingerprint": plan.fingerprint()}, resume=resume)
    state: State = "failed"
    with folder.locked():
        folder.tell("running")
        try:
            _work(plan, console)
            _show(plan, folder, command, console)
            state = "finished"
        except KeyboardInterrupt:
            state = "interrupted"
        finally:
            done = {piece.name: found for piece in plan.pieces if (found := finished(plan, piece)) is not None}
            seconds = {name: found.about["processor_seconds"] for name, found in done.items()}
            folder.tell(state, pieces=len(plan.pieces), processor_seconds=seconds)
    if state == "interrupted":
        said = f"Interrupted: {len(done)} of {len(plan.pieces)} pieces finished. --resume goes on."
        console.print(said, highlight=False)
    return state


def report_study(path: Path, begun: Mapping[str, Any], console: Console) -> None:
    """Write the tables and figures of a finished study's folder again."""
    folder = ExperimentFolder(path)
    plan = _plan(begun["study"], begun["given"], folder)
    left = [piece.name for piece in plan.pieces if finished(plan, piece) is None]
    if left:
        raise OptionError(
            f"{path}: {len(left)} pieces are not finished ({', '.join(left)}), limit: 0. "
            f"Remedy: nestgrad study {begun['study']} --resume --out {path}."
        )
    with folder.locked():
        _show(plan, folder, _command(begun["study"], begun["given"]), console)


def _plan(name: str, given: Mapping[str, Any], folder: ExperimentFolder) -> Plan:
    """What is asked for; raises what tells of an option, a backend or its package before anything is written."""
    study, asked = find_study(name), {**DEFAULTS, **given}
    require_at_least("--seed", asked["seed"], 0)
    settings = choose_settings(study, asked["settings"], asked["set"], full=asked["full"])
    return Plan(
        study=study,
        settings=settings,
        seed=asked["seed"],
        device=asked["device"],
        backend=_backend(study, asked["backend"]),
        folder=folder.path,
    )


def _backend(study: Study, asked: str | None) -> str:
    """The backend asked for, or the study's first."""
    if asked is not None and asked not in study.backends:
        raise OptionError(
            f"--backend {asked!r}: study {study.name} has no such version, limit: {', '.join(study.backends)}. "
            f"Remedy: --backend {study.backends[0]}."
        )
    return backend_named(asked or study.backends[0])[0]


def _work(plan: Plan, console: Console) -> None:
    """Run the pieces in their order, showing how far they are; KeyboardInterrupt where it is asked to stop."""
    results: dict[str, Mapping[str, Array]] = {}
    pieces = plan.pieces
    with asked_to_stop() as stop, display(console, 100, "per cent") as shown:

        def tick_of(number: int) -> Callable[[float], None]:
            def tick(share: float) -> None:
                shown.show(int(100 * (number + share) / len(pieces)), {"piece": number + 1})
                if stop():
                    raise KeyboardInterrupt

            return tick

        for number, piece in enumerate(pieces):
            tick = tick_of(number)
            tick(0.0)
            found = finished(plan, piece, say=True)
            results[piece.name] = found.arrays if found is not None else run_piece(plan, piece, results, tick)
        shown.show(100, {"piece": len(pieces)})


def _show(plan: Plan, folder: ExperimentFolder, command: str, console: Console) -> None:
    """Write tables and figures of the finished pieces, and print the tables."""
    found = {piece.name: finished(plan, piece) for piece in plan.pieces}
    results = {name: one.arrays for name, one in found.items() if one is not None}
    tables, drawn = render(plan, folder, results, command)
    for table in tables:
        print_table(console, table.title, table.columns, as_text(table))
        for note in table.notes:
            console.print(note, highlight=False, markup=False)
    files = ", ".join(["results.json", "table.md", *drawn])
    console.print(f"{folder.path}: {files}", highlight=False, markup=False, soft_wrap=True)


def _command(name: str, given: Mapping[str, Any]) -> str:
    """What to type for the same numbers."""
    flags: list[str] = []
    for option, value in given.items():
        if value is True:
            flags.append(f"--{option}")
            continue
        for one in value if isinstance(value, list) else [value]:
            flags += [f"--{option}", str(one)]
    return shlex.join(["nestgrad", "study", name, *flags])
