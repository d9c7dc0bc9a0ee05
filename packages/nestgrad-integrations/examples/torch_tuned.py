"""A loop in torch that tunes its learning rate and momentum."""

import torch
from torch.nn.functional import mse_loss

from nestgrad import Log10, Logit
from nestgrad_integrations.live import LiveOnePass

torch.manual_seed(0)
x = torch.randn(300, 4)
y = torch.sin(x.sum(1, keepdim=True))
train, valid = (x[:200], y[:200]), (x[200:], y[200:])
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5)


def loss(model, batch):
    return mse_loss(model(batch[0]), batch[1])


hparams = {"lr": Log10(1e-3), "momentum": Logit(0.5)}
tuner = LiveOnePass(model, optimizer, hparams=hparams, inner_loss=lambda model, _, batch: loss(model, batch))
before = loss(model, valid).item()
for _ in range(300):
    rows = torch.randint(0, 200, (50,))
    batch = (train[0][rows], train[1][rows])
    optimizer.zero_grad()
    loss(model, batch).backward()
    tuner.before_step(batch)
    optimizer.step()
    tuner.after_step(valid)
after = loss(model, valid).item()
lr = optimizer.param_groups[0]["lr"]
