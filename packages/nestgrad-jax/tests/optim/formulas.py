"""The rules' formulas in numbers of 80 digits, which no framework computes, and their derivatives.

A formula takes the gradients of a run's steps, the weights, which stay, and the settings, all of Decimals. It returns
the updates of all steps.
"""

import itertools
import math
from decimal import Decimal, localcontext

import numpy as np

DIGITS, SHIFT = 80, Decimal("1e-20")


def sgd(gradients, w, lr, mu=0, xi=0, tau=0, *, nesterov=False):
    """lr: one number, or a list of one a step."""
    updates, v = [], None
    for g, rate in zip(gradients, lr if isinstance(lr, list) else [lr] * len(gradients), strict=True):
        d = g + xi * w
        v = d if v is None else mu * v + (1 - tau) * d
        updates.append(-rate * (d + mu * v if nesterov else v))
    return updates


def adam(gradients, w, lr, b1, b2, eps, xi, *, beside=False):
    updates, m, v = [], 0, 0
    for t, g in enumerate(gradients, 1):
        d = g if beside else g + xi * w
        m, v = b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d * d
        x = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        updates.append(-lr * (x + xi * w if beside else x))
    return updates


def rmsprop(gradients, w, lr, decay, eps, mu, xi, *, centered=False):
    updates, v, a, b = [], 0, 0, 0
    for g in gradients:
        d = g + xi * w
        v, a = decay * v + (1 - decay) * d * d, decay * a + (1 - decay) * d
        b = mu * b + d / (np.sqrt(v - a * a if centered else v) + eps)
        updates.append(-lr * b)
    return updates


def adagrad(gradients, w, lr, eps, xi, slower):
    updates, s = [], 0
    for t, g in enumerate(gradients, 1):
        d = g + xi * w
        s = s + d * d
        updates.append(-lr / (1 + (t - 1) * slower) * d / (np.sqrt(s) + eps))
    return updates


def lion(gradients, w, lr, b1, b2, xi):
    """A sign counts as constant around each point, also around zero: the shifts are too small to change it."""
    updates, m = [], 0
    for g in gradients:
        u = b1 * m + (1 - b1) * g
        signs = np.array([0 if abs(x) < 100 * SHIFT else x / abs(x) for x in u])
        updates.append(-lr * (signs + xi * w))
        m = b2 * m + (1 - b2) * g
    return updates


def clipped_sgd(gradients, w, lr, mu, most):
    norms = [np.sqrt((g * g).sum()) for g in gradients]
    return sgd([g * min(1, most / (n + Decimal("1e-6"))) for g, n in zip(gradients, norms, strict=True)], w, lr, mu)


def sgd_on_a_cosine(gradients, w, lr, length, least):
    shares = [min(t / length, 1) for t in range(len(gradients))]
    waves = [(1 + _cosine(Decimal(math.pi) * share)) / 2 for share in shares]
    return sgd(gradients, w, [lr * ((1 - least) * wave + least) for wave in waves])


def sgd_on_pieces(gradients, w, *rates):
    return sgd(gradients, w, list(rates))


def derivatives(function, point):
    """(f, f', f'') at a point, by central differences that are exact to about SHIFT.

    Around a point where f has a kink they are the mean of its two sides.
    """
    n = len(point)
    with localcontext(prec=DIGITS):
        x, shifts = np.array([Decimal(float(each)) for each in point]), np.array([Decimal(0)] * n * n).reshape(n, n)
        shifts[np.arange(n), np.arange(n)] = SHIFT
        middle, ups, downs = function(x), [function(x + e) for e in shifts], [function(x - e) for e in shifts]
        slopes = np.array([up - down for up, down in zip(ups, downs, strict=True)]).T / (2 * SHIFT)
        curves = np.empty((len(middle), n, n), object)
        for i, j in itertools.combinations_with_replacement(range(n), 2):
            if i == j:
                bend = 4 * (ups[i] - 2 * middle + downs[i])
            else:
                a, b = shifts[i], shifts[j]
                bend = function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b)
            curves[:, i, j] = curves[:, j, i] = bend / (4 * SHIFT**2)
        return tuple(each.astype(float) for each in (middle, slopes, curves))


def _cosine(x):
    """The series of the cosine."""
    term, total, k = Decimal(1), Decimal(0), 0
    while total + term != total:
        total, k = total + term, k + 2
        term *= -x * x / (k * (k - 1))
    return total
