"""A LightningModule and its Trainer."""

import lightning
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(300, 4)
y = torch.sin(x.sum(1, keepdim=True))
train = DataLoader(TensorDataset(x[:200], y[:200]), batch_size=50, shuffle=True)
valid = DataLoader(TensorDataset(x[200:], y[200:]), batch_size=100)


class Regressor(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def forward(self, batch):
        return mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.5)


model = Regressor()
before = model((x[200:], y[200:])).item()
trainer = lightning.Trainer(max_epochs=50, logger=False, enable_checkpointing=False)
trainer.fit(model, train)
after, lr = model((x[200:], y[200:])).item(), trainer.optimizers[0].param_groups[0]["lr"]
