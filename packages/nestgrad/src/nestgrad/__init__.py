"""nestgrad: the gradient of an outer loss through the training that its inner problem stands for.

This package holds the specs, results, errors and protocols, and imports no framework. Users import a backend
(nestgrad_torch, nestgrad_jax, nestgrad_reference), which re-exports these names.
"""

from typing import Any

from nestgrad import tree as tree
from nestgrad._backend import GROUP as GROUP
from nestgrad._backend import NOT_BUILT as NOT_BUILT
from nestgrad._backend import OPTIONAL as OPTIONAL
from nestgrad._backend import SPECS as SPECS
from nestgrad._backend import Backend as Backend
from nestgrad._backend import Rules as Rules
from nestgrad._backend import available_backends as available_backends
from nestgrad._backend import get_backend as get_backend
from nestgrad._backend import offers as offers
from nestgrad._backend import support_table as support_table
from nestgrad._certificate import Certificate as Certificate
from nestgrad._dynamics.branching import Ascent as Ascent
from nestgrad._dynamics.branching import Branching as Branching
from nestgrad._dynamics.branching import Ridge as Ridge
from nestgrad._dynamics.exponents import ExponentGradient as ExponentGradient
from nestgrad._dynamics.exponents import ExponentMethod as ExponentMethod
from nestgrad._dynamics.exponents import ExponentObjective as ExponentObjective
from nestgrad._dynamics.exponents import ExponentSpectrum as ExponentSpectrum
from nestgrad._dynamics.exponents import LargestExponent as LargestExponent
from nestgrad._dynamics.exponents import LyapunovExponents as LyapunovExponents
from nestgrad._dynamics.exponents import TunedDirection as TunedDirection
from nestgrad._dynamics.exponents import check_exponents as check_exponents
from nestgrad._dynamics.search import Cost as Cost
from nestgrad._dynamics.search import Descent as Descent
from nestgrad._dynamics.search import Entry as Entry
from nestgrad._dynamics.search import Explorer as Explorer
from nestgrad._dynamics.search import SearchInfo as SearchInfo
from nestgrad._dynamics.search import SearchState as SearchState
from nestgrad._dynamics.search import Solution as Solution
from nestgrad._dynamics.search import Spread as Spread
from nestgrad._dynamics.search import begin_search as begin_search
from nestgrad._dynamics.search import search_step as search_step
from nestgrad._dynamics.search import why_stopped as why_stopped
from nestgrad._errors import Breakdown as Breakdown
from nestgrad._errors import DeviceMismatch as DeviceMismatch
from nestgrad._errors import DisconnectedHyperparameter as DisconnectedHyperparameter
from nestgrad._errors import DoubleBackwardUnsupported as DoubleBackwardUnsupported
from nestgrad._errors import DtypeMismatch as DtypeMismatch
from nestgrad._errors import ExplodingHypergradient as ExplodingHypergradient
from nestgrad._errors import IndefiniteCurvature as IndefiniteCurvature
from nestgrad._errors import InnerNotConverged as InnerNotConverged
from nestgrad._errors import InvalidInput as InvalidInput
from nestgrad._errors import NearKink as NearKink
from nestgrad._errors import NestgradError as NestgradError
from nestgrad._errors import NestgradWarning as NestgradWarning
from nestgrad._errors import NeumannDivergence as NeumannDivergence
from nestgrad._errors import NonDifferentiableHyperparameter as NonDifferentiableHyperparameter
from nestgrad._errors import NonFinite as NonFinite
from nestgrad._errors import NonScalarLoss as NonScalarLoss
from nestgrad._errors import NotConverged as NotConverged
from nestgrad._errors import NotSymmetric as NotSymmetric
from nestgrad._errors import OutOfSpace as OutOfSpace
from nestgrad._errors import ProcessLost as ProcessLost
from nestgrad._errors import Recompilation as Recompilation
from nestgrad._errors import SingularJacobian as SingularJacobian
from nestgrad._errors import SolverError as SolverError
from nestgrad._errors import SuspectBroadcast as SuspectBroadcast
from nestgrad._errors import UnknownBackend as UnknownBackend
from nestgrad._errors import UnsupportedModule as UnsupportedModule
from nestgrad._errors import UnsupportedOptimizer as UnsupportedOptimizer
from nestgrad._errors import UnsupportedSpec as UnsupportedSpec
from nestgrad._errors import WrongDerivative as WrongDerivative
from nestgrad._errors import ZeroHypergradient as ZeroHypergradient
from nestgrad._errors import error_for as error_for
from nestgrad._errors import symmetry_limit as symmetry_limit
from nestgrad._games.directions import LOLA as LOLA
from nestgrad._games.directions import SOS as SOS
from nestgrad._games.directions import CompetitiveGradient as CompetitiveGradient
from nestgrad._games.directions import Consensus as Consensus
from nestgrad._games.directions import Direction as Direction
from nestgrad._games.directions import Extragradient as Extragradient
from nestgrad._games.directions import LookAhead as LookAhead
from nestgrad._games.directions import Simultaneous as Simultaneous
from nestgrad._games.directions import SymplecticAdjustment as SymplecticAdjustment
from nestgrad._games.game import Game as Game
from nestgrad._games.game import Turns as Turns
from nestgrad._games.game import check_players as check_players
from nestgrad._games.play import GameDirection as GameDirection
from nestgrad._games.play import PlayInfo as PlayInfo
from nestgrad._games.play import PlayState as PlayState
from nestgrad._games.play import check_play as check_play
from nestgrad._legality import INNERS_OF as INNERS_OF
from nestgrad._legality import TRAITS as TRAITS
from nestgrad._legality import Traits as Traits
from nestgrad._legality import illegal as illegal
from nestgrad._legality import require_batches as require_batches
from nestgrad._legality import require_legal as require_legal
from nestgrad._methods.bome import BOME as BOME
from nestgrad._methods.darts import DARTS as DARTS
from nestgrad._methods.implicit import Implicit as Implicit
from nestgrad._methods.penalty import Penalty as Penalty
from nestgrad._methods.pes import PES as PES
from nestgrad._methods.responses import FactorisedResponse as FactorisedResponse
from nestgrad._methods.responses import GatedResponse as GatedResponse
from nestgrad._methods.responses import LinearResponse as LinearResponse
from nestgrad._methods.responses import MLPResponse as MLPResponse
from nestgrad._methods.responses import Response as Response
from nestgrad._methods.responses import features as features
from nestgrad._methods.responses import ordered_leaves as ordered_leaves
from nestgrad._methods.sama import SAMA as SAMA
from nestgrad._methods.unrolled import Unrolled as Unrolled
from nestgrad._preflight import Finding as Finding
from nestgrad._preflight import Probe as Probe
from nestgrad._preflight import examine_probe as examine_probe
from nestgrad._preflight import report_findings as report_findings
from nestgrad._problem import INNERS as INNERS
from nestgrad._problem import BilevelProblem as BilevelProblem
from nestgrad._problem import FixedPoint as FixedPoint
from nestgrad._problem import Inner as Inner
from nestgrad._problem import Loss as Loss
from nestgrad._problem import Map as Map
from nestgrad._problem import Minimize as Minimize
from nestgrad._problem import PredictionLoss as PredictionLoss
from nestgrad._problem import ProximalGradient as ProximalGradient
from nestgrad._problem import Root as Root
from nestgrad._problem import WeightUpdate as WeightUpdate
from nestgrad._problem import require_inner as require_inner
from nestgrad._result import HyperGradient as HyperGradient
from nestgrad._result import HyperGradientJVP as HyperGradientJVP
from nestgrad._result import Stats as Stats
from nestgrad._solvers.bicgstab import BiCGSTAB as BiCGSTAB
from nestgrad._solvers.cg import CG as CG
from nestgrad._solvers.dense import Dense as Dense
from nestgrad._solvers.gmres import GMRES as GMRES
from nestgrad._solvers.identity import Identity as Identity
from nestgrad._solvers.lsmr import LSMR as LSMR
from nestgrad._solvers.minres import MINRES as MINRES
from nestgrad._solvers.neumann import GROWTH_LIMIT as GROWTH_LIMIT
from nestgrad._solvers.neumann import Neumann as Neumann
from nestgrad._solvers.normal_cg import NormalCG as NormalCG
from nestgrad._solvers.nystrom import Nystrom as Nystrom
from nestgrad._solvers.random_neumann import RandomNeumann as RandomNeumann
from nestgrad._spaces import Bounded as Bounded
from nestgrad._spaces import Log as Log
from nestgrad._spaces import Log10 as Log10
from nestgrad._spaces import Logit as Logit
from nestgrad._spaces import Real as Real
from nestgrad._spaces import Softplus as Softplus
from nestgrad._spaces import Space as Space
from nestgrad._spaces import SpaceOps as SpaceOps
from nestgrad._spaces import initial_values as initial_values
from nestgrad._spaces import map_spaces as map_spaces
from nestgrad._spaces import require_initial as require_initial
from nestgrad._spaces import space_paths as space_paths
from nestgrad._status import Status as Status
from nestgrad._tuners import choosing as choosing
from nestgrad._tuners._watch import Watch as Watch
from nestgrad._tuners.baselines import FixedState as FixedState
from nestgrad._tuners.baselines import RandomMultiplierState as RandomMultiplierState
from nestgrad._tuners.baselines import check_fixed as check_fixed
from nestgrad._tuners.baselines import check_random_multiplier as check_random_multiplier
from nestgrad._tuners.full_horizon import FullHorizonState as FullHorizonState
from nestgrad._tuners.full_horizon import begins_run as begins_run
from nestgrad._tuners.full_horizon import check_full_horizon as check_full_horizon
from nestgrad._tuners.guard import Event as Event
from nestgrad._tuners.guard import Guard as Guard
from nestgrad._tuners.hyper_training import HyperTrainingState as HyperTrainingState
from nestgrad._tuners.hyper_training import Normal as Normal
from nestgrad._tuners.hyper_training import Uniform as Uniform
from nestgrad._tuners.hyper_training import check_hyper_training as check_hyper_training
from nestgrad._tuners.hyper_training import moves_hparams as moves_hparams
from nestgrad._tuners.hyper_training import moves_response as moves_response
from nestgrad._tuners.hypergradient_descent import DescentState as DescentState
from nestgrad._tuners.hypergradient_descent import check_descent as check_descent
from nestgrad._tuners.many_runs import check_many_runs as check_many_runs
from nestgrad._tuners.many_runs import require_leading_axis as require_leading_axis
from nestgrad._tuners.one_pass import OnePassInfo as OnePassInfo
from nestgrad._tuners.one_pass import OnePassRun as OnePassRun
from nestgrad._tuners.one_pass import OnePassState as OnePassState
from nestgrad._tuners.one_pass import check_block as check_block
from nestgrad._tuners.one_pass import check_guard as check_guard
from nestgrad._tuners.one_pass import check_one_pass as check_one_pass
from nestgrad._tuners.one_pass import window_position as window_position
from nestgrad._tuners.real_time import RealTimeState as RealTimeState
from nestgrad._tuners.real_time import check_real_time as check_real_time
from nestgrad._tuners.self_tuning import ENTROPY_OF_UNIT_NORMAL as ENTROPY_OF_UNIT_NORMAL
from nestgrad._tuners.self_tuning import Objective as Objective
from nestgrad._tuners.self_tuning import SelfTuningState as SelfTuningState
from nestgrad._tuners.self_tuning import check_self_tuning as check_self_tuning
from nestgrad._tuners.self_tuning import moves_outer as moves_outer
from nestgrad._tuners.self_tuning import shared_columns as shared_columns
from nestgrad._tuners.self_tuning import softplus_inverse as softplus_inverse
from nestgrad._verify import Verification as Verification
from nestgrad._verify import VerifyOps as VerifyOps
from nestgrad._verify import verify_with as verify_with

__version__ = "0.1.0"


class NotBuilt(NestgradError, AttributeError, NotImplementedError):
    """A method that the field knows and nestgrad has not built; the message names what to use instead."""


def __getattr__(name: str) -> Any:
    if name in NOT_BUILT:
        raise NotBuilt(f"{name} is not built in nestgrad {__version__}. Remedy: use {NOT_BUILT[name]}.")
    raise AttributeError(f"module 'nestgrad' has no attribute {name!r}")
