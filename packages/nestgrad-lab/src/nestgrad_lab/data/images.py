"""Fashion-MNIST: 70,000 grey images of clothes, from the user's cache, from NESTGRAD_DATA, or from its public home."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, classification
from nestgrad_lab.data.uci import VARIABLE, cache
from nestgrad_lab.errors import DataError

FASHION_MNIST = "fashion-mnist"
HOME = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
FILES = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
"""The files and their SHA-256."""
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
VALIDATION = 10_000


def fashion_mnist() -> Dataset:
    """50,000, 10,000 and 10,000 images, each pixel standardised by the first two; raises DataError.

    Validation rows are drawn once and for all from the 60,000 public training rows.
    """
    images, labels = (
        np.concatenate([_read(f"{part}-{kind}.gz") for part in ("train", "t10k")])
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    order = np.random.default_rng([0, 0]).permutation(60_000)
    parts: list[Array] = [order[:-VALIDATION], order[-VALIDATION:], np.arange(60_000, 70_000)]
    rows = images.reshape(len(images), -1).astype(np.float64)
    features = tuple(f"pixel{i}" for i in range(rows.shape[1]))
    return classification(FASHION_MNIST, rows, labels, CLASSES, parts, features)


def _read(name: str) -> Array:
    """The array of an idx file: two zeros, type 8 (bytes), the number of axes, their sizes, big-endian, the numbers."""
    try:
        raw = gzip.decompress(_file(name).read_bytes())
        axes = raw[3]
        shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise DataError(
            f"{FASHION_MNIST}, {name}: {error}, limit: the public file. Remedy: put a whole copy there."
        ) from None


def _file(name: str) -> Path:
    """The file where it is at hand with the right hash, else downloaded into the cache."""
    import pooch  # noqa: PLC0415  (requests, 0.2 s)

    roots = [cache(), *([Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else [])]
    for root in roots:
        path = root / FASHION_MNIST / name
        if path.is_file():
            found = pooch.file_hash(str(path), alg="sha256")
            if found != FILES[name]:
                raise DataError(
                    f"{path}: SHA-256 {found[:12]}…, limit: {FILES[name][:12]}…. "
                    "Remedy: remove it, or put the public file there."
                )
            return path
    try:
        return Path(
            pooch.retrieve(HOME + name, known_hash=f"sha256:{FILES[name]}", fname=name, path=cache() / FASHION_MNIST)
        )
    except Exception as error:  # noqa: BLE001  (requests' many kinds, and pooch's own for another hash)
        raise DataError(
            f"{FASHION_MNIST}: {name} is in none of {len(roots)} places and {HOME + name} cannot be had: {error}. "
            f"Remedy: put the four public files into {cache() / FASHION_MNIST}, or set {VARIABLE}."
        ) from None
