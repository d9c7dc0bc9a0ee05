"""Data sets: scikit-learn's digits, eight UCI tables in the split of Clarke et al. 2022, and the user's own table."""

from nestgrad_lab.data.dataset import Dataset as Dataset
from nestgrad_lab.data.dataset import Part as Part
from nestgrad_lab.data.load import load as load
