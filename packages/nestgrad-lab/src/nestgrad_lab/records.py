"""What a run folder holds of a run: its configuration, its summary, its weights."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np
from safetensors.numpy import save as as_safetensors

from nestgrad import Neumann
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.hyperparameters import HYPERPARAMETERS
from nestgrad_lab.models import Weights, score_name, test_score, validation_loss
from nestgrad_lab.runs import State
from nestgrad_lab.settings import OUTER_LR
from nestgrad_lab.tuning_run import Run


def summarize(run: Run, state: State) -> dict[str, Any]:
    """What the table at the end is made from, and more: scores of both runs, start, tuned values, time."""
    score = score_name(run.data.task).replace(" ", "_")
    both = {"untuned": run.engine.plain_weights(), "tuned": run.engine.tuned_weights()}
    return {
        "state": state,
        "step": run.step,
        "hyper_steps": len(run.rows),
        "validation_loss": {name: validation_loss(run.data, weights) for name, weights in both.items()},
        score: {name: test_score(run.data, weights) for name, weights in both.items()},
        "start": run.settings.start,
        "tuned": run.values,
        "time": _time(run),
    }


def _time(run: Run) -> dict[str, Any]:
    """Seconds of training alone; the ratio is the median over hyper steps, whose two parts ran one after the other."""
    if not run.seconds:
        return {}
    tuned, plain = map(sum, zip(*run.seconds, strict=True))
    return {
        "tuned_seconds": tuned,
        "plain_seconds": plain,
        "ratio": statistics.median(mine / other for mine, other in run.seconds),
        "ratio_of_totals": tuned / plain,
        "pairs": len(run.seconds),
    }


def weights_file(run: Run) -> bytes:
    """The tuned weights, and what normalises a row: inputs.shift, inputs.scale, target.shift, target.scale."""
    data, weights = run.data, run.engine.tuned_weights()
    tensors: Weights = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    tensors |= {"inputs.shift": data.x_shift, "inputs.scale": data.x_scale}
    tensors |= {"target.shift": np.array(data.y_shift), "target.scale": np.array(data.y_scale)}
    about = {"task": data.task, "features": data.features, "classes": data.classes}
    # One entry, since the format keeps no order among several: the same run would not give the same bytes.
    return as_safetensors(tensors, metadata={"nestgrad-lab": json.dumps(about)})


def configuration(run: Run) -> dict[str, Any]:
    """Everything that decides the numbers of the run."""
    settings, data = run.settings, run.data
    solver = run.method.solver
    lookback = {"lookback": solver.num_terms} if isinstance(solver, Neumann) else {}
    return {
        "data": {
            "name": data.name,
            "source": settings.data,
            **({"target": settings.target, "dropped": list(settings.drop)} if settings.target else {}),
            "task": data.task,
            "sha256": data.sha256,
            "rows": {"train": len(data.train), "validation": len(data.valid), "test": len(data.test)},
        },
        "model": {
            "inputs": len(data.features),
            "hidden": settings.hidden,
            "outputs": data.outputs,
            "dtype": settings.dtype,
        },
        "training": {
            "steps": run.sizes.steps,
            "batch_size": run.sizes.batch,
            "validation_batch_size": run.sizes.valid_batch,
            "seed": settings.seed,
            "start": settings.start,
        },
        "tuning": {
            "every": settings.every,
            "method": settings.method,
            **lookback,
            "solver": str(solver),
            "outer_optimizer": {"name": "adam", "learning_rate": OUTER_LR},
            "spaces": {name: str(HYPERPARAMETERS[name].space) for name in settings.start},
        },
        "backend": {"name": run.backend, "device": settings.device},
        "versions": versions(),
    }
