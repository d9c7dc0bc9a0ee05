"""Scikit-learn's handwritten digits: 1797 images of 8 × 8 pixels, installed with the package."""

from __future__ import annotations

import numpy as np

from nestgrad_lab.data.dataset import Dataset, classification, shuffled


def digits(seed: int) -> Dataset:
    """The digits, pixels from 0 to 1 less their training and validation mean; 60/20/20 by the seed."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (three seconds, when cold)

    images, labels = (np.asarray(values) for values in load_digits(return_X_y=True))
    parts = shuffled(len(images), seed)
    features = tuple(f"pixel{i}" for i in range(images.shape[1]))
    # Some pixels are white in all but a few images: divided by their own deviation those few would be outliers of 30.
    scaling = (images[np.concatenate(parts[:2])].mean(axis=0), np.full(images.shape[1], 16.0))
    return classification("digits", images, labels, tuple("0123456789"), parts, features, scaling=scaling)
