"""nestgrad's conformance suite, which tells whether a backend computes right hypergradients.

Three doors to one list of checks: `pytest --pyargs nestgrad_conformance --nestgrad-harness=package.module:harness`,
`@parametrize_with_checks(harness)` in a backend's own tests, and `check_backend(harness)` without pytest.
"""

from nestgrad_conformance import checks as checks  # the import fills CHECKS
from nestgrad_conformance.expected import EXPECTED as EXPECTED
from nestgrad_conformance.harness import Harness as Harness
from nestgrad_conformance.harness import load_harness as load_harness
from nestgrad_conformance.parametrize import parametrize_with_checks as parametrize_with_checks
from nestgrad_conformance.registry import CHECKS as CHECKS
from nestgrad_conformance.registry import Check as Check
from nestgrad_conformance.registry import UnknownCheck as UnknownCheck
from nestgrad_conformance.registry import check as check
from nestgrad_conformance.report import write_report as write_report
from nestgrad_conformance.running import CheckResult as CheckResult
from nestgrad_conformance.running import check_backend as check_backend
from nestgrad_conformance.running import run_check as run_check

__version__ = "0.1.0"
