"""Games that the tests play."""

import autograd.numpy as anp
import numpy as np

import nestgrad_reference as ng

FROZEN, DISCOUNT = -3.0, 0.9


def sigmoid(x):
    return 0.5 * (1.0 + anp.tanh(0.5 * x))


def bilinear(strength=1.0):
    """x descends σxy and y descends -σxy."""
    return ng.Game({"x": lambda p, _: strength * p["x"] * p["y"], "y": lambda p, _: -strength * p["x"] * p["y"]})


def tandem():
    """Both want the sum to be small and their own number to be large."""
    return ng.Game(
        {
            "x": lambda p, _: (p["x"] + p["y"]) ** 2 - 2.0 * p["x"],
            "y": lambda p, _: (p["x"] + p["y"]) ** 2 - 2.0 * p["y"],
        }
    )


def dirac_gan():
    """One point, a generator θ and a discriminator ψ: f(ψθ), f(t) = -ln(1 + exp(-t))."""

    def value(players):
        return -anp.logaddexp(0.0, -players["psi"] * players["theta"])

    return ng.Game({"theta": lambda p, _: value(p), "psi": lambda p, _: -value(p)})


def linear(matrix):
    """ĝ = matrix ω for two players of half the entries each; the blocks on the diagonal have to be symmetric."""
    half = len(matrix) // 2

    def loss(players, mine, others, rows, own, cross):
        x, y = players[mine], players[others]
        return 0.5 * x @ (matrix[rows, own] @ x) + x @ (matrix[rows, cross] @ y)

    first, second = slice(0, half), slice(half, None)
    return ng.Game(
        {
            "first": lambda p, _: loss(p, "first", "second", first, first, second),
            "second": lambda p, _: loss(p, "second", "first", second, second, first),
        }
    )


def small_ipd():
    """The iterated prisoner's dilemma with one logit each, of cooperating where the opponent has just done so."""

    def loss(players, of):
        p, q, f = sigmoid(players["one"]), sigmoid(players["two"]), sigmoid(FROZEN)
        one, two = anp.array([p, f, p, f]), anp.array([q, q, f, f])
        chain = anp.stack([one * two, one * (1.0 - two), (1.0 - one) * two, (1.0 - one) * (1.0 - two)], axis=1)
        begin = anp.array([p * q, p * (1.0 - q), (1.0 - p) * q, (1.0 - p) * (1.0 - q)])
        visits = anp.linalg.solve(anp.eye(4) - DISCOUNT * anp.transpose(chain), begin)
        return -(1.0 - DISCOUNT) * anp.dot(visits, np.array(of))

    return ng.Game(
        {"one": lambda p, _: loss(p, [-1.0, -3.0, 0.0, -2.0]), "two": lambda p, _: loss(p, [-1.0, 0.0, -3.0, -2.0])}
    )


def three_players():
    """Of trees of several shapes, curved in everything, with a batch."""

    def total(players):
        return anp.sum(players["a"]["w"] * players["a"]["b"]), anp.sum(anp.sin(players["c"])), players["d"][0][0, 1]

    def first(players, batch):
        a, c, d = total(players)
        return anp.sum(players["a"]["w"] ** 2) * c + anp.cos(a * d) + batch * players["a"]["b"] ** 3

    def second(players, batch):
        a, c, d = total(players)
        return anp.exp(0.3 * c * d) + a * players["c"][0] * players["c"][2] - batch * anp.sum(players["d"][0] ** 2) * c

    def third(players, batch):
        a, c, d = total(players)
        return (d - c) ** 2 * a + anp.sum(players["d"][0] ** 4) + anp.sin(players["d"][0][0, 0] * players["c"][1])

    return ng.Game({"c": second, "a": first, "d": third})


THREE = {
    "a": {"w": np.array([0.4, -1.1]), "b": np.array(0.7)},
    "d": [np.array([[0.3, -0.8]])],
    "c": np.array([0.9, -0.2, 0.5]),
}
"""In another order than the game's."""


def ipd(discount=0.96):
    """The iterated prisoner's dilemma: logits of cooperating at first and after CC, CD, DC, DD, one's own first."""

    def loss(players, of):
        p, q = sigmoid(players["one"]), sigmoid(players["two"])[np.array([0, 1, 3, 2, 4])]
        joint = anp.stack([p * q, p * (1.0 - q), (1.0 - p) * q, (1.0 - p) * (1.0 - q)], axis=1)
        visits = anp.linalg.solve(anp.eye(4) - discount * anp.transpose(joint[1:]), joint[0])
        return -(1.0 - discount) * anp.dot(visits, np.array(of))

    return ng.Game(
        {"one": lambda p, _: loss(p, [-1.0, -3.0, 0.0, -2.0]), "two": lambda p, _: loss(p, [-1.0, 0.0, -3.0, -2.0])}
    )
