"""Bugs to plant: each a few words of a backend's source replaced, and the check that must notice.

The subject is a copy of the reference backend under another package name, so that the oracle stays whole. The numbers
are those of the field's list of hypergradient bugs, 1 to 32; 33 to 35 continue it; those from 51 on are bugs of single
rules, a line each in `rules.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """In `file`, `old` (which must stand there) becomes `new`; `check` must then fail."""

    number: int
    name: str
    file: str
    old: str
    new: str
    check: str


RULE, SERIES, CG_FORMULA = "_rules/implicit.py", "_solvers/neumann.py", "_solvers/cg.py"
TUNER, DERIVATIVES, SPACES, OPTIM = "tuners/one_pass.py", "_derivatives.py", "_space_ops.py", "optim/_sgd.py"

DEFINITION = "neumann_equals_its_definition"
UPDATES = "neumann_on_weight_updates_equals_its_definition"
HYPER_STEP = "hyper_step_equals_closed_form"
TOTAL = "total=restore(direct + indirect)"
LINEARIZED = 'linearize(self._update, state["params"], values, inner_batch, state["opt_state"])'
OUTER = 'outer_gradients(self.problem.outer_loss, after["params"], values, outer_batch)'
INDIRECT = "indirect = -scale * (point.mixed.T @ solve.solution)"
SHAPED = "[part for part in __import__('nestgrad').tree.leaves(flatten(hparams)[1](np.arange(direct.size)))]"
DECAYED = "g + xi * w"
MOVED = 'trace = tree.map(lambda v, d, mu, s: mu * v + s * d, state["trace"], slopes, momentum, share)'
FLAT = "__import__('nestgrad_reference')._tree.flatten"
CONSTANT = "__import__('autograd').tracer.getval"
BASELINES, IN_THE_STATE = "tuners/baselines.py", "all_that_a_run_needs_is_in_its_state"
STEPPED = (
    'loss, params, opt_state = weight_step(self._update, state["params"], state["opt_state"], values, inner_batch)'
)
OUTER_STEP = (
    'steps, after["outer_opt_state"] = tuner.outer_optimizer.update(total, state["outer_opt_state"], state["hparams"])'
)
SLOPES = "slopes = map_spaces(slope, self.spaces, values)"
GRADIENT = "return autograd.grad(lambda x: loss(shape_params(x), h, batch))(w)"
GAUSS_NEWTON = f"""if not hasattr(inner.loss, "residuals"):
            {GRADIENT}
        errors = lambda x: inner.loss.residuals(shape_params(x), h, batch)
        plain = w
        while hasattr(plain, "_value"):
            plain = plain._value
        frozen = autograd.jacobian(errors)(plain)
        return 2.0 / len(batch[1]) * (frozen.T @ errors(w))"""

BUGS = [
    Bug(1, "sign flip", RULE, "indirect = -scale", "indirect = scale", "dense_equals_closed_form_on_quadratics"),
    Bug(2, "no direct term", RULE, TOTAL, "total=restore(indirect)", "direct_term_is_the_outer_partial_derivative"),
    Bug(
        3,
        "direct term negated",
        RULE,
        TOTAL,
        "total=restore(indirect - direct)",
        "direct_term_is_the_outer_partial_derivative",
    ),
    Bug(
        4,
        "one term too many",
        SERIES,
        "range(spec.num_terms)]",
        "range(spec.num_terms + 1)]",
        "one_neumann_term_equals_identity",
    ),
    Bug(5, "one term too few", SERIES, "range(spec.num_terms)]", "range(max(1, spec.num_terms - 1))]", DEFINITION),
    Bug(6, "transposed Jacobian", RULE, "point.jacobian.T", "point.jacobian", "per_parameter_rates_need_the_transpose"),
    Bug(
        7,
        "Jacobian at the wrong weights",
        TUNER,
        LINEARIZED,
        LINEARIZED.replace('state["params"]', 'after["params"]'),
        HYPER_STEP,
    ),
    Bug(8, "validation gradient at old weights", TUNER, OUTER, OUTER.replace("after", "state"), HYPER_STEP),
    Bug(
        9,
        "weight decay added to the validation gradient",
        TUNER,
        OUTER,
        f'(lambda v, w: (v[0], v[1] + values["weight_decay"] * w, v[2]))({OUTER}, ' + FLAT + '(after["params"])[0])',
        HYPER_STEP,
    ),
    Bug(10, "weight decay missing from the Jacobian", OPTIM, DECAYED, f"g + xi * {CONSTANT}(w)", UPDATES),
    Bug(11, "Gauss-Newton instead of the Hessian", DERIVATIVES, GRADIENT, GAUSS_NEWTON, UPDATES),
    Bug(12, "momentum buffer ignored", TUNER, LINEARIZED, LINEARIZED.replace('state["opt_state"]', "None"), HYPER_STEP),
    Bug(
        13,
        "momentum in the Jacobian",
        OPTIM,
        MOVED,
        MOVED.replace("mu, s: mu * v", f"mu, s, w: mu * (v + w - {CONSTANT}(w))").replace("share)", "share, params)"),
        UPDATES,
    ),
    Bug(
        14,
        "momentum derivative by the new buffer",
        TUNER,
        LINEARIZED,
        LINEARIZED.replace('state["opt_state"]', 'after["opt_state"]'),
        HYPER_STEP,
    ),
    Bug(
        15,
        "validation batch in place of the training batch",
        TUNER,
        LINEARIZED,
        LINEARIZED.replace("inner", "outer"),
        HYPER_STEP,
    ),
    Bug(
        16,
        "training and validation swapped",
        "_backend.py",
        "problem.outer_loss, weights, values, outer_batch)",
        "problem.outer_loss, weights, values, inner_batch)",
        DEFINITION,
    ),
    Bug(
        17,
        "sum instead of mean",
        DERIVATIVES,
        "return float(value(w, h)), autograd.grad(value, 0)(w, h),",
        "return float(value(w, h)), len(tree.leaves(batch)[0]) * autograd.grad(value, 0)(w, h),",
        DEFINITION,
    ),
    Bug(
        18,
        "chain rule of the log rate missing",
        TUNER,
        SLOPES,
        SLOPES + '\n        slopes = {**slopes, "lr": 1.0}',
        HYPER_STEP,
    ),
    Bug(
        19,
        "chain rule of the log decay missing",
        TUNER,
        SLOPES,
        SLOPES + '\n        slopes = {**slopes, "weight_decay": 1.0}',
        HYPER_STEP,
    ),
    Bug(
        20,
        "chain rule of the sigmoid missing",
        SPACES,
        "return value * (1.0 - value)",
        "return np.ones_like(value)",
        "every_space_obeys_the_chain_rule",
    ),
    Bug(21, "I + J for I - J", SERIES, "np.eye(rhs.size) -", "np.eye(rhs.size) +", DEFINITION),
    Bug(
        22,
        "damped series",
        SERIES,
        "step = np.eye(rhs.size) - spec.step_size * matrix",
        "step = 0.9 * (np.eye(rhs.size) - spec.step_size * matrix)",
        DEFINITION,
    ),
    Bug(23, "last term only", SERIES, "sum(powers)", "powers[-1]", DEFINITION),
    Bug(24, "last term not added", SERIES, "sum(powers)", "sum(powers[:-1] or powers)", DEFINITION),
    Bug(25, "doubled accumulator", SERIES, "sum(powers)", "(sum(powers) + powers[0])", DEFINITION),
    Bug(
        26,
        "inverse product skipped",
        RULE,
        "point.mixed.T @ solve.solution",
        "point.mixed.T @ (rhs / scale)",
        "dense_equals_closed_form_on_quadratics",
    ),
    Bug(
        27,
        "mean over a shared hyperparameter",
        RULE,
        INDIRECT,
        INDIRECT
        + f"\n    for place in {SHAPED}:\n        if place.ndim == 0:\n            indirect[int(place)] /= rhs.size",
        "shared_hyperparameter_gets_the_sum",
    ),
    Bug(
        28,
        "shared hyperparameter broadcast wrongly",
        RULE,
        INDIRECT,
        f"for place in {SHAPED}:\n        if place.ndim == 0:\n            point.mixed[1:, int(place)] = 0.0\n"
        f"    {INDIRECT}",
        "shared_hyperparameter_gets_the_sum",
    ),
    Bug(
        29,
        "frozen parameter zeroed",
        RULE,
        "loss, rhs, direct = outer",
        "loss, rhs, direct = outer\n    rhs = np.where(point.residual == 0.0, 0.0, rhs)",
        "frozen_params_act_as_constants",
    ),
    Bug(
        30,
        "hidden norm clip",
        RULE,
        TOTAL,
        "total=restore((direct + indirect) / max(1.0, np.linalg.norm(direct + indirect)))",
        "outer_loss_may_have_any_scale",
    ),
    Bug(
        31,
        "gradient accumulated across calls",
        RULE,
        INDIRECT,
        INDIRECT
        + '\n    indirect = indirect + globals().get("kept", np.zeros(1)).sum()\n    globals()["kept"] = indirect',
        "calls_do_not_influence_one_another",
    ),
    Bug(
        32,
        "float32 inside a float64 path",
        RULE,
        "rhs / scale, point",
        "(rhs / scale).astype(np.float32), point",
        DEFINITION,
    ),
    Bug(
        33,
        "CG returns the previous iterate",
        CG_FORMULA,
        "basis, steps = wider, steps + 1\n        solution =",
        "basis, steps, old = wider, steps + 1, solution\n        solution = old if steps > 1 else",
        "cg_without_tolerance_is_the_krylov_iterate",
    ),
    Bug(
        34,
        "CG residual unscaled",
        CG_FORMULA,
        "spec.atol / scale",
        "spec.atol",
        "absolute_tolerance_is_in_the_units_of_the_outer_slope",
    ),
    Bug(
        35,
        "converged said at max_steps",
        CG_FORMULA,
        "return Status.MAX_STEPS_REACHED if",
        "return Status.CONVERGED if",
        "unconverged_solve_is_named",
    ),
    Bug(
        36,
        "random number reused",
        BASELINES,
        "draw = np.random.default_rng(key).uniform",
        "draw = lambda low, high: np.random.default_rng(key).uniform(low, high)",
        "factors_are_drawn_once_by_their_key",
    ),
    Bug(
        39,
        "seed ignored",
        BASELINES,
        "np.random.default_rng(key)",
        "np.random.default_rng(0)",
        "factors_are_drawn_once_by_their_key",
    ),
    Bug(
        40,
        "momentum kept outside of the state",
        TUNER,
        STEPPED,
        "self.__dict__.setdefault('kept', []).append(None)\n        "
        + STEPPED.replace(
            'state["opt_state"]', "self.kept[-2] or state['opt_state'] if len(self.kept) > 1 else state['opt_state']"
        )
        + "\n        self.kept[-1] = opt_state",
        IN_THE_STATE,
    ),
    Bug(
        42,
        "outer optimizer's state kept outside of the state",
        "tuners/_common.py",
        OUTER_STEP,
        "entering = tuner.__dict__.get('kept', tuner.outer_optimizer.init(state['hparams']))\n    "
        + OUTER_STEP.replace('state["outer_opt_state"]', "entering")
        + "\n    tuner.kept = after['outer_opt_state']",
        IN_THE_STATE,
    ),
    Bug(
        43,
        "phase within the interval kept outside of the state",
        TUNER,
        'return (state["step"] + 1) % cast',
        "self.taken = self.__dict__.get('taken', 0) + 1\n        return self.taken % cast",
        IN_THE_STATE,
    ),
    Bug(
        49,
        "hyperparameters clipped before their step",
        "tuners/_common.py",
        'map_spaces(clip, tuner.spaces, tree.map(np.add, state["hparams"], steps))',
        'tree.map(np.add, map_spaces(clip, tuner.spaces, state["hparams"]), steps)',
        "leaves_are_clipped_after_the_step",
    ),
]
