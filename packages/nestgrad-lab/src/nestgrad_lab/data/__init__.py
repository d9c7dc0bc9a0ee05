"""Data sets: scikit-learn's digits, eight UCI tables, images, a text, and the user's own table."""

from nestgrad_lab.data.dataset import Dataset as Dataset
from nestgrad_lab.data.dataset import Part as Part
from nestgrad_lab.data.load import load as load
