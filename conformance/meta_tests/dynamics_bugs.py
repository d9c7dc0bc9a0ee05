"""Bugs of Lyapunov exponents, their derivatives, and the search that branches: a line each."""

from __future__ import annotations

from planted import Bug

EXPONENTS, GRADIENT, SEARCH = "dynamics/_exponents.py", "dynamics/_gradient.py", "tuners/branching_search.py"
DEFINITION, LOGDET = "exponents_equal_their_definition", "all_exponents_sum_to_the_mean_log_determinant"
DESCENT, SLOPES = "exponents_of_descent_tell_where_it_bifurcates", "exponents_of_one_weight_are_mean_log_slopes"
ROTATION, LOGISTIC = "players_of_a_rotation_part_at_half_a_logarithm", "the_logistic_map_has_the_logarithm_of_two"
LEADING, TUNED = "leading_exponents_are_those_of_singular_values", "tuned_directions_bound_the_largest_exponent"
WIPED, MATRIX = "a_direction_that_is_wiped_out_has_no_exponent", "exponents_of_momentum_are_those_of_its_matrix"
DERIVED, REPEATED = (
    "exponents_are_differentiated_as_they_are_defined",
    "exponents_change_nothing_and_repeat_themselves",
)
BRANCHES = "branches_begin_on_both_sides_along_the_leading_directions"
PLAIN, WELLS = "a_branch_of_no_length_is_plain_play", "both_wells_are_found_from_between_them"
SEEDED, RAY, ASCENT = (
    "a_search_is_that_of_its_seed_and_can_go_on",
    "a_ridge_of_a_quadratic_is_a_ray",
    "ascents_end_where_the_references_do",
)
LOGS, SWEPT = "logs = logs + np.log(diagonal)", "columns, diagonal = orthonormal(matrix"
BACK = "[jacobian.T for jacobian in reversed(jacobians)]"
TAKEN = "jacobian, x, carried = step.linearize(*points[-1])"
NEW = "_, x, carried = step.linearize(*points[-1])\n        jacobian, _, _ = step.linearize(x, carried)"
FIRST = "_, x, carried = step.linearize(*points[-1])\n        jacobian, _, _ = step.linearize(*points[0])"

_LINES: list[tuple[str, str, str, str, str]] = [
    # (name, file, old, new, check)
    ("an exponent of squared norms", EXPONENTS, LOGS, "logs = logs + 2.0 * np.log(diagonal)", ROTATION),
    ("an exponent in bits", EXPONENTS, LOGS, "logs = logs + np.log2(diagonal)", LOGISTIC),
    ("a sign of QR's own", EXPONENTS, "q * np.where(diagonal < 0.0, -1.0, 1.0)", "q", DEFINITION),
    ("directions that are not carried along", EXPONENTS, SWEPT, "_, diagonal = orthonormal(matrix", DEFINITION),
    ("directions carried along by themselves", EXPONENTS, "return q * np.where(diagonal < 0.0, -1.0, 1.0),",
     "return columns / np.linalg.norm(columns, axis=0),", DEFINITION),
    ("directions taken as they are given", EXPONENTS, "            )\n    return found",
     "            )\n    return given / lengths", DEFINITION),
    ("refinement by J for its transpose", EXPONENTS, BACK, BACK.replace("jacobian.T", "jacobian"), LEADING),
    ("refinement through the steps in their order", EXPONENTS, BACK, BACK.replace("reversed(jacobians)", "jacobians"),
     LEADING),
    ("a product in the wrong order", EXPONENTS, "product = jacobian @ product", "product = product @ jacobian",
     LEADING),
    ("the left singular vector for the right", EXPONENTS, "np.linalg.svd(matrix)", "np.linalg.svd(matrix.T)", LEADING),
    ("the least singular value for the largest", EXPONENTS, "space = rows[sizes >= (1.0 - _SAME) * sizes[0]]",
     "space = rows[-1:]", TUNED),
    ("a mean of one step less", EXPONENTS, "exponents = logs / num_steps", "exponents = logs / max(num_steps - 1, 1)",
     LOGDET),
    ("a sum for the mean", EXPONENTS, "exponents = logs / num_steps", "exponents = logs", SLOPES),
    ("a sum for the mean, of momentum", EXPONENTS, "exponents = logs / num_steps", "exponents = logs", MATRIX),
    ("the Jacobian where a step ends", EXPONENTS, TAKEN, NEW, SLOPES),
    ("the first step's Jacobian for all", EXPONENTS, TAKEN, FIRST, LOGDET),
    ("the first step tuned by all of them", EXPONENTS, "_leading(jacobians[0], start)",
     "_leading(_product(jacobians), start)", TUNED),
    ("every step tuned at the first alone", EXPONENTS, "in enumerate(jacobians)}", "in enumerate(jacobians[:1])}",
     TUNED),
    ("refinements that never are", EXPONENTS, "for _ in range(rounds):", "for _ in range(0 * rounds):", DESCENT),
    ("what is wiped out said to be small", EXPONENTS, LOGS, "logs = logs + np.log(np.maximum(diagonal, 1e-30))", WIPED),
    ("a seed ignored", EXPONENTS, "default_rng(method.seed)", "default_rng(0)", REPEATED),
    ("a sweep that is not counted", EXPONENTS, "(2 * rounds + 1)", "(2 * rounds)", DEFINITION),
    ("a derivative of the sum for the mean", GRADIENT, "_back(at, weights / num_steps)", "_back(at, weights)", DERIVED),
    ("a derivative of the last step alone", GRADIENT, "of_x = jacobian.T @ of_x + _of", "of_x = _of", DERIVED),
    ("a derivative with J for its transpose", GRADIENT, "of_x = jacobian.T @ of_x", "of_x = jacobian @ of_x", DERIVED),
    ("directions held constant at every step", GRADIENT, "if count in at.begin else jacobian.T @ of_y", "", DERIVED),
    ("the smallest for the largest", GRADIENT, "== np.argmax(exponents)", "== np.argmin(exponents)", DERIVED),
    ("entropy with negative exponents", GRADIENT, "which = ~(exponents <= 0.0)", "which = exponents < np.inf", DERIVED),
    ("an ascent that descends", SEARCH, "tree.map(np.negative, found", "tree.map(np.positive, found", ASCENT),
    ("an ascent of the largest always", SEARCH, "objective=ascent.objective", 'objective="largest"', ASCENT),
    ("branches of one sign only", SEARCH, "distance * rows[which]", "abs(distance) * rows[which]", BRANCHES),
    ("branches along the first direction only", SEARCH, "distance * rows[which]", "distance * rows[0]", BRANCHES),
    ("branches along the least exponent first", SEARCH, "np.argsort(-found", "np.argsort(found", BRANCHES),
    ("branches twice as long", SEARCH, "distance * rows[which]", "2.0 * distance * rows[which]", BRANCHES),
    ("a ridge ridden to one side", SEARCH, "sign * rows[which]", "rows[which]", RAY),
    ("a ridge that turns back", SEARCH, "-1.0 if overlaps[nearest] < 0.0 else 1.0", "-1.0", RAY),
    ("a ridge ridden without steps", SEARCH, "ridge.step_size * d", "0.0 * d", RAY),
    ("one step beyond max_steps", SEARCH, "or steps == max_steps", "or steps > max_steps", PLAIN),
    ("a state one step beyond what is told of it", SEARCH, "return Descent(state=state", "return Descent(state=after",
     PLAIN),
    ("branches that do not stop at their tolerance", SEARCH, "size <= self._how.tolerance", "size < 0.0", WELLS),
    ("a search whose seed is ignored", SEARCH, "refinements=self._how.refinements, seed=seed",
     "refinements=self._how.refinements, seed=0", SEEDED),
]  # fmt: skip

BUGS = [Bug(501 + k, *line) for k, line in enumerate(_LINES)]
