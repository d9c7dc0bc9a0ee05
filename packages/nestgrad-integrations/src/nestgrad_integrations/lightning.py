"""One-pass tuning as a Lightning callback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from nestgrad import InvalidInput, Loss, OnePassInfo, UnsupportedOptimizer, UnsupportedSpec
from nestgrad_integrations._outer_batches import OuterBatches
from nestgrad_integrations.live import LiveOnePass

_PRECISIONS = ("32-true", "64-true")


class OnePassCallback(Callback):
    """Tune settings of the module's optimizer while the Trainer fits it; see LiveOnePass for hparams and options.

    inner_loss, outer_loss: loss(module, hparams, batch), module(...) being the LightningModule's forward; inner_loss is
    what training_step returns. outer_batches: a DataLoader (or any iterable to be begun again) for the outer loss
    alone, not the Trainer's validation loader, whose hooks run without autograd. Clipping by norm is taken from the
    Trainer. A checkpoint carries the tuner; where in outer_batches it was is not kept.

    info: what the last hyper step saw, None before the first. values(): the natural values now.
    """

    def __init__(
        self,
        *,
        hparams: Mapping[str, Any],
        inner_loss: Loss,
        outer_batches: Iterable[Any],
        outer_loss: Loss | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.info: OnePassInfo | None = None
        self._options = {"hparams": hparams, "inner_loss": inner_loss, "outer_loss": outer_loss, **options}
        self._outer = OuterBatches(outer_batches)
        self._live: LiveOnePass | None = None
        self._saved: dict[str, Any] | None = None
        self._batch: Any = None
        self._stepping = False

    def values(self) -> dict[str, Any]:
        """The hyperparameters' natural values, as tensors."""
        return self._tuner("values").values()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the Trainer takes steps that can be followed, and begin."""
        _check(trainer, pl_module, self._options["hparams"])
        if self._live is not None:
            self._live.close()
        self._live = LiveOnePass(
            pl_module,
            trainer.optimizers[0],
            clip_grad_norm=trainer.gradient_clip_val or None,
            state=self._saved,
            **self._options,
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note where the step begins."""
        self._batch, self._stepping = batch, False
        self._tuner("on_train_batch_start").before_forward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep what enters the step, where a hyper step is due."""
        self._tuner("on_before_optimizer_step").before_step(self._batch)
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the hyperparameters, where a hyper step is due."""
        if not self._stepping:
            return
        self._batch, self._stepping = None, False
        found = self._tuner("on_train_batch_end").after_step(
            lambda: trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(next(self._outer)))
        )
        self.info = self.info if found is None else found

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module without hooks."""
        self._tuner("on_train_end").close()

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, for the checkpoint; empty before training."""
        return {} if self._live is None else self._live.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's state when training starts."""
        self._saved = state_dict or None

    def _tuner(self, where: str) -> LiveOnePass:
        if self._live is None:
            raise InvalidInput(
                f"OnePassCallback.{where}: training has begun 0 times, limit: 1 at least. Remedy: trainer.fit first."
            )
        return self._live


def _check(trainer: Trainer, module: LightningModule, hparams: Any) -> None:
    """Refuse, by name, what makes Lightning's steps other than one batch, one gradient, one optimizer's step."""
    if not module.automatic_optimization:
        raise UnsupportedSpec(
            "OnePassCallback: automatic_optimization is False, limit: True. "
            "Remedy: use nestgrad_integrations.live.LiveOnePass inside training_step."
        )
    if len(trainer.optimizers) != 1:
        raise UnsupportedOptimizer(
            f"OnePassCallback: configure_optimizers gave {len(trainer.optimizers)} optimizers, limit 1. "
            "Remedy: one optimizer with several param groups."
        )
    if trainer.accumulate_grad_batches != 1:
        raise UnsupportedSpec(
            f"OnePassCallback: accumulate_grad_batches={trainer.accumulate_grad_batches}, limit 1, one batch a step. "
            "Remedy: a larger batch."
        )
    if trainer.precision not in _PRECISIONS:
        raise UnsupportedSpec(
            f"OnePassCallback: precision={trainer.precision!r}, limit: {' or '.join(_PRECISIONS)}. "
            "Remedy: Trainer(precision='32-true')."
        )
    if trainer.world_size != 1:
        raise UnsupportedSpec(
            f"OnePassCallback: {trainer.world_size} processes, limit 1. "
            "Remedy: Trainer(devices=1), or nestgrad_torch.OnePass(process_group=...) in a loop of your own."
        )
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
        raise UnsupportedSpec(
            "OnePassCallback: gradient_clip_algorithm='value', limit: 'norm'. "
            "Remedy: Trainer(gradient_clip_algorithm='norm')."
        )
    if trainer.lr_scheduler_configs and "lr" in hparams:
        names = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
        raise UnsupportedSpec(
            f"OnePassCallback: {names} writes 'lr', which is tuned, limit: 0 schedulers. "
            "Remedy: return the optimizer alone from configure_optimizers, or leave 'lr' out of hparams."
        )
