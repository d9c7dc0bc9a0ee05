"""nestgrad on PyTorch; the core's public names are here too, so one import is enough."""

from typing import Any

import nestgrad as _core
from nestgrad import *  # noqa: F403
from nestgrad_torch import distributed as distributed
from nestgrad_torch import gated as gated
from nestgrad_torch import implicit_diff as implicit_diff
from nestgrad_torch import optim as optim
from nestgrad_torch import prox as prox
from nestgrad_torch._backend import hypergradient as hypergradient
from nestgrad_torch._backend import hypergradient_jvp as hypergradient_jvp
from nestgrad_torch._backend import hypergradients as hypergradients
from nestgrad_torch._backend import supports as supports
from nestgrad_torch._best_response import best_response as best_response
from nestgrad_torch._compile import CompiledProgram as CompiledProgram
from nestgrad_torch._compile import compiled_programs as compiled_programs
from nestgrad_torch._dynamics.entry import lyapunov_exponents as lyapunov_exponents
from nestgrad_torch._dynamics.entry import lyapunov_gradient as lyapunov_gradient
from nestgrad_torch._games.products import game_direction as game_direction
from nestgrad_torch._games.products import game_jacobian as game_jacobian
from nestgrad_torch._games.products import game_jvp as game_jvp
from nestgrad_torch._games.products import game_vjp as game_vjp
from nestgrad_torch._modules import ModuleParams as ModuleParams
from nestgrad_torch._preflight import check as check
from nestgrad_torch._response import best_response_jacobian as best_response_jacobian
from nestgrad_torch._response import newton_step as newton_step
from nestgrad_torch._responses import init_response as init_response
from nestgrad_torch._responses import respond as respond
from nestgrad_torch._solvers._common import SOLVERS as SOLVERS
from nestgrad_torch._solvers._common import Solve as Solve
from nestgrad_torch._verify import verify as verify
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

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    return getattr(_core, name)
