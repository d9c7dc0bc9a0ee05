"""Running cells: here, in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from nestgrad_lab.experiments.cells import Cell
from nestgrad_lab.experiments.work import result_of, run_cell
from nestgrad_lab.searches.cluster import load_ray
from nestgrad_lab.storage.checkpoints import Checkpoints

Show = Callable[[int], None]
"""Told how many steps more all runs of all cells have taken."""
Stop = Callable[[], bool]


def run_here(work: Sequence[tuple[Cell, Path]], show: Show, stop: Stop) -> bool:
    """One cell after the other in this process; whether all are finished."""

    def progress(steps: int) -> bool:
        show(steps)
        return stop()

    return all(run_cell(cell, folder, progress) for cell, folder in work)


def run_in_processes(work: Sequence[tuple[Cell, Path]], show: Show, stop: Stop, jobs: int) -> bool:
    """So many cells at a time, each in a process of its own that ends with this one."""
    context = multiprocessing.get_context("spawn")
    taken, asked, seen = context.Value("q", 0), context.Event(), 0
    with ProcessPoolExecutor(jobs, context, _begin_worker, (taken, asked, os.getpid())) as pool:
        waiting: set[Future[bool]] = {pool.submit(_work, cell, folder) for cell, folder in work}
        finished = True
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            finished = all(future.result() for future in done) and finished
            now = taken.value
            show(now - seen)
            seen = now
            if stop() and not asked.is_set():
                asked.set()
                for future in waiting:
                    future.cancel()
                waiting = {future for future in waiting if not future.cancelled()}
                finished = False
    return finished


def run_on_ray(work: Sequence[tuple[Cell, Path]], show: Show, stop: Stop, address: str) -> bool:
    """Every cell as a task of the cluster at this address, "local" for one of this machine alone.

    A task works in a folder of its machine and sends back what it ends with, so machines need share no disk; a cell
    whose machine is lost is run again by Ray, and one that is not finished here begins anew.
    """
    ray = load_ray(address)
    task = ray.remote(num_cpus=1, max_retries=3)(_finished_arrays)
    cells: dict[Any, tuple[Cell, Path]] = {}
    searches = [pair for pair in work if pair[0].rule.by_ray_tune]  # Ray spreads their trials itself
    for cell, folder in work:
        if (cell, folder) in searches:
            continue
        if result_of(cell, folder) is not None:
            show(cell.steps * (cell.last - cell.first))
        else:
            cells[task.remote(cell)] = (cell, folder)
    while cells:
        if stop():
            for one in cells:
                ray.cancel(one)
            return False
        done, _ = ray.wait(list(cells), timeout=0.5)
        for one in done:
            cell, folder = cells.pop(one)
            step, arrays, about = ray.get(one)
            Checkpoints(folder).save(step, arrays, about)
            show(cell.steps * (cell.last - cell.first))
    return run_here(searches, show, stop)


def _finished_arrays(cell: Cell) -> tuple[int, Any, Any]:
    """What a cell ends with, computed in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        run_cell(cell, Path(folder), lambda steps: False)
        found = Checkpoints(Path(folder)).newest()
    assert found is not None  # noqa: S101  (run_cell saves before it returns)
    return found.step, found.arrays, found.about


_shared: dict[str, Any] = {}


def _begin_worker(taken: Any, asked: Any, parent: int) -> None:
    """What a worker process knows of the one that began it."""
    _shared.update(taken=taken, asked=asked, parent=parent)


def _work(cell: Cell, folder: Path) -> bool:
    """Run a cell in a worker."""

    def progress(steps: int) -> bool:
        with _shared["taken"].get_lock():
            _shared["taken"].value += steps
        if os.getppid() != _shared["parent"]:
            os.kill(os.getpid(), signal.SIGTERM)  # the experiment was killed; another process may have taken it up
        return _shared["asked"].is_set()

    return run_cell(cell, folder, progress)
