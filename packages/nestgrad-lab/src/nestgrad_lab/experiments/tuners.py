"""From an algorithm to the library's tuner; torch and jax name its parts alike."""

from __future__ import annotations

from typing import Any

from nestgrad_lab.experiments.algorithms import Algorithm


def tuner_for(ng: Any, algorithm: Algorithm, loss: Any, optimizer: Any, spaces: Any, outer_optimizer: Any) -> Any:
    """The tuner of an algorithm.

    ng: nestgrad_torch or nestgrad_jax. optimizer: from hyperparameters to the inner optimizer. spaces: of one run's
    hyperparameters. outer_optimizer: as ng.OnePass takes it.
    """
    update = ng.WeightUpdate(loss, optimizer, algorithm.carry)
    if algorithm.rule == "fixed":
        return ng.Fixed(update, hparams=spaces)
    if algorithm.rule == "drift":
        return ng.RandomMultiplier(update, hparams=spaces, every=algorithm.every)
    problem = ng.BilevelProblem(update, outer_loss=loss)
    options: dict[str, Any] = {"hparams": spaces, "outer_optimizer": outer_optimizer, "throw": False}
    if algorithm.rule == "self-chosen":
        return ng.OnePass(problem, **options)
    window = ng.Unrolled(num_steps=algorithm.lookback)
    if algorithm.rule == "full-horizon":
        return ng.FullHorizon(problem, method=window, stale_state=algorithm.stale, **options)
    series = ng.Implicit(solver=ng.Neumann(num_terms=algorithm.lookback, step_size=1.0))
    method = series if algorithm.rule == "one-pass" else window
    return ng.OnePass(problem, every=algorithm.every, method=method, **options)
