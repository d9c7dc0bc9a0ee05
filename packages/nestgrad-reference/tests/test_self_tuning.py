"""Self-tuning against its objectives written out by hand for one network, and complex steps: no autograd, no trees."""

import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

STEP = 1e-30
UNITS, INPUTS = 3, 2
SPACES = {"gain": ng.Real(1.2), "decay": ng.Log(0.3)}  # λ = (ln decay, gain)
X, Y = np.random.default_rng(0).normal(size=(4, INPUTS)), np.random.default_rng(1).normal(size=4)
OUTER = (np.random.default_rng(2).normal(size=(3, INPUTS)), np.random.default_rng(3).normal(size=3))
RATE, ENTROPY = 0.1, 0.02


def predicted(params, hparams, batch):
    if isinstance(params, ng.gated.GatedParams):
        hidden = anp.tanh(ng.gated.linear(params["hidden"], batch[0]))
        norms = anp.sum(params.general["hidden"]["weight"] ** 2)
    else:
        hidden = anp.tanh(batch[0] @ params["hidden"]["weight"].T + params["hidden"]["bias"])
        norms = anp.sum(params["hidden"]["weight"] ** 2)
    if isinstance(params, ng.gated.GatedParams):
        out = ng.gated.linear(params["out"], hidden)[:, 0]
    else:
        out = (hidden @ params["out"]["weight"].T)[:, 0]
    return hparams["gain"] * out, norms


def fit(found, hparams, batch):
    out, norms = found
    return anp.sum((out - batch[1]) ** 2) / len(batch[1]) + anp.mean(hparams["decay"]) * norms


def outer(params, hparams, batch):
    return fit(predicted(params, hparams, batch), {"decay": np.zeros(1)}, batch)


PROBLEM = ng.BilevelProblem(ng.Minimize(ng.PredictionLoss(predict=predicted, loss=fit)), outer)


def layout():
    """(name, shape of bias and weight, outputs) of the leaves, in the order of their sorted paths."""
    return [("hidden/bias", (UNITS,)), ("hidden/weight", (UNITS, INPUTS)), ("out/weight", (1, UNITS))]


def unpacked(vector):
    """φ by leaf from one vector: biases, weights, gates."""
    parts, begun = {}, 0
    for part in ("bias", "weight", "gates"):
        for name, shape in layout():
            size = shape[0] * 2 if part == "gates" else int(np.prod(shape))
            parts[part, name] = vector[begun : begun + size].reshape((shape[0], 2) if part == "gates" else shape)
            begun += size
    assert begun == vector.size
    return parts


def packed(phi):
    named = {part: ng.tree.named_leaves(phi[part]) for part in ("bias", "weight", "gates")}
    return np.concatenate([np.ravel(named[part][name]) for part in named for name, _ in layout()])


def made(phi, code, held=None):
    """The weights at a code; held: φ whose bias is taken in the place of phi's."""
    found = {}
    for name, shape in layout():
        gates = (phi["gates", name] @ code).reshape((shape[0],) + (1,) * (len(shape) - 1))
        found[name] = (phi if held is None else held)["bias", name] + gates * phi["weight", name]
    return found


def by_hand(w, lam, x):
    hidden = np.tanh(x @ w["hidden/weight"].T + w["hidden/bias"])
    return lam[1] * (hidden @ w["out/weight"].T)[:, 0], np.sum(w["hidden/weight"] ** 2)


def tangent(phi, held, code, lam, x):
    """Prediction linear in the code: values at bias, derivatives along the gated weights by the product rule."""
    w, moved = made(phi, 0.0 * code, held), made(phi, code, held)
    d = {name: moved[name] - w[name] for name in w}
    before = x @ w["hidden/weight"].T + w["hidden/bias"]
    hidden, slope = np.tanh(before), (1.0 - np.tanh(before) ** 2) * (x @ d["hidden/weight"].T + d["hidden/bias"])
    out = hidden @ w["out/weight"].T + hidden @ d["out/weight"].T + slope @ w["out/weight"].T
    # the loss adds the norm of the general weights by rows, of w_φ(c) by draws: c moves the second alone
    norms = np.sum(w["hidden/weight"] ** 2)
    return lam[1] * out[:, 0], norms, 2.0 * np.sum(w["hidden/weight"] * d["hidden/weight"])


def objective(phi, held, kind, lams, codes, batch, *, by_rows, decayed=True):
    """The mean of the loss over draws, by row or for the whole batch."""
    total = 0.0
    for i, (lam, code) in enumerate(zip(lams, codes, strict=True)):
        x, y = (batch[0][i : i + 1], batch[1][i : i + 1]) if by_rows else batch
        if kind == "linearised":
            out, norms, change = tangent(phi, held, code, lam, x)
            norms = norms if by_rows else norms + change
        else:
            out, norms = by_hand(made(phi, code, held), lam, x)
            if by_rows:
                norms = np.sum((phi if held is None else held)["bias", "hidden/weight"] ** 2)
        total = total + np.sum((out - y) ** 2) / len(y) + (np.exp(lam[0]) if decayed else 0.0) * norms
    return total / len(lams)


def complex_gradient(function, at):
    return np.array([function(at + 1j * STEP * unit).imag / STEP for unit in np.eye(at.size)])


def softplus(x):
    return np.log1p(np.exp(x))


def tuner(**rest):
    settings = {"optimizer": ng.optim.sgd(RATE), "outer_optimizer": ng.optim.sgd(RATE), "every": 1, "scale": 0.7}
    return ng.SelfTuning(PROBLEM, hparams=SPACES, entropy=ENTROPY, **{**settings, **rest})


def begun(made_by):
    rng = np.random.default_rng(4)
    params = {
        "out": {"weight": rng.normal(size=(1, UNITS))},
        "hidden": {"weight": rng.normal(size=(UNITS, INPUTS)), "bias": rng.normal(size=UNITS)},
    }
    return made_by.init(params, key=5)


@pytest.mark.parametrize("samples", ["examples", 2])
@pytest.mark.parametrize("kind", ["sampled", "centred", "linearised"])
def test_a_step_is_its_objective_written_out(kind, samples):
    by_rows = samples == "examples"
    self_tuning = tuner(objective=kind, samples=samples, response=ng.GatedResponse(gate_scale=0.4))
    state, rng = begun(self_tuning), np.random.default_rng(6)
    noise = rng.normal(size=(4 if by_rows else 2, 2)), rng.normal(size=(3 if by_rows else 2, 2))
    after, info = self_tuning.step(state, (X, Y), OUTER, noise=noise)
    old, center, scales = packed(state["params"]), np.array([np.log(0.3), 1.2]), state["scales"]
    phi = unpacked(old)

    def codes(lams):
        return lams if kind == "sampled" else lams - center

    lams = center + softplus(scales) * noise[0]
    if kind == "sampled":

        def loss(w):
            return objective(unpacked(w), None, kind, lams, codes(lams), (X, Y), by_rows=by_rows)

        slopes, reported = complex_gradient(loss, old), loss(old)
    else:
        still = np.tile(center, (4 if by_rows else 1, 1))

        def general(w):
            return objective(unpacked(w), None, "sampled", still, 0.0 * still, (X, Y), by_rows=by_rows)

        def response(w):
            return objective(unpacked(w), phi, kind, lams, codes(lams), (X, Y), by_rows=by_rows)

        size = sum(int(np.prod(shape)) for _, shape in layout())
        slopes = np.append(complex_gradient(general, old)[:size], complex_gradient(response, old)[size:])
        reported = general(old)
    np.testing.assert_allclose(packed(after["params"]), old - RATE * slopes, rtol=1e-12)
    np.testing.assert_allclose(info.inner_loss, reported, rtol=1e-12)

    new = unpacked(packed(after["params"]))

    def outer_loss(seen, through, by):
        moved = softplus(by) * noise[1]
        fed = through + moved if kind == "sampled" else through - center + moved
        return objective(new, None, "sampled", seen + moved, fed, OUTER, by_rows=by_rows, decayed=False)

    direct = complex_gradient(lambda lam: outer_loss(lam, center, scales), center)
    indirect = complex_gradient(lambda lam: outer_loss(center, lam, scales), center)
    by_scales = complex_gradient(
        lambda s: outer_loss(center, center, s) - ENTROPY * np.sum(np.log(softplus(s))), scales
    )
    found = info.hypergradient
    for part, right in (("direct", direct), ("indirect", indirect), ("total", direct + indirect)):
        got = getattr(found, part)
        np.testing.assert_allclose([got["decay"], got["gain"]], right, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.outer_loss, outer_loss(center, center, scales), rtol=1e-12)
    moved = [after["hparams"]["decay"], after["hparams"]["gain"]]
    np.testing.assert_allclose(moved, center - RATE * (direct + indirect), rtol=1e-12)
    np.testing.assert_allclose(after["scales"], scales - RATE * by_scales, rtol=1e-12)


def test_what_can_not_be_tuned_is_refused():
    with pytest.raises(ng.UnsupportedOptimizer, match=r"SelfTuning\.optimizer.*limit.*Remedy"):
        tuner(optimizer=0.1)
    with pytest.raises(ng.UnsupportedOptimizer, match=r"HyperTraining\.optimizer.*limit.*Remedy"):
        ng.HyperTraining(
            PROBLEM, hparams=SPACES, response=ng.LinearResponse(), optimizer=0.1, outer_optimizer=ng.optim.adam(0.1)
        )
    self_tuning = tuner()
    state = begun(self_tuning)
    with pytest.raises(ng.InvalidInput, match=r"noise of shape \(2, 2\) for the inner batch.*\(4, 2\)"):
        self_tuning.step(state, (X, Y), OUTER, noise=(np.ones((2, 2)), np.ones((3, 2))))
    with pytest.raises(ng.InvalidInput, match="a batch of arrays"):
        self_tuning.step(state, (X, Y[:3]), OUTER)
    with pytest.raises(ng.InvalidInput, match="a batch of arrays"):
        self_tuning.step(state, (X, Y, 1.0), OUTER)


def test_a_hyperparameter_that_no_loss_sees_is_refused():
    blind = ng.BilevelProblem(ng.Minimize(outer), outer)
    self_tuning = ng.SelfTuning(
        blind, hparams=SPACES, optimizer=ng.optim.sgd(RATE), outer_optimizer=ng.optim.sgd(RATE), every=1
    )
    with pytest.raises(ng.DisconnectedHyperparameter, match="decay"):
        self_tuning.step(begun(self_tuning), (X, Y), OUTER)


def test_hyper_training_refuses_noise_of_another_shape():
    hyper = ng.HyperTraining(
        ng.BilevelProblem(
            ng.Minimize(lambda w, h, b: anp.sum((w["w"] - h["l"]) ** 2)), lambda w, h, b: anp.sum(w["w"])
        ),
        hparams={"l": ng.Real(1.0)},
        response=ng.LinearResponse(),
        optimizer=ng.optim.sgd(0.1),
        outer_optimizer=ng.optim.sgd(0.1),
    )
    state = hyper.init({"w": np.zeros(2)}, key=0)
    with pytest.raises(ng.InvalidInput, match=r"noise of shape \(3, 1\), limit: \(2, 1\)"):
        hyper.step(state, None, None, noise=np.zeros((3, 1)))


def test_without_entropy_the_scales_stay_whatever_the_optimizer():
    self_tuning = ng.SelfTuning(
        PROBLEM,
        hparams=SPACES,
        optimizer=ng.optim.sgd(RATE),
        outer_optimizer=ng.optim.sgd(RATE, weight_decay=0.5),
        entropy=None,
        every=1,
    )
    state = begun(self_tuning)
    after, _ = self_tuning.step(state, (X, Y), OUTER)
    assert np.array_equal(after["scales"], state["scales"])
    assert after["hparams"]["gain"] != state["hparams"]["gain"]
