"""CIFAR-10: 60,000 colour images of ten kinds of things, or the subset of 5,000 that its first rows are."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, Part, digest
from nestgrad_lab.data.public import at_hand, public_file
from nestgrad_lab.errors import DataError

CIFAR_10, CIFAR_10_SUBSET = "cifar-10", "cifar-10-subset"
HOME = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
TRAIN, TEST = [f"data_batch_{k}.bin" for k in range(1, 6)], ["test_batch.bin"]
SUBSET = {
    "data_batch_1.first4000.bin.gz": (4000, "0993cf8b8e43bc207603aef9787006995746513f5e3fa5a52e06d1b069926330"),
    "test_batch.first1000.bin.gz": (1000, "8314c96d7cd65618193bab23acdd5d4c4af15bf6dd00a1781d55beedf3be1ef5"),
}
"""Rows and SHA-256 of the bytes when unpacked."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 32 * 32
ROW = 1 + 3 * PIXELS
"""Bytes of an image: its class, then its red, green and blue pixels, row by row."""


def cifar_10() -> Dataset:
    """45,000, 5,000 and 10,000 images in the public order; raises DataError."""
    train, test = _archived(TRAIN), _archived(TEST)
    return _dataset(CIFAR_10, train, test, 5000)


def cifar_10_subset() -> Dataset:
    """3,600, 400 and 1,000: the first 4,000 public training images, and the first 1,000 public test images.

    From the folder of this name where that is at hand, else cut from the whole set.
    """
    train, test = (_first(name, source) for name, source in zip(SUBSET, (TRAIN[0], TEST[0]), strict=True))
    return _dataset(CIFAR_10_SUBSET, train, test, 400)


def _dataset(name: str, train: bytes, test: bytes, validation: int) -> Dataset:
    """Each colour standardised by the training and validation pixels; the last training rows validate."""
    rows, others = (np.frombuffer(raw, np.uint8).reshape(-1, ROW) for raw in (train, test))
    seen = rows[:, 1:].reshape(-1, 3, PIXELS)
    shift, scale = (np.repeat(number, PIXELS) for number in (seen.mean((0, 2)), seen.std((0, 2))))

    def part(some: Array) -> Part:
        return Part((some[:, 1:] - shift.astype(np.float32)) / scale.astype(np.float32), some[:, 0].astype(np.int32))

    return Dataset(
        name=name,
        task="classification",
        features=tuple(f"{colour}{k}" for colour in ("red", "green", "blue") for k in range(PIXELS)),
        classes=CLASSES,
        train=part(rows[:-validation]),
        valid=part(rows[-validation:]),
        test=part(others),
        x_shift=shift,
        x_scale=scale,
        y_shift=0.0,
        y_scale=1.0,
        sha256=digest(*(np.frombuffer(hashlib.sha256(raw).digest(), np.uint8) for raw in (train, test))),
    )


def _archived(names: list[str]) -> bytes:
    """These files of the public archive, one after the other."""
    path = public_file(CIFAR_10, ARCHIVE, HOME, SHA256)
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        return b"".join(file.read() for file in files if file is not None)


def _first(name: str, source: str) -> bytes:
    """A file of the subset, or the first rows of the public file that it is cut from."""
    rows, sha256 = SUBSET[name]
    path = at_hand(CIFAR_10_SUBSET, name)
    if path is None:
        return _archived([source])[: rows * ROW]
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}, limit: a whole gzip file. Remedy: put a whole copy there.") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path}: unpacked it has SHA-256 {found[:12]}…, limit: {sha256[:12]}…. "
            f"Remedy: remove it, or put the first {rows} rows of {source} there."
        )
    return raw
