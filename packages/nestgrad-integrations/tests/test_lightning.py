"""Lightning: the callback tunes as LiveOnePass does, goes on from a checkpoint, and refuses what it cannot follow."""

import functools
import importlib.util
import itertools
import pathlib

import pytest

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("nestgrad_torch", reason="nestgrad-torch is not installed")
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from nestgrad import InvalidInput, Log10, UnsupportedOptimizer, UnsupportedSpec  # noqa: E402
from nestgrad_integrations import StepMismatch  # noqa: E402
from nestgrad_integrations.lightning import OnePassCallback  # noqa: E402

_spec = importlib.util.spec_from_file_location("loops", pathlib.Path(__file__).with_name("loops.py"))
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)

pytestmark = [
    # Lightning 2.6.6 asks torch's trees in a way that torch 2.13 has deprecated.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]


class Module(lightning.LightningModule):
    def __init__(self, *, noisy=False, optimizers=1, scheduler=False, automatic=True):
        super().__init__()
        torch.manual_seed(0)
        self.net = loops.network(torch.float32, noisy=noisy)
        self.optimizers_made, self.scheduled = optimizers, scheduler
        self.automatic_optimization = automatic

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return loops.loss(self.net, None, batch)  # its own layers are called, the module is not

    def configure_optimizers(self):
        made = [loops.sgd(self) for _ in range(self.optimizers_made)]
        return (made, [torch.optim.lr_scheduler.StepLR(made[0], 1)]) if self.scheduled else made


def loader(count):
    torch.manual_seed(count)
    x, y = (torch.cat(part) for part in zip(*loops.batches(count, torch.float32), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=8)


def callback(**options):
    settings = {"hparams": loops.SPACES, "inner_loss": loops.loss, "outer_batches": loader(2), "every": 5, **options}
    return OnePassCallback(**settings)


def trainer(folder, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = {"max_epochs": 2, "enable_checkpointing": False, "default_root_dir": folder, **quiet, **options}
    return lightning.Trainer(callbacks=list(callbacks), **settings)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_hyperparameters_move_as_in_a_loop_of_ones_own(tmp_path, clip):
    tuned, module = callback(), Module()
    trainer(tmp_path, tuned, gradient_clip_val=clip).fit(module, loader(12))
    model = Module().net
    optimizer, outer = loops.sgd(model), itertools.cycle(loader(2))
    live = loops.tuner(model, optimizer, clip_grad_norm=clip)
    for batch in [*loader(12), *loader(12)]:
        loops.step(model, optimizer, live, batch, functools.partial(next, outer), clip=clip)
    for name, space in loops.SPACES.items():
        assert float(tuned.values()[name]) == pytest.approx(float(live.values()[name]), rel=1e-5)
        assert float(tuned.values()[name]) != pytest.approx(space.init, rel=1e-2)
    for mine, theirs in zip(model.parameters(), module.net.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert tuned.info.tuned
    assert tuned.info.hparams["lr"] == tuned.values()["lr"]


def test_dropout_and_batch_norm_are_followed_though_the_module_itself_is_not_called(tmp_path):
    tuned = callback(every=1)
    trainer(tmp_path, tuned, max_epochs=1).fit(Module(noisy=True), loader(6))
    assert tuned.state_dict()["step"] == 6


def test_double_precision_is_followed(tmp_path):
    tuned = callback(every=1)
    trainer(tmp_path, tuned, max_epochs=1, precision="64-true").fit(Module(), loader(3))
    assert tuned.values()["lr"].dtype is torch.float64
    assert tuned.state_dict()["step"] == 3


def test_outer_batches_leave_the_random_numbers_of_training_alone(tmp_path):
    drawn = []
    for callbacks in ([], [callback(outer_batches=DataLoader([*range(4)], shuffle=True), outer_loss=flat)]):
        trainer(tmp_path, *callbacks, max_epochs=1).fit(Module(noisy=True), loader(12))
        drawn.append(torch.get_rng_state())
    assert torch.equal(*drawn)


def flat(model, hparams, batch):
    return sum((p**2).sum() for p in model.values())


def test_a_checkpoint_carries_the_tuner(tmp_path):
    outer = list(loader(1))
    whole = callback(outer_batches=outer)
    trainer(tmp_path, whole).fit(Module(), loader(12))
    first = trainer(tmp_path, callback(outer_batches=outer), max_epochs=1)
    first.fit(Module(), loader(12))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again, module = callback(outer_batches=outer), Module()
    trainer(tmp_path, again).fit(module, loader(12), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert again.state_dict()["step"] == whole.state_dict()["step"] == 24
    for name in loops.SPACES:
        assert torch.equal(again.values()[name], whole.values()[name])


REFUSED = {
    "manual optimization": ({"automatic": False}, {}, UnsupportedSpec, r"automatic_optimization is False, limit: True"),
    "scheduler": ({"scheduler": True}, {}, UnsupportedSpec, r"StepLR writes 'lr', which is tuned, limit: 0"),
    "accumulation": ({}, {"accumulate_grad_batches": 3}, UnsupportedSpec, r"accumulate_grad_batches=3, limit 1"),
    "half precision": ({}, {"precision": "bf16-mixed"}, UnsupportedSpec, r"precision='bf16-mixed', limit: 32-true or"),
    "clipping by value": (
        {},
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
        UnsupportedSpec,
        r"gradient_clip_algorithm='value', limit: 'norm'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_trainer_that_cannot_be_followed_is_refused_by_name(tmp_path, name):
    how, options, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message + r".*Remedy: "):
        trainer(tmp_path, callback(), **options).fit(Module(**how), loader(1))


def test_several_optimizers_are_refused_by_their_number():
    class Pretended:
        optimizers = (1, 2)

    with pytest.raises(UnsupportedOptimizer, match=r"configure_optimizers gave 2 optimizers, limit 1. Remedy: "):
        callback().on_train_start(Pretended(), Module())


def test_a_scheduler_may_write_what_is_not_tuned(tmp_path):
    tuned = callback(hparams={"weight_decay": Log10(1e-3)}, every=2)
    trainer(tmp_path, tuned).fit(Module(scheduler=True), loader(4))
    assert float(tuned.values()["weight_decay"]) != pytest.approx(1e-3, rel=1e-2)


def test_an_inner_loss_that_is_not_the_one_trained_on_is_a_mismatch(tmp_path):
    tuned = callback(inner_loss=lambda model, _, batch: 2.0 * loops.loss(model, None, batch), every=1)
    with pytest.raises(StepMismatch, match=r"gradient on the batch is not the one .*limit .*Remedy: "):
        trainer(tmp_path, tuned).fit(Module(), loader(1))


def test_outer_batches_that_run_out(tmp_path):
    with pytest.raises(InvalidInput, match=r"outer_batches: 0 batches, limit: at least 1 .*Remedy: pass a DataLoader"):
        trainer(tmp_path, callback(outer_batches=iter(loader(1)), every=1)).fit(Module(), loader(3))


def test_values_before_training():
    with pytest.raises(InvalidInput, match=r"OnePassCallback.values: training has begun 0 times, limit: 1 .*Remedy: "):
        callback().values()
