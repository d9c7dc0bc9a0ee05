"""Torch's side of the study of exponents along a GAN's training."""

from __future__ import annotations

import numpy as np

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import mixture_gan_settings as mixture
from nestgrad_lab.studies.gan_exponents_settings import Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_mixture_gan import Choice, Gan


def followed(settings: Settings, gan: mixture.Settings, choice: Choice, context: Context) -> Arrays:
    """One run in float64; exponents before the first step and after every so many."""
    one = Gan(gan, context, [choice], [settings.run])
    state = one.begin()
    method = ng.ExponentSpectrum(num_exponents=settings.exponents, refinements=settings.refinements, seed=context.seed)
    steps: list[int] = []
    exponents: list[Array] = []
    products: list[int] = []
    for step in range(settings.steps + 1):
        batch = one.batch(settings.batch)
        if step % settings.every == 0:
            found = ng.lyapunov_exponents(
                lambda x, batch=batch: one.play.update(x, batch), state, num_steps=settings.num_steps, method=method
            )
            steps.append(step)
            exponents.append(np.sort(np.asarray(found.exponents.cpu().numpy()))[::-1])
            products.append(found.products)
            context.tick(step / (settings.steps + 1))
        state, _ = one.play.step(state, batch)
    return {"steps": np.array(steps), "exponents": np.stack(exponents), "products": np.array(products)}
