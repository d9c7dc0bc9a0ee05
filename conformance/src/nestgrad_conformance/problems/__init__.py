"""Problem families, each written once against an array namespace, with closed forms where they exist."""

from nestgrad_conformance.problems._case import Case as Case
from nestgrad_conformance.problems._case import SGDFrom as SGDFrom
from nestgrad_conformance.problems.logistic import logistic as logistic
from nestgrad_conformance.problems.quadratic import quadratic as quadratic
from nestgrad_conformance.problems.quadratic import quadratic_closed_form as quadratic_closed_form
from nestgrad_conformance.problems.quadratic import quadratic_optimum as quadratic_optimum
from nestgrad_conformance.problems.quadratic import quadratic_scale as quadratic_scale
from nestgrad_conformance.problems.ridge import ridge as ridge
from nestgrad_conformance.problems.ridge import ridge_closed_form as ridge_closed_form
from nestgrad_conformance.problems.scalar import exponential as exponential
from nestgrad_conformance.problems.scalar import shrinkage as shrinkage
from nestgrad_conformance.problems.tanh_network import tanh_network as tanh_network
from nestgrad_conformance.problems.update import updated as updated
from nestgrad_conformance.problems.update import updated_network as updated_network
