"""What a loop of one's own cannot have tuned is refused by name, with a limit and a remedy."""

import importlib.util
import pathlib

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("nestgrad_torch", reason="nestgrad-torch is not installed")
from torch import nn  # noqa: E402

from nestgrad import (  # noqa: E402
    InvalidInput,
    Log10,
    Logit,
    Unrolled,
    UnsupportedModule,
    UnsupportedOptimizer,
    UnsupportedSpec,
)

_spec = importlib.util.spec_from_file_location("loops", pathlib.Path(__file__).with_name("loops.py"))
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)

LR = {"lr": Log10(1e-2)}


class Mine(torch.optim.SGD):
    pass


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Adamax, Mine])
def test_optimizers_without_a_counterpart(kind):
    model = loops.network()
    with pytest.raises(UnsupportedOptimizer, match=rf"optimizer {kind.__name__}, limit: .*SGD, Adam.*Remedy: "):
        loops.tuner(model, kind(model.parameters(), lr=1e-2), hparams=LR)


@pytest.mark.parametrize("flag", ["maximize", "amsgrad"])
def test_flags_that_are_not_followed(flag):
    model = loops.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, **{flag: True})
    with pytest.raises(UnsupportedOptimizer, match=rf"Adam param_groups\[0\]\['{flag}'\]: True, limit: False.*Remedy"):
        loops.tuner(model, optimizer, hparams=LR)


def test_groups_that_differ_in_a_flag():
    model = loops.network()
    groups = [{"params": model[0].parameters(), "nesterov": True}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.5)
    with pytest.raises(UnsupportedOptimizer, match=r"differ in 'nesterov': \[True, False\], limit: one.*Remedy"):
        loops.tuner(model, optimizer, hparams=LR)


def test_names_that_are_not_in_the_param_groups():
    model = loops.network()
    optimizer = loops.sgd(model)
    with pytest.raises(InvalidInput, match=r"hparams\['learning_rate'\]: no setting of SGD .* limit: lr, .*Remedy"):
        loops.tuner(model, optimizer, hparams={"learning_rate": Log10(1e-2)})
    with pytest.raises(InvalidInput, match=r"hparams: got Log10, limit: a dict.*Remedy: "):
        loops.tuner(model, optimizer, hparams=Log10(1e-2))
    with pytest.raises(InvalidInput, match=r"hparams\['lr'\]: got 0.01, limit: a space. Remedy: wrap"):
        loops.tuner(model, optimizer, hparams={"lr": 1e-2})


def test_params_that_module_and_optimizer_do_not_share():
    model, other = loops.network(), loops.network()
    with pytest.raises(InvalidInput, match=r"2 trainable .* not in the optimizer, limit 0, .*'2.weight'. Remedy"):
        loops.tuner(model, loops.sgd(model[0]), hparams=LR)
    with pytest.raises(InvalidInput, match=r"4 trainable params .* not in the module, limit 0. Remedy: "):
        loops.tuner(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=1e-2), hparams=LR)


def test_modules_that_are_none_or_wrapped():
    model = loops.network()
    with pytest.raises(InvalidInput, match=r"module: got dict, limit: an nn.Module. Remedy: "):
        loops.tuner({}, loops.sgd(model))
    with pytest.raises(UnsupportedModule, match=r"module: a DataParallel, limit: 1 process. Remedy: "):
        loops.tuner(nn.DataParallel(model), loops.sgd(model))


def test_methods_norms_and_modes_that_have_no_meaning_here():
    model = loops.network()
    optimizer = loops.sgd(model)
    with pytest.raises(UnsupportedSpec, match=r"method: got Unrolled.*limit: Implicit.*Remedy: "):
        loops.tuner(model, optimizer, method=Unrolled(num_steps=2))
    with pytest.raises(InvalidInput, match=r"clip_grad_norm: got -1.0, limit: a number above 0. Remedy: "):
        loops.tuner(model, optimizer, clip_grad_norm=-1.0)
    with pytest.raises(InvalidInput, match=r"outer_mode: got 'test', limit: 'eval' or 'train'. Remedy: "):
        loops.tuner(model, optimizer, outer_mode="test")
    with pytest.raises(InvalidInput, match=r"every: got None, limit: an int of at least 1. Remedy: "):
        loops.tuner(model, optimizer, every=None)


def test_calls_out_of_order():
    model = loops.network()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer)
    batch = loops.batches(1)[0]
    with pytest.raises(InvalidInput, match=r"after_step: 0 calls of before_step .* limit 1. Remedy: "):
        live.after_step(batch)
    loops.loss(model, None, batch).backward()
    live.before_step(batch)
    with pytest.raises(InvalidInput, match=r"before_step: 2 calls since the last after_step, limit 1. Remedy: "):
        live.before_step(batch)


def test_params_without_a_gradient_and_with_a_sparse_one():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    model = Unused().double()
    live = loops.tuner(model, loops.sgd(model), every=1)
    batch = loops.batches(1)[0]
    loops.loss(model, None, batch).backward()
    with pytest.raises(InvalidInput, match=r"'idle.weight' has no gradient .* limit: one for each.*requires_grad_"):
        live.before_step(batch)
    words = nn.Embedding(4, 2, sparse=True)
    live = loops.tuner(words, torch.optim.SGD(words.parameters(), lr=1e-2), hparams=LR, every=1)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(
        UnsupportedOptimizer, match=r"'weight' has a gradient of layout torch.sparse_coo, limit.*Remedy"
    ):
        live.before_step(torch.tensor([1]))


def test_params_that_took_different_numbers_of_steps():
    model = loops.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.5, dampening=0.1)
    live = loops.tuner(model, optimizer, hparams={"lr": Log10(1e-2), "dampening": Logit(0.1)}, every=2)
    first, second = loops.batches(2)
    loops.loss(model, None, first).backward()
    model[0].weight.grad = None
    live.before_step(first)
    optimizer.step()
    live.after_step(second)
    loops.loss(model, None, second).backward()
    with pytest.raises(UnsupportedOptimizer, match=r"1 steps of '0.bias' and 0 of '0.weight', limit: one.*Remedy"):
        live.before_step(second)


def test_a_state_of_another_tuner():
    model = loops.network()
    optimizer = loops.sgd(model)
    state = loops.tuner(model, optimizer, hparams=LR).state_dict()
    with pytest.raises(InvalidInput, match=r"2 names are in one .* only, limit 0, the first is 'momentum'. Remedy: "):
        loops.tuner(model, optimizer, state=state)
