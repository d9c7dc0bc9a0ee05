"""MNIST and Fashion-MNIST: 70,000 grey images of digits, and of clothes.

From the user's cache, from NESTGRAD_DATA, or from their public homes.
"""

from __future__ import annotations

import gzip

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, classification
from nestgrad_lab.data.public import public_file
from nestgrad_lab.errors import DataError

MNIST, FASHION_MNIST = "mnist", "fashion-mnist"
HOMES = {
    MNIST: "https://ossci-datasets.s3.amazonaws.com/mnist/",
    FASHION_MNIST: "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
}
FILES = {
    MNIST: {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    FASHION_MNIST: {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}
"""The files and their SHA-256."""
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
VALIDATION = 10_000
PIXELS = 28 * 28


def mnist() -> Dataset:
    """50,000, 10,000 and 10,000 digits, pixels from 0 to 1, no mean taken off; raises DataError."""
    return _images(MNIST, tuple("0123456789"), scaling=(np.zeros(PIXELS), np.full(PIXELS, 255.0)))


def fashion_mnist() -> Dataset:
    """50,000, 10,000 and 10,000 images, each pixel standardised by the first two; raises DataError."""
    return _images(FASHION_MNIST, CLASSES)


def _images(name: str, classes: tuple[str, ...], scaling: tuple[Array, Array] | None = None) -> Dataset:
    """Validation rows are drawn once and for all from the 60,000 public training rows."""
    images, labels = (
        np.concatenate([_read(name, f"{part}-{kind}.gz") for part in ("train", "t10k")])
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    order = np.random.default_rng([0, 0]).permutation(60_000)
    parts: list[Array] = [order[:-VALIDATION], order[-VALIDATION:], np.arange(60_000, 70_000)]
    rows = images.reshape(len(images), -1).astype(np.float64)
    features = tuple(f"pixel{i}" for i in range(rows.shape[1]))
    return classification(name, rows, labels, classes, parts, features, scaling=scaling)


def _read(data: str, name: str) -> Array:
    """The array of an idx file: two zeros, type 8 (bytes), the number of axes, their sizes, big-endian, the numbers."""
    try:
        raw = gzip.decompress(public_file(data, name, HOMES[data], FILES[data][name]).read_bytes())
        axes = raw[3]
        shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise DataError(f"{data}, {name}: {error}, limit: the public file. Remedy: put a whole copy there.") from None
