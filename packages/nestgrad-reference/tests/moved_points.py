"""Maps from a tree to a tree that the tests of exponents iterate, and derivatives by differences."""

import autograd.numpy as anp
import numpy as np

import nestgrad_reference as ng

POINT = {"w": np.array([0.4, -0.3]), "count": 0, "rest": [np.array(0.2), np.array([True, False])]}
"""Three floating entries, of which the vector is rest, w by sorted keys; and what goes along."""


def curved(tree):
    """A map without symmetry, whose determinant is not constant."""
    w, r = tree["w"], tree["rest"][0]
    x = 1.1 * anp.sin(w[0]) + 0.4 * w[1] * r
    y = 0.8 * w[1] - 0.3 * w[0] ** 2 + 0.2 * r
    z = 1.3 * anp.sin(r) + 0.5 * anp.cos(w[0]) * w[1]
    return {"w": anp.array([x, y]), "count": tree["count"] + 1, "rest": [z, tree["rest"][1]]}


def packed(tree):
    """By hand: rest, then w."""
    return np.concatenate([np.reshape(tree["rest"][0], 1), tree["w"]])


def unpacked(x):
    return {"w": x[1:], "count": 0, "rest": [x[0], np.array([True, False])]}


def along(update, x, steps):
    """The points x_0 to x_k of the map as a function of a vector."""
    points = [x]
    for _ in range(steps):
        points.append(packed(update(unpacked(points[-1]))))
    return points


def differences(function, x, step=1e-4):
    """The derivative of a number or a vector, by central differences of 4th order."""

    def at(k, s):
        return np.asarray(function(x + s * step * np.eye(x.size)[k]))

    columns = [(8.0 * (at(k, 1) - at(k, -1)) - (at(k, 2) - at(k, -2))) / (12.0 * step) for k in range(x.size)]
    return np.stack(columns, axis=-1)


def linear(matrix):
    """x -> M x for an array."""
    return lambda x: anp.dot(matrix, x)


def spectrum(update, point, steps, **settings):
    """The exponents alone."""
    return ng.lyapunov_exponents(update, point, num_steps=steps, **settings).exponents
