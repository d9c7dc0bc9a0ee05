"""Torch's side of the study of a GAN of eight Gaussians: many runs at once, on a leading axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies.mixture_gan_settings import Settings, centres
from nestgrad_lab.studies.study import Arrays, Context

LOOKS = 10
"""Samples are looked at so many times in a run."""
Weights = Mapping[str, Tensor]
Choice = tuple[float, float, float]
"""Step size, |β| and arg β."""


class Gan:
    """Runs of one game each, (choices × seeds), that share nothing: the players' losses are sums over them.

    Runs of the same seed begin at the same weights and see the same batches.
    """

    def __init__(self, settings: Settings, context: Context, choices: Sequence[Choice], seeds: Sequence[int]) -> None:
        self._settings, self._device = settings, device_named(context.device)
        self._seeds, self._count = list(seeds), len(choices)
        self._draws = [torch.Generator("cpu").manual_seed(1_000_003 * context.seed + seed) for seed in seeds]
        self._centres = torch.tensor(centres(settings), dtype=torch.float32, device=self._device)
        self.players = {"generator": self._network(settings.latent, 2), "discriminator": self._network(2, 1)}
        self.game = ng.Game({"generator": self._generator_loss, "discriminator": self._discriminator_loss})
        columns = list(zip(*choices, strict=True))
        rules = {
            name: ng.optim.complex_momentum(*(self._like(weights, column) for column in columns))
            for name, weights in self.players.items()
        }
        self.play = ng.Play(self.game, optimizer=rules, turns="alternating", throw=False)

    def run(self, tick: Callable[[float], None]) -> Arrays:
        """Samples at every look, (looks, choices, seeds, samples, 2), NaN where a run has diverged."""
        state, seen, every = self.play.init(self.players), [], max(1, self._settings.steps // LOOKS)
        for step in range(self._settings.steps):
            state, _ = self.play.step(state, self._batch(self._settings.batch))
            if (step + 1) % every == 0:
                seen.append(self._samples(state["players"]["generator"]))
            if step % 20 == 0:
                tick(step / self._settings.steps)
        self.players = state["players"]
        return {"samples": torch.stack(seen[-LOOKS:]).cpu().numpy()}

    def begin(self) -> ng.PlayState:
        """The state of play before the first step, in float64."""
        return self.play.init({name: {k: x.double() for k, x in one.items()} for name, one in self.players.items()})

    def batch(self, rows: int) -> dict[str, Tensor]:
        """The next batch, in float64."""
        return {name: x.double() for name, x in self._batch(rows).items()}

    def put(self, weights: Mapping[str, Array]) -> None:
        """Take weights "player.name", each without an axis of runs, in place of its own."""
        self.players = {
            player: {name: torch.tensor(weights[f"{player}.{name}"], device=self._device)[None] for name in own}
            for player, own in self.players.items()
        }

    def spectrum(self) -> Array:
        """Eigenvalues of the game Jacobian of the one run there is, on a batch of its own, in float64."""
        batch = self.batch(self._settings.spectrum_rows)
        players = {name: {k: x.double() for k, x in one.items()} for name, one in self.players.items()}
        jacobian = ng.game_jacobian(self.game, players, batch, max_params=10_000)
        return np.linalg.eigvals(jacobian.cpu().numpy())

    def _like(self, weights: Weights, column: Sequence[float]) -> dict[str, Tensor]:
        """A tree like weights with each run's number in all of its entries."""
        each = torch.tensor(column, device=self._device).repeat_interleave(len(self._seeds))[:, None, None]
        return {name: each.expand(value.shape) for name, value in weights.items()}

    def _network(self, inputs: int, outputs: int) -> dict[str, Tensor]:
        """Weights of every run, a leading axis of runs; the same for all choices of a seed."""
        sizes = [inputs, *[self._settings.hidden] * self._settings.layers, outputs]
        found: dict[str, Tensor] = {}
        for k, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
            drawn = torch.stack([torch.randn(rows, columns, generator=draw) for draw in self._draws])
            scaled = (drawn * math.sqrt(2.0 / (rows + columns))).to(self._device)
            found[f"w{k}"] = scaled.repeat(self._count, 1, 1)
            found[f"b{k}"] = torch.zeros_like(found[f"w{k}"][:, :1])
        return found

    def _outputs(self, weights: Weights, x: Tensor) -> Tensor:
        for k in range(self._settings.layers):
            x = torch.tanh(torch.baddbmm(weights[f"b{k}"], x, weights[f"w{k}"]))
        last = self._settings.layers
        return torch.baddbmm(weights[f"b{last}"], x, weights[f"w{last}"])

    def _batch(self, rows: int) -> dict[str, Tensor]:
        """Latent and real rows, the same for all choices of a seed."""
        one = self._settings
        latent = torch.stack([torch.randn(rows, one.latent, generator=draw) for draw in self._draws])
        noise = torch.stack([torch.randn(rows, 2, generator=draw) for draw in self._draws])
        which = torch.stack([torch.randint(one.modes, (rows,), generator=draw) for draw in self._draws])
        real = self._centres[which.to(self._device)] + one.deviation * noise.to(self._device)
        return {name: x.to(self._device).repeat(self._count, 1, 1) for name, x in (("latent", latent), ("real", real))}

    def _generator_loss(self, players: Any, batch: Any) -> Tensor:
        """-ln D(G(z)), the loss that does not saturate; the mean over rows, the sum over runs."""
        fakes = self._outputs(players["generator"], batch["latent"])
        return functional.softplus(-self._outputs(players["discriminator"], fakes)).mean((1, 2)).sum()

    def _discriminator_loss(self, players: Any, batch: Any) -> Tensor:
        fakes = self._outputs(players["generator"], batch["latent"])
        of_fakes = self._outputs(players["discriminator"], fakes)
        of_reals = self._outputs(players["discriminator"], batch["real"])
        return (functional.softplus(of_fakes) + functional.softplus(-of_reals)).mean((1, 2)).sum()

    @torch.no_grad()
    def _samples(self, generator: Weights) -> Tensor:
        """The same latent rows at every look."""
        draw = torch.Generator("cpu").manual_seed(0)
        latent = torch.randn(self._settings.samples, self._settings.latent, generator=draw)
        runs = self._count * len(self._seeds)
        found = self._outputs(generator, latent.to(self._device).expand(runs, -1, -1))
        return found.reshape(self._count, len(self._seeds), *found.shape[1:])
