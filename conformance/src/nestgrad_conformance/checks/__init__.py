"""The checks, a module for each kind of property."""

from nestgrad_conformance.checks import errors as errors
from nestgrad_conformance.checks import exactness as exactness
from nestgrad_conformance.checks import invariance as invariance
from nestgrad_conformance.checks import one_pass as one_pass
from nestgrad_conformance.checks import purity as purity
from nestgrad_conformance.checks import status as status
from nestgrad_conformance.checks import structure as structure
from nestgrad_conformance.checks import truncation as truncation
