"""Run by test_sharding.py in a process of its own with 8 virtual devices: prints what it found as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nestgrad_jax as ng

DTYPE, AXES = sys.argv[1], getattr(AxisType, sys.argv[2])
jax.config.update("jax_enable_x64", DTYPE == "float64")
MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AXES, AXES))
_RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(0.4 * _RNG.normal(size=shape), DTYPE)


PARAMS = {"a": normal(6, 8), "b": normal(8), "c": normal(8, 2)}
HPARAMS = {"lr": jnp.asarray(0.1, DTYPE), "m": jnp.asarray(0.6, DTYPE), "wd": jnp.asarray(0.3, DTYPE)}
TRAIN, VALID = (normal(16, 6), normal(16, 2)), (normal(16, 6), normal(16, 2))


def loss(w, h, b):
    return ((jnp.tanh(b[0] @ w["a"] + w["b"]) @ w["c"] - b[1]) ** 2).mean()


def decayed(w, h, b):
    return loss(w, h, b) + h["wd"] * sum((x**2).sum() for x in jax.tree.leaves(w))


def sgd(h):
    step = optax.stateless(lambda updates, params: jax.tree.map(lambda g: -h["lr"] * g, updates))
    return optax.chain(optax.add_decayed_weights(h["wd"]), optax.trace(h["m"]), step)


MINIMIZE = ng.BilevelProblem(ng.Minimize(decayed), loss)
UPDATE = ng.BilevelProblem(ng.WeightUpdate(loss, sgd), loss)


def tuner():
    return ng.OnePass(
        UPDATE,
        hparams={"lr": ng.Log10(0.05), "m": ng.Logit(0.5), "wd": ng.Log10(0.01)},
        every=3,
        method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=1.0)),
        outer_optimizer=optax.sgd(0.05),
    )


def placed(sharded):
    """(params, hparams, inner batch, outer batch) on the mesh: batches over its data axis, params whole or cut."""

    def put(tree, *axes):
        return jax.device_put(tree, NamedSharding(MESH, PartitionSpec(*axes)))

    cut = {"a": (None, "model"), "b": ("model",), "c": ("model", None)}
    params = {name: put(leaf, *(cut[name] if sharded else ())) for name, leaf in PARAMS.items()}
    return params, put(HPARAMS), put(TRAIN, "data", None), put(VALID, "data", None)


def results(params, hparams, train, valid):
    batches = {"inner_batch": train, "outer_batch": valid}
    found, few = {}, {"wd": hparams["wd"]}
    series, krylov = ng.Neumann(num_terms=5, step_size=0.1), ng.CG(rtol=0.0, max_steps=6)
    for name, solver in (("neumann", series), ("cg", krylov)):
        one = ng.hypergradient(MINIMIZE, params, few, method=ng.Implicit(solver=solver), **batches)
        found[name] = (one.total, one.adjoint)
    one = ng.hypergradient(UPDATE, params, hparams, method=ng.Unrolled(num_steps=2), **batches)
    found["unrolled"] = (one.total, one.params)
    ours = tuner()
    state = ours.init(params)
    counts = []
    for _ in range(6):
        state, _ = ours.step(state, train, valid)
        counts.append(ours._programs.train_jitted._cache_size() + ours._programs.tune_jitted._cache_size())
    found["step"] = (state["params"], state["hparams"])
    arrived, _ = ours.run(ours.init(params), [train] * 6, valid)
    found["run"] = (arrived["params"], arrived["hparams"])
    return jax.tree.map(np.asarray, found), counts


def distance(found, right):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def repeated(steps):
    """The weights after so many steps on the mesh, gathered, and whether every device holds the same replica."""
    params, _, train, valid = placed(sharded=False)
    ours = tuner()
    state = ours.init(params)
    for _ in range(steps):
        state, _ = ours.step(state, train, valid)
    copies = [
        [np.asarray(shard.data) for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(state["params"])
    ]
    alike = all(np.array_equal(copy, held[0]) for held in copies for copy in held)
    return [held[0].tobytes().hex() for held in copies], alike


def main():
    if "steps" in sys.argv:
        (first, alike), (second, _) = repeated(500), repeated(500)
        return {"same bits": first == second, "replicas alike": alike}
    right, _ = results(PARAMS, HPARAMS, TRAIN, VALID)
    report = {}
    for name, sharded in (("replicated", False), ("cut", True)):
        try:
            found, counts = results(*placed(sharded))
        except ng.InvalidInput as error:
            report[name] = {"error": str(error)}
            continue
        far = {part: distance(found[part], right[part]) for part in right}
        report[name] = {"distances": far, "compilations": counts}
    return report


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201
