"""The checks, a module for each kind of property."""

from nestgrad_conformance.checks import errors as errors
from nestgrad_conformance.checks import exactness as exactness
from nestgrad_conformance.checks import first_order as first_order
from nestgrad_conformance.checks import forward as forward
from nestgrad_conformance.checks import games as games
from nestgrad_conformance.checks import gated_layers as gated_layers
from nestgrad_conformance.checks import inner_problems as inner_problems
from nestgrad_conformance.checks import invariance as invariance
from nestgrad_conformance.checks import legality as legality
from nestgrad_conformance.checks import many_runs as many_runs
from nestgrad_conformance.checks import one_pass as one_pass
from nestgrad_conformance.checks import one_pass_run as one_pass_run
from nestgrad_conformance.checks import other_tuners as other_tuners
from nestgrad_conformance.checks import proximal as proximal
from nestgrad_conformance.checks import purity as purity
from nestgrad_conformance.checks import responses as responses
from nestgrad_conformance.checks import self_tuning as self_tuning
from nestgrad_conformance.checks import self_tuning_facts as self_tuning_facts
from nestgrad_conformance.checks import solvers as solvers
from nestgrad_conformance.checks import status as status
from nestgrad_conformance.checks import structure as structure
from nestgrad_conformance.checks import truncation as truncation
from nestgrad_conformance.checks import trust as trust
from nestgrad_conformance.checks import tuner_shapes as tuner_shapes
from nestgrad_conformance.checks import unrolled as unrolled
from nestgrad_conformance.checks import update_rules as update_rules
