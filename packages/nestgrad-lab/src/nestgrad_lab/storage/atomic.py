"""Putting a file in place so that a crash leaves the old one or the new one, whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

Boundary = Callable[[str], None]

_boundary: Boundary = lambda name: None  # noqa: E731


def watch_boundaries(watcher: Boundary | None) -> None:
    """Call this with the name of each boundary that the disk crosses, before it is crossed; None ends it.

    Names: write, fsync, rename, fsync folder, unlink. It is how tests stop a process at every one of them.
    """
    global _boundary  # noqa: PLW0603  (one disk, one watcher)
    _boundary = watcher or (lambda name: None)


def write_atomically(path: Path, content: bytes) -> None:
    """The content under this name: a temporary file beside it, fsync, rename, fsync of the folder."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:  # with the user's own permissions, which tempfile would not give
            _boundary("write")
            file.write(content)
            file.flush()
            _boundary("fsync")
            os.fsync(file.fileno())
        _boundary("rename")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Take the file away, if it is there."""
    _boundary("unlink")
    path.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Take away what a process that was killed left half written."""
    for left in folder.glob(".*.partial"):
        remove(left)


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries last, where the system lets a folder be opened."""
    _boundary("fsync folder")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; its renames are journalled
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
