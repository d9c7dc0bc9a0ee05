"""The folder of an experiment or a study: what it is, its checkpoints, who works on it, how it stands."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nestgrad_lab.errors import RunFolderError
from nestgrad_lab.experiments.cells import Cell
from nestgrad_lab.runs import State
from nestgrad_lab.storage.atomic import remove_partial_files, write_atomically

OPTIONS = "options.json"


class ExperimentFolder:
    """A folder that may be left at any instant and taken up again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def options(self) -> dict[str, Any] | None:
        """What the experiment was begun with; None where nothing was begun here."""
        try:
            return json.loads((self.path / OPTIONS).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / OPTIONS}: {error}. Remedy: choose another --out.") from error

    def begin(self, options: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or take it up where its options are these; RunFolderError otherwise."""
        before = self.options()
        if before is None:
            if self.path.is_dir() and any(not left.name.endswith(".partial") for left in self.path.iterdir()):
                raise RunFolderError(
                    f"{self.path} holds other files, limit: a new or empty folder. Remedy: choose another --out."
                )
            self._make()
            self.write(OPTIONS, json.dumps(dict(options), indent=1))
        elif not resume:
            raise RunFolderError(
                f"{self.path} holds earlier work, limit: a new folder. Remedy: pass --resume, or another --out."
            )
        elif before != json.loads(json.dumps(dict(options))):
            changed = sorted(name for name in {*before, *options} if before.get(name) != options.get(name))
            raise RunFolderError(
                f"{self.path} was begun with other options ({', '.join(changed)}), limit: the same. "
                "Remedy: leave them out, or choose another --out."
            )

    def cell(self, cell: Cell) -> Path:
        """Where a cell keeps its checkpoints."""
        return self.path / "cells" / cell.name

    def write(self, name: str, content: str | bytes) -> None:
        """Put a file in place, whole."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written: {error.strerror}. Remedy: free space, or --out."
            ) from error

    def tell(self, state: State, **more: Any) -> None:
        """How it stands."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.write("status.json", json.dumps({"state": state, "updated": now, **more}, indent=1))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Work on it alone; the lock of a process that was killed is gone with it."""
        lock, owner = FileLock(self.path / ".lock"), self.path / "owner.json"
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            with contextlib.suppress(OSError, ValueError):
                told = json.loads(owner.read_text())
                raise RunFolderError(
                    f"{self.path} is worked on by process {told['process']} on {told['host']}, limit: 1 process. "
                    "Remedy: wait for it, or end it."
                ) from None
            raise RunFolderError(f"{self.path} is worked on, limit: 1 process. Remedy: wait for it.") from None
        try:
            remove_partial_files(self.path)
            self.write("owner.json", json.dumps({"process": os.getpid(), "host": platform.node()}))
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be made: {error.strerror}. Remedy: another --out.") from error
