"""Run folders: made whole or not at all, every file replaced in one move, and the state always told."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w

from nestgrad_lab.errors import RunFolderError

State = Literal["running", "finished", "interrupted", "failed"]
ROOT = Path("runs")


class RunFolder:
    """A folder of one run.

    status.json tells the state: running, finished, interrupted or failed. A process killed outright leaves "running"
    with its process id. Tables grow by whole rows, each written in one call; every other file is written beside its
    place and moved there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._status: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], **status: Any) -> RunFolder:
        """Make the folder with config.toml and status.json in it; raises RunFolderError where that cannot be."""
        require_new(path)
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = cls(Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)))
        try:
            with _named(path):
                draft.path.chmod(0o777 & ~_umask())
                draft.write("config.toml", tomli_w.dumps(config))
                draft.set_state("running", started=_now(), process=os.getpid(), **status)
                draft.path.rename(path)
        except BaseException:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise
        draft.path = path
        return draft

    def write(self, name: str, content: str | bytes) -> None:
        """Put a file in place, whole."""
        raw = content.encode() if isinstance(content, str) else content
        partial = self.path / f".{name}.partial"
        with _named(self.path / name):
            partial.write_bytes(raw)
            partial.replace(self.path / name)

    def write_json(self, name: str, content: Any) -> None:
        """The content as indented JSON; numbers that are not finite become null."""
        self.write(name, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")

    def set_state(self, state: State, **more: Any) -> None:
        """Tell the state, with what else there is to say; earlier entries stay."""
        self._status |= {"state": state, "updated": _now(), **more}
        self.write_json("status.json", self._status)

    @contextlib.contextmanager
    def table(self, name: str, columns: Sequence[str]) -> Iterator[Table]:
        """A CSV file to add rows to."""
        with _named(self.path / name), (self.path / name).open("w", encoding="utf-8", newline="") as file:
            table = Table(file, columns)
            table.write_header()
            yield table


class Table:
    """A CSV file that grows by whole rows."""

    def __init__(self, file: io.TextIOBase | Any, columns: Sequence[str]) -> None:
        self._file, self._columns = file, list(columns)

    def write_header(self) -> None:
        """The first line."""
        self._line(self._columns)

    def add(self, row: Mapping[str, Any]) -> None:
        """One line, flushed."""
        self._line([row[column] for column in self._columns])

    def _line(self, cells: Sequence[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue())
        self._file.flush()


def require_new(path: Path) -> None:
    """Raise RunFolderError where the path exists."""
    if os.path.lexists(path):
        raise RunFolderError(f"run folder {path} exists, limit: a new one. Remedy: choose another --out.")


def next_path(name: str, root: Path = ROOT) -> Path:
    """root/NAME-001, or the first number that is free."""
    safe = "".join(letter if letter.isalnum() or letter in "-_+." else "-" for letter in name)
    return next(path for n in itertools.count(1) if not os.path.lexists(path := root / f"{safe}-{n:03d}"))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(
            f"{path} cannot be written: {reason}. Remedy: choose a writable --out, or free space."
        ) from error


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return content if content - content == 0 else None
    return content


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
