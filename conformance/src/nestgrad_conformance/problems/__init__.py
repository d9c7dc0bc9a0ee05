"""Problem families, each written once against an array namespace, with closed forms where they exist."""

from nestgrad_conformance.problems._case import RATE as RATE
from nestgrad_conformance.problems._case import Case as Case
from nestgrad_conformance.problems._case import SGDFrom as SGDFrom
from nestgrad_conformance.problems.logistic import logistic as logistic
from nestgrad_conformance.problems.mapped import babylonian as babylonian
from nestgrad_conformance.problems.mapped import contraction as contraction
from nestgrad_conformance.problems.mapped import mapped as mapped
from nestgrad_conformance.problems.mapped import mapped_closed_form as mapped_closed_form
from nestgrad_conformance.problems.mapped import mapped_scale as mapped_scale
from nestgrad_conformance.problems.mapped import well_conditioned as well_conditioned
from nestgrad_conformance.problems.quadratic import quadratic as quadratic
from nestgrad_conformance.problems.quadratic import quadratic_closed_form as quadratic_closed_form
from nestgrad_conformance.problems.quadratic import quadratic_optimum as quadratic_optimum
from nestgrad_conformance.problems.quadratic import quadratic_scale as quadratic_scale
from nestgrad_conformance.problems.ridge import ridge as ridge
from nestgrad_conformance.problems.ridge import ridge_closed_form as ridge_closed_form
from nestgrad_conformance.problems.scalar import exponential as exponential
from nestgrad_conformance.problems.scalar import shrinkage as shrinkage
from nestgrad_conformance.problems.sparse import active_set_form as active_set_form
from nestgrad_conformance.problems.sparse import proximal_solution as proximal_solution
from nestgrad_conformance.problems.sparse import sparse as sparse
from nestgrad_conformance.problems.tanh_network import tanh_network as tanh_network
from nestgrad_conformance.problems.update import updated as updated
from nestgrad_conformance.problems.update import updated_network as updated_network
