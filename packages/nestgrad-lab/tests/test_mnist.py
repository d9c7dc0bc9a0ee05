"""MNIST as the studies read it."""

import os
from pathlib import Path

import numpy as np
import pytest

from nestgrad_lab.data import load

HERE = Path(os.environ.get("NESTGRAD_DATA") or "none")


@pytest.mark.skipif(not (HERE / "mnist").is_dir(), reason="no NESTGRAD_DATA/mnist")
def test_mnist_is_whole_and_its_pixels_go_from_0_to_1():
    data = load("mnist")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [50_000, 10_000, 10_000]
    assert (data.merged.x.min(), data.merged.x.max()) == (0.0, 1.0)
    assert data.merged.x.mean() == pytest.approx(0.1307, abs=5e-5)  # the public figure of the 60,000
    assert np.bincount(data.merged.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (data.outputs, data.test.y[0]) == (10, 7)
