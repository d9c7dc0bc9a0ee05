"""Fashion-MNIST: 70,000 grey images of clothes, from the user's cache, from NESTGRAD_DATA, or from its public home."""

from __future__ import annotations

import gzip

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, classification
from nestgrad_lab.data.public import public_file
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
        raw = gzip.decompress(public_file(FASHION_MNIST, name, HOME, FILES[name]).read_bytes())
        axes = raw[3]
        shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise DataError(
            f"{FASHION_MNIST}, {name}: {error}, limit: the public file. Remedy: put a whole copy there."
        ) from None
