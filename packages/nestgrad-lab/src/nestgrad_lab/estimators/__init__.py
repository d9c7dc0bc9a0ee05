"""One-pass tuning as scikit-learn estimators."""

from nestgrad_lab.estimators.one_pass import OnePassClassifier as OnePassClassifier
from nestgrad_lab.estimators.one_pass import OnePassRegressor as OnePassRegressor
