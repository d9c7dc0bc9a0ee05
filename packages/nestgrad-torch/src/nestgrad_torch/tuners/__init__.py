"""Tuners: objects with init(params) -> state and step(state, inner_batch[, outer_batch]) -> (state, info)."""

from nestgrad_torch.tuners.baselines import Fixed as Fixed
from nestgrad_torch.tuners.baselines import RandomMultiplier as RandomMultiplier
from nestgrad_torch.tuners.branching_search import BranchingSearch as BranchingSearch
from nestgrad_torch.tuners.full_horizon import FullHorizon as FullHorizon
from nestgrad_torch.tuners.hyper_training import HyperTraining as HyperTraining
from nestgrad_torch.tuners.hypergradient_descent import HypergradientDescent as HypergradientDescent
from nestgrad_torch.tuners.many_runs import ManyRuns as ManyRuns
from nestgrad_torch.tuners.one_pass import OnePass as OnePass
from nestgrad_torch.tuners.one_pass import per_parameter as per_parameter
from nestgrad_torch.tuners.play import Play as Play
from nestgrad_torch.tuners.real_time import RealTime as RealTime
from nestgrad_torch.tuners.self_tuning import SelfTuning as SelfTuning
