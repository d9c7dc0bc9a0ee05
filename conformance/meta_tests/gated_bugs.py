"""Bugs of gated responses, their layers and self-tuning: a line each."""

from __future__ import annotations

from planted import Bug

GATES, LAYERS, DRAWS, TUNER = "_gates.py", "gated.py", "tuners/_draws.py", "tuners/self_tuning.py"
TRAJECTORY, REPORT = "self_tuning_equals_the_reference", "self_tuning_reports_what_it_saw"
NOISE, SETTLED = (
    "self_tuning_draws_by_its_seed_step_and_level",
    "scales_settle_where_the_entropy_balances_the_outer_loss",
)
CENTRED, ROWS = "centring_changes_no_value_of_the_network", "gated_layers_are_plain_layers_with_each_rows_weights"
DUE, UNBIASED = "self_tuning_moves_leaves_and_scales_when_due", "centring_takes_the_bias_of_the_base_point_away"
BEGUN, LINES = "gated_responses_begin_in_their_bounds", "linearising_changes_nothing_where_the_prediction_is_linear"
TOTAL = "total=parted(leaves, direct + indirect)"
OWN = '[state["seed"], state["step"], level]'
OUTER_NOISE = "self._noise(state, 1, outer_batch, outer_given)"
CODES = "codes, leaves = lams - centre if self._centred else lams"
FED = "codes = through - centre + moved if self._centred else through + moved"
DRAWN = 'lams = centre + _softplus(state["scales"]) * noise'
FIT = "loss, slopes = self._fit(state, self._noise(state, 0, inner_batch, given), inner_batch)"
SOONER = f"""sooner = dict(state)
        if moves_outer(state["step"], self.every, self.warmup_steps):
            self._move(*self._hypergradient(state, {OUTER_NOISE}, outer_batch, 0.0), state, sooner)
        {FIT.replace("_fit(state", "_fit(sooner")}"""
NATURAL = 'np.stack([joined(natural_values(self.spaces, parted(state["hparams"], lam))) for lam in lams])'

_LINES: list[tuple[str, str, str, str, str]] = [
    # (name, file, old, new, check)
    ("a total without its direct term", TUNER, TOTAL, "total=parted(leaves, indirect)", TRAJECTORY),
    ("a total without its indirect term", TUNER, TOTAL, "total=parted(leaves, direct)", TRAJECTORY),
    ("a gate held constant in the outer loss", TUNER, FED, FED.replace("through", "centre"),
     "self_tuning_at_its_fixed_point_gives_the_implicit_hypergradient"),
    ("noise used again at the next step", TUNER, OWN, '[state["seed"], level]', NOISE),
    ("noise whose seed is ignored", TUNER, OWN, '[state["step"], level]', NOISE),
    ("the inner noise drawn again for the outer loss", TUNER, OWN, '[state["seed"], state["step"]]', NOISE),
    ("the inner noise given to the outer loss", TUNER, OUTER_NOISE,
     "self._noise(state, 1, outer_batch, None if given is None else np.resize(given, np.shape(outer_given)))",
     TRAJECTORY),
    ("one draw for all rows", TUNER, "np.where(alike, drawn[0], drawn)", "drawn[:1] + 0.0 * drawn", NOISE),
    ("a shared draw for each row", TUNER, "np.where(alike, drawn[0], drawn)", "drawn", NOISE),
    ("entropy of the wrong sign", TUNER, "by_scales - self.entropy *", "by_scales + self.entropy *", SETTLED),
    ("entropy left out", TUNER, "by_scales - self.entropy *", "by_scales - 0.0 *", SETTLED),
    ("entropy by ς and not by the scale", TUNER, "xp.log(_softplus(by))", "0.5 * by", TRAJECTORY),
    ("gates fed natural values", TUNER, CODES, CODES.replace("else lams", f"else {NATURAL}"), TRAJECTORY),
    ("losses given leaves", DRAWS, "space.natural(leaf, OPS)", "leaf", TRAJECTORY),
    ("centred gates fed the leaves themselves", TUNER, CODES, "codes, leaves = lams", TRAJECTORY),
    ("centred gates fed the leaves in the outer loss", TUNER, FED, "codes = through + moved", CENTRED),
    ("scale without softplus", TUNER, DRAWN, 'lams = centre + state["scales"] * noise', TRAJECTORY),
    ("scale without softplus in the outer loss", TUNER, "moved = _softplus(by) * noise", "moved = by * noise",
     TRAJECTORY),
    ("scale taken for a variance", TUNER, DRAWN, 'lams = centre + np.sqrt(_softplus(state["scales"])) * noise',
     UNBIASED),
    ("scale squared", TUNER, DRAWN, 'lams = centre + _softplus(state["scales"]) ** 2 * noise', UNBIASED),
    ("a bias that the response part moves too", TUNER, '"bias": restore(slopes)["bias"]',
     '"bias": tree.map(np.add, restore(slopes)["bias"], responding["bias"])', TRAJECTORY),
    ("a bias that the response part alone moves", TUNER, '"bias": restore(slopes)["bias"]',
     '"bias": responding["bias"]', UNBIASED),
    ("linearised evaluated as it is", TUNER, 'if self.objective == "linearised":', 'if self.objective == "":',
     TRAJECTORY),
    ("made linear at the draw", DRAWS, "np.zeros(np.shape(codes)[1])", "codes[i]", TRAJECTORY),
    ("made linear without its value", DRAWS, "concatenate(at_origin) + xp.dot", "0.0 * concatenate(at_origin) + xp.dot",
     LINES),
    ("λ̂ for λ' in the inner loss", TUNER, '[parted(state["hparams"], lam) for lam in lams]',
     '[state["hparams"] for _ in lams]', TRAJECTORY),
    ("λ' for λ̂ in the general part", TUNER, 'still = [state["hparams"]] * (len(lams) if self._by_rows else 1)',
     "still = leaves", TRAJECTORY),
    ("a warm-up one step short", TUNER, 'moves_outer(state["step"], self.every, self.warmup_steps)',
     'moves_outer(state["step"], self.every, max(self.warmup_steps, 1) - 1)', DUE),
    ("hyperparameters that move before the response", TUNER, FIT, SOONER, TRAJECTORY),
    ("hyperparameters that move through the response of before", TUNER, "self._hypergradient(after, drawn",
     "self._hypergradient(state, drawn", TRAJECTORY),
    ("a skipped step that moves scales", TUNER, "if event is Event.SKIPPED:",
     'if event is Event.SKIPPED:\n            after["scales"] = state["scales"] - 0.01',
     "self_tuning_skips_or_raises_what_is_not_finite"),
    ("scales that the guard does not clip", TUNER, "by_scales * factor", "by_scales", TRAJECTORY),
    ("scales that stay", TUNER, 'after["scales"] = new["scales"]', 'after["scales"] = state["scales"]', DUE),
    ("scales reported as ς", TUNER, 'parted(state["hparams"], _softplus(state["scales"]))',
     'parted(state["hparams"], state["scales"])', REPORT),
    ("φ for the leaves moved the wrong way", TUNER, '-joined(state["hparams"]))', 'joined(state["hparams"]))', REPORT),
    ("a centred base point with its gates", TUNER, 'return state["params"]["bias"]',
     'return gated_weights(self.response, state["params"], joined(state["hparams"]))', REPORT),
    ("gates along the first axis", GATES, "laid[axis] = shape[axis]", "laid[0] = shape[axis]",
     "responses_equal_their_definition"),
    ("a gated Jacobian without its weights", GATES, "bias.shape) * weight[..., None]).reshape",
     "bias.shape) * np.ones_like(weight)[..., None]).reshape", "a_response_gives_its_total_derivative"),
    ("gates moved without their weights", GATES, "np.atleast_1d(slope * weight)", "np.atleast_1d(slope)",
     "hyper_training_equals_the_reference"),
    ("weights that begin by all entries", GATES, "np.sqrt(leaf.size / outputs)", "np.sqrt(leaf.size)", BEGUN),
    ("gates that begin by a variance", GATES, "response.gate_scale * rng", "response.gate_scale**2 * rng", BEGUN),
    ("the first row's code for all", LAYERS, "for code in self.codes:", "for code in [self.codes[0]] * len(self):",
     ROWS),
    ("gates of the cell in another order", LAYERS, "enter, keep, new, out = (", "enter, new, keep, out = (", ROWS),
    ("groups that share their channels", LAYERS, "patches[:, g * channels : (g + 1) * channels]",
     "patches[:, :channels]", ROWS),
    ("padding after the stride", LAYERS, "starts = np.arange(0, whole", "starts = np.arange(step - 1, whole", ROWS),
    ("a view that knows the whole and not its part", LAYERS, 'return self._within("bias")', 'return self.phi["bias"]',
     "gated_params_are_read_row_by_row"),
]  # fmt: skip

BUGS = [Bug(301 + k, *line) for k, line in enumerate(_LINES)]
