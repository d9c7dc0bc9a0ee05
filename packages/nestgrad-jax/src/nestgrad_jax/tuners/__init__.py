"""Tuners: objects with init(params) -> state and step(state, inner_batch, outer_batch) -> (state, info)."""

from nestgrad_jax.tuners.baselines import Fixed as Fixed
from nestgrad_jax.tuners.baselines import RandomMultiplier as RandomMultiplier
from nestgrad_jax.tuners.branching_search import BranchingSearch as BranchingSearch
from nestgrad_jax.tuners.full_horizon import FullHorizon as FullHorizon
from nestgrad_jax.tuners.hyper_training import HyperTraining as HyperTraining
from nestgrad_jax.tuners.hypergradient_descent import HypergradientDescent as HypergradientDescent
from nestgrad_jax.tuners.many_runs import ManyRuns as ManyRuns
from nestgrad_jax.tuners.one_pass import OnePass as OnePass
from nestgrad_jax.tuners.one_pass import per_parameter as per_parameter
from nestgrad_jax.tuners.play import Play as Play
from nestgrad_jax.tuners.real_time import RealTime as RealTime
from nestgrad_jax.tuners.self_tuning import SelfTuning as SelfTuning
