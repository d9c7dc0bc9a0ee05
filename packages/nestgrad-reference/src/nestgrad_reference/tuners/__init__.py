"""Tuners: objects with init(params) -> state and step(state, inner_batch[, outer_batch]) -> (state, info)."""

from nestgrad_reference.tuners.baselines import Fixed as Fixed
from nestgrad_reference.tuners.baselines import RandomMultiplier as RandomMultiplier
from nestgrad_reference.tuners.branching_search import BranchingSearch as BranchingSearch
from nestgrad_reference.tuners.full_horizon import FullHorizon as FullHorizon
from nestgrad_reference.tuners.hyper_training import HyperTraining as HyperTraining
from nestgrad_reference.tuners.hypergradient_descent import HypergradientDescent as HypergradientDescent
from nestgrad_reference.tuners.many_runs import ManyRuns as ManyRuns
from nestgrad_reference.tuners.one_pass import OnePass as OnePass
from nestgrad_reference.tuners.one_pass import per_parameter as per_parameter
from nestgrad_reference.tuners.real_time import RealTime as RealTime
from nestgrad_reference.tuners.self_tuning import SelfTuning as SelfTuning
