"""Bugs of momentum with a complex coefficient and its relatives: a line each."""

from __future__ import annotations

from planted import Bug

COMPLEX, LINKED, OPTIMISTIC = "optim/_complex.py", "optim/_linked.py", "optim/_optimistic.py"
PLAIN, CONJUGATE = "complex_momentum_that_does_not_turn_is_plain_momentum", "conjugate_momenta_take_the_same_steps"
VELOCITY, COSINES = "complex_momentum_is_one_complex_velocity", "complex_momentum_weighs_its_history_by_cosines"
PAIR, MEAN = "complex_momentum_is_a_linked_pair_that_turns", "aggregated_momentum_is_the_mean_of_its_momenta"
POWER, DIRAC = (
    "complex_momentum_on_a_linear_game_is_a_power_of_its_matrix",
    "dirac_gans_decay_and_grow_at_the_known_rates",
)
ADAM, MIXED = "complex_adam_equals_its_definition", "linked_momentum_equals_its_definition"
OPTIMIST = "optimistic_steps_go_by_twice_the_gradient_less_the_last"
REAL = '"real": tree.map(lambda a, b, g, r, i: r * a - i * b - g, a, b, grads, real, imag)'
TURNED = "return {\n        " + REAL
IMAG = "tree.map(lambda a, b, r, i: i * a + r * b, a, b, real, imag)"
MOVED = 'return tree.map(lambda a, eta: eta * a, after["real"], spread'

_LINES: list[tuple[str, str, str, str, str]] = [
    # (name, file, old, new, check)
    ("the new real part in the imaginary one", COMPLEX, TURNED + """,
        "imag": """ + IMAG, "a_new = " + REAL.partition(": ")[2] + """
    return {
        "real": a_new,
        "imag": """ + IMAG.replace("a, b, real", "a_new, b, real"), VELOCITY),
    ("the new imaginary part in the real one", COMPLEX, TURNED, "b_new = " + IMAG + "\n    "
     + TURNED.replace("a, b, grads", "a, b_new, grads"), COSINES),
    ("a rotation of the wrong sign on one side", COMPLEX, "r * a - i * b - g", "r * a + i * b - g", VELOCITY),
    ("a rotation of the wrong sign on the other", COMPLEX, "i * a + r * b", "r * b - i * a", DIRAC),
    ("a rotation whose sign counts", COMPLEX, "r * a - i * b - g", "r * a - xp.abs(i) * b - g", CONJUGATE),
    ("the imaginary part for the real one", COMPLEX, MOVED, MOVED.replace("real", "imag"), PLAIN),
    ("the modulus of the velocity for its real part", COMPLEX, MOVED,
     'return tree.map(lambda a, b, eta: -eta * xp.sqrt(a**2 + b**2), after["real"], after["imag"], spread', PAIR),
    ("the real part forgotten: both parts added", COMPLEX, MOVED,
     'return tree.map(lambda a, b, eta: eta * (a + b), after["real"], after["imag"], spread', COSINES),
    ("the velocity before the gradient", COMPLEX, MOVED, MOVED.replace('after["real"]', 'state["real"]'), POWER),
    ("a gradient damped by the modulus", COMPLEX, "r * a - i * b - g", "r * a - i * b - (1.0 - r) * g", POWER),
    ("a modulus that does not shrink the imaginary part", COMPLEX, "r * xp.sin(phi)", "xp.sin(phi)", PLAIN),
    ("an argument in turns", COMPLEX, "r * xp.sin(phi)", "r * xp.sin(2.0 * np.pi * phi)", VELOCITY),
    ("complex Adam's velocity with its bias corrected", COMPLEX, "eta * a / (root", "eta * a / (1 - 0.9**t) / (root",
     ADAM),
    ("complex Adam's count one behind", COMPLEX, 't, turned = state["count"] + 1', 't, turned = state["count"] + 2',
     ADAM),
    ("complex Adam with eps under its root", COMPLEX, "(root(v / (1 - c**t)) + e)", "root(v / (1 - c**t) + e)", ADAM),
    ("aggregated momentum not divided by M", LINKED, "eta / count * sum(mus)", "eta * sum(mus)", MEAN),
    ("aggregated momentum of the first momentum alone", LINKED, "eta / count * sum(mus)", "eta * mus[0]", MEAN),
    ("a mixing transposed", LINKED, "_weighted(mixing[k], old", "_weighted(mixing[:, k], old", MIXED),
    ("a gradient that enters every velocity alike", LINKED, "mixed - inputs[k] * g", "mixed - inputs[0] * g", PAIR),
    ("optimistic steps that never look back", OPTIMISTIC, 'state["before"] if state["count"] else grads', "grads",
     OPTIMIST),
    ("an optimistic first step of twice its length", OPTIMISTIC, 'state["before"] if state["count"] else grads',
     'state["before"]', OPTIMIST),
]  # fmt: skip

BUGS = [Bug(451 + k, *line) for k, line in enumerate(_LINES)]
