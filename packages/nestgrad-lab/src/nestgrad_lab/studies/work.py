"""Working on a piece of a study, and what has been found of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestgrad import NestgradWarning
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.errors import CheckpointCorrupt
from nestgrad_lab.storage.checkpoints import Checkpoint, Checkpoints
from nestgrad_lab.studies.study import Context, Piece, Results, Study
from nestgrad_lab.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study as it is asked for."""

    study: Study
    settings: Any
    seed: int
    device: str
    backend: str
    folder: Path

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of the work."""
        return tuple(self.study.pieces(self.settings))

    def fingerprint(self, *parts: Any) -> str:
        """SHA-256 of all that decides its numbers, and of what else is given."""
        one = self.study
        told = [one.name, one.version, asdict(self.settings), self.seed, self.device, self.backend, versions(), *parts]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def finished(plan: Plan, piece: Piece, *, say: bool = False) -> Checkpoint | None:
    """What the piece has found; None where it has not been finished with this very plan.

    say: warn of what is damaged, and is computed again.
    """
    checkpoints, found = Checkpoints(_place(plan, piece)), None
    with contextlib.suppress(CheckpointCorrupt):
        found = checkpoints.newest()
    if say:
        for name, why in checkpoints.damaged.items():
            warnings.warn(f"piece {piece.name}: {name} is passed over: {why}", NestgradWarning, stacklevel=2)
    return found if found is not None and found.about.get("fingerprint") == _mark(plan, piece) else None


def run_piece(plan: Plan, piece: Piece, results: Results, tick: Callable[[float], None]) -> Mapping[str, Any]:
    """Do the work and save it; the arrays as they are read back, whichever run they are of."""
    context = Context(
        seed=plan.seed,
        device=plan.device,
        backend=plan.backend,
        results={name: results[name] for name in piece.needs},
        tick=tick,
    )
    began = time.process_time()
    with one_thread():
        arrays = plan.study.work(plan.settings, piece, context)
    about = {
        "piece": piece.name,
        "fingerprint": _mark(plan, piece),
        "processor_seconds": round(time.process_time() - began, 3),
    }
    checkpoints = Checkpoints(_place(plan, piece))
    checkpoints.save(1, arrays, about)
    saved = checkpoints.newest()
    assert saved is not None  # noqa: S101  (it was saved on the line before)
    return saved.arrays


def _mark(plan: Plan, piece: Piece) -> str:
    return plan.fingerprint(asdict(piece))


def _place(plan: Plan, piece: Piece) -> Path:
    """A folder for each fingerprint, so that no result of other settings is in it."""
    words = f"{piece.name} {_mark(plan, piece)[:8]}"
    return plan.folder / "pieces" / "".join(letter if letter.isalnum() else "-" for letter in words)
