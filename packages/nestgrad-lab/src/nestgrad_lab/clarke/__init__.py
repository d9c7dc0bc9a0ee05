"""The UCI experiment of Clarke, Oldewage and Hernández-Lobato 2022: final test error over random starts."""

from nestgrad_lab.clarke.algorithms import ALGORITHMS as ALGORITHMS
from nestgrad_lab.clarke.experiment import Experiment as Experiment
from nestgrad_lab.clarke.experiment import repeat as repeat
from nestgrad_lab.clarke.experiment import report_experiment as report_experiment
