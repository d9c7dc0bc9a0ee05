"""Checkpoints: arrays in safetensors and a JSON manifest that holds their hash and its own.

A checkpoint is two files, step-N.safetensors and step-N.json, the manifest written last: without a valid manifest there
is no checkpoint. Loading verifies both hashes before an array is used, and runs no code that a file holds. The two
newest are kept; an older one is removed only after the newest has been read back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as as_safetensors

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import CheckpointCorrupt, CheckpointFormat
from nestgrad_lab.storage.atomic import remove, remove_partial_files, write_atomically

FORMAT = 1
"""The version of the format; a file of a later one is refused."""
KEPT = 2
_MANIFEST = re.compile(r"step-(\d{9})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps: arrays by name, and what JSON can say about them."""

    step: int
    arrays: dict[str, Array]
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one folder, which is made when the first is saved.

    damaged: after `newest`, the manifests that were passed over, each with what was wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}

    def save(self, step: int, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
        """Add the checkpoint of this step, read it back, and remove all but the two newest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(self.folder)
        blob = as_safetensors({name: np.array(value, order="C") for name, value in arrays.items()})
        stem = f"step-{step:09d}"
        manifest = {
            "format": FORMAT,
            "step": step,
            "file": f"{stem}.safetensors",
            "bytes": len(blob),
            "sha256": hashlib.sha256(blob).hexdigest(),
            "about": dict(about),
        }
        write_atomically(self.folder / f"{stem}.safetensors", blob)
        write_atomically(self.folder / f"{stem}.json", _sealed(manifest))
        self._load(self.folder / f"{stem}.json")
        for older in self._manifests()[KEPT:]:
            remove(older)
            remove(older.with_suffix(".safetensors"))

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where none was ever finished.

        Raises CheckpointCorrupt where there are some and none is whole, CheckpointFormat for a later format.
        """
        self.damaged = {}
        found = self._manifests()
        for manifest in found:
            try:
                return self._load(manifest)
            except CheckpointCorrupt as error:
                self.damaged[manifest.name] = str(error)
        if found:
            raise CheckpointCorrupt(
                f"{self.folder}: {len(found)} checkpoints, 0 of them whole, limit: 1. Remedy: remove the folder, and "
                f"what it held is computed again. ({next(iter(self.damaged.values()))})"
            )
        return None

    def _manifests(self) -> list[Path]:
        """The manifests, the newest first."""
        names = self.folder.glob("step-*.json") if self.folder.is_dir() else ()
        return sorted((path for path in names if _MANIFEST.fullmatch(path.name)), reverse=True)

    def _load(self, path: Path) -> Checkpoint:
        """The checkpoint of a manifest, every byte of it verified."""
        try:
            manifest = _opened(path.read_bytes())
            blob = path.with_suffix(".safetensors").read_bytes()
            _require_same(manifest, path, blob)
            return Checkpoint(manifest["step"], from_safetensors(blob), manifest["about"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
            raise CheckpointCorrupt(
                f"checkpoint {path}: {error}, limit: every byte as written. Remedy: an older one is taken if there is "
                "one; else remove the folder."
            ) from error


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, with its own hash as last entry."""
    seal = hashlib.sha256(_canonical(manifest)).hexdigest()
    return json.dumps({**manifest, "manifest_sha256": seal}, indent=1, allow_nan=False).encode()


def _opened(raw: bytes) -> dict[str, Any]:
    """The manifest of these bytes; ValueError where they are not exactly what was written."""
    manifest = json.loads(raw.decode("utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("the manifest is no JSON object")  # noqa: TRY004  (damage, told as such by the caller)
    seal = manifest.pop("manifest_sha256", None)
    if seal != hashlib.sha256(_canonical(manifest)).hexdigest() or _sealed(manifest) != raw:
        raise ValueError("the manifest does not have its own SHA-256")
    if manifest["format"] != FORMAT:
        raise CheckpointFormat(
            f"checkpoint of format {manifest['format']}, limit: {FORMAT}. Remedy: upgrade nestgrad-lab."
        )
    return manifest


def _require_same(manifest: Mapping[str, Any], path: Path, blob: bytes) -> None:
    """Raise ValueError unless the manifest is of this place and of these bytes."""
    if manifest["file"] != f"{path.stem}.safetensors" or manifest["step"] != int(path.stem.removeprefix("step-")):
        raise ValueError(f"it is the manifest of {manifest['file']}")
    if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{manifest['file']} does not have the SHA-256 that the manifest says")


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, allow_nan=False).encode()
