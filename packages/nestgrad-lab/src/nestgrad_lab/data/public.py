"""Public files: in the user's cache, in the folder that NESTGRAD_DATA names, or downloaded into the cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from nestgrad_lab.errors import DataError

VARIABLE = "NESTGRAD_DATA"


def cache() -> Path:
    """The user's cache folder of the lab."""
    return Path(platformdirs.user_cache_dir("nestgrad"))


def roots() -> list[Path]:
    """Where data are looked for, in this order."""
    return [cache(), *([Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else [])]


def at_hand(folder: str, *names: str) -> Path | None:
    """The first of these files that is in the folder of either place."""
    paths = (root / folder / name for root in roots() for name in names)
    return next((path for path in paths if path.is_file()), None)


def public_file(folder: str, name: str, home: str, sha256: str) -> Path:
    """The file of this SHA-256 where it is at hand, else downloaded from home + name; DataError for another's bytes."""
    import pooch  # noqa: PLC0415  (requests, 0.2 s)

    if path := at_hand(folder, name):
        found = pooch.file_hash(str(path), alg="sha256")
        if found != sha256:
            raise DataError(
                f"{path}: SHA-256 {found[:12]}…, limit: {sha256[:12]}…. "
                "Remedy: remove it, or put the public file there."
            )
        return path
    try:
        return Path(pooch.retrieve(home + name, known_hash=f"sha256:{sha256}", fname=name, path=cache() / folder))
    except Exception as error:  # noqa: BLE001  (requests' many kinds, and pooch's own for another hash)
        raise DataError(
            f"{folder}: {name} is in none of {len(roots())} places and {home + name} cannot be had: {error}. "
            f"Remedy: put the public file into {cache() / folder}, or set {VARIABLE}."
        ) from None
