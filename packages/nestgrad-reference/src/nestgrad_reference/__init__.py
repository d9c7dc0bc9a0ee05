"""nestgrad in dense float64 NumPy; the core's public names are here too, so one import is enough."""

from typing import Any

import nestgrad as _core
from nestgrad import *  # noqa: F403
from nestgrad_reference import gated as gated
from nestgrad_reference import optim as optim
from nestgrad_reference import prox as prox
from nestgrad_reference import spectra as spectra
from nestgrad_reference._backend import hypergradient as hypergradient
from nestgrad_reference._backend import hypergradients as hypergradients
from nestgrad_reference._backend import supports as supports
from nestgrad_reference._materialize import Materialized as Materialized
from nestgrad_reference._materialize import materialize as materialize
from nestgrad_reference._preflight import check as check
from nestgrad_reference._response import best_response_jacobian as best_response_jacobian
from nestgrad_reference._response import hypergradient_jvp as hypergradient_jvp
from nestgrad_reference._response import newton_step as newton_step
from nestgrad_reference._responses import init_response as init_response
from nestgrad_reference._responses import respond as respond
from nestgrad_reference._verify import verify as verify
from nestgrad_reference.dynamics._exponents import lyapunov_exponents as lyapunov_exponents
from nestgrad_reference.dynamics._gradient import lyapunov_gradient as lyapunov_gradient
from nestgrad_reference.games._directions import game_direction as game_direction
from nestgrad_reference.games._products import game_jacobian as game_jacobian
from nestgrad_reference.games._products import game_jvp as game_jvp
from nestgrad_reference.games._products import game_vjp as game_vjp
from nestgrad_reference.tuners.baselines import Fixed as Fixed
from nestgrad_reference.tuners.baselines import RandomMultiplier as RandomMultiplier
from nestgrad_reference.tuners.branching_search import BranchingSearch as BranchingSearch
from nestgrad_reference.tuners.full_horizon import FullHorizon as FullHorizon
from nestgrad_reference.tuners.hyper_training import HyperTraining as HyperTraining
from nestgrad_reference.tuners.hypergradient_descent import HypergradientDescent as HypergradientDescent
from nestgrad_reference.tuners.many_runs import ManyRuns as ManyRuns
from nestgrad_reference.tuners.one_pass import OnePass as OnePass
from nestgrad_reference.tuners.one_pass import per_parameter as per_parameter
from nestgrad_reference.tuners.play import Play as Play
from nestgrad_reference.tuners.real_time import RealTime as RealTime
from nestgrad_reference.tuners.self_tuning import SelfTuning as SelfTuning

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    return getattr(_core, name)
