"""nestgrad on JAX; the core's public names are here too, so one import is enough."""

from typing import Any

import nestgrad as _core
from nestgrad import *  # noqa: F403
from nestgrad_jax import _pytrees as _pytrees
from nestgrad_jax import gated as gated
from nestgrad_jax import implicit_diff as implicit_diff
from nestgrad_jax import optim as optim
from nestgrad_jax import prox as prox
from nestgrad_jax._backend import hypergradient as hypergradient
from nestgrad_jax._backend import hypergradient_jvp as hypergradient_jvp
from nestgrad_jax._backend import hypergradients as hypergradients
from nestgrad_jax._backend import supports as supports
from nestgrad_jax._best_response import best_response as best_response
from nestgrad_jax._dynamics.exponents import lyapunov_exponents as lyapunov_exponents
from nestgrad_jax._dynamics.exponents import lyapunov_gradient as lyapunov_gradient
from nestgrad_jax._games.products import game_direction as game_direction
from nestgrad_jax._games.products import game_jacobian as game_jacobian
from nestgrad_jax._games.products import game_jvp as game_jvp
from nestgrad_jax._games.products import game_vjp as game_vjp
from nestgrad_jax._preflight import check as check
from nestgrad_jax._response import best_response_jacobian as best_response_jacobian
from nestgrad_jax._response import newton_step as newton_step
from nestgrad_jax._responses import init_response as init_response
from nestgrad_jax._responses import respond as respond
from nestgrad_jax._solvers._common import SOLVERS as SOLVERS
from nestgrad_jax._solvers._common import Solve as Solve
from nestgrad_jax._verify import verify as verify
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

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    return getattr(_core, name)
