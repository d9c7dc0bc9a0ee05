"""Small modules of every kind: each a function that returns (module, how it turns into a number)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as fn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

D = torch.float64


def data(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def regression(make, *shape):
    """A module whose outputs are fitted to fixed numbers."""

    def build():
        module = make().to(D)
        x = data(*shape)

        def loss(model):
            found = model(x)
            found = found[0] if isinstance(found, tuple) else found
            return (found - 0.3 * torch.sin(torch.arange(found.numel(), dtype=D)).view(found.shape)).square().mean()

        return module, loss

    return build


def tokens(make, classes=5, shape=(2, 4)):
    """A module of token numbers whose outputs are scored."""

    def build():
        module = make().to(D)
        ids = torch.arange(shape[0] * shape[1]).view(shape) % classes
        return module, lambda model: model(ids).square().mean() + model(ids).sin().sum() * 0.1

    return build


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, 2, 2).permute(2, 0, 3, 1, 4)
        return fn.scaled_dot_product_attention(q, k, v)


class CausalAttention(Attention):
    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, 2, 2).permute(2, 0, 3, 1, 4)
        return fn.scaled_dot_product_attention(q, k, v, is_causal=True)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.out = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(x + torch.tanh(self.inside(x)))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant=False):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 1), reentrant

    def forward(self, x):
        hidden = checkpoint(
            lambda z: torch.tanh(self.first(z)), x.clone().requires_grad_(), use_reentrant=self.reentrant
        )
        return self.second(hidden)


class Spectral(nn.Module):
    """Complex numbers inside, real ones outside."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * torch.complex(self.filter, self.filter.sin()), n=x.shape[-1])


class Cubed(torch.autograd.Function):
    """x³ with a backward that can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


class CubedOnce(Cubed):
    """x³ with a backward that says that it cannot be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


class CubedConstant(Cubed):
    """x³ with a right first derivative and no second one, without a word."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (3 * x * x).detach() * grad


class CubedWrong(Cubed):
    """x³ with a first derivative of three times the size."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 9 * x * x * grad


class WithFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(3, 2), function

    def forward(self, x):
        return self.function(self.layer(x))


class Bag(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode=mode)

    def forward(self, ids):
        return self.bag(ids)


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        return torch.cdist(x, self.centres)


def traced():
    return torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3))


def net(*middle, width=4):
    return lambda: nn.Sequential(nn.Linear(3, width), *(make() for make in middle), nn.Linear(width, 1))


def conv(*middle):
    return lambda: nn.Sequential(nn.Conv2d(1, 2, 2), *(make() for make in middle), nn.Flatten(), nn.LazyLinear(1))


def warmed(make, *shape):
    """A lazy module, run once so that it has its shapes."""

    def build():
        torch.manual_seed(0)
        module = make().to(D)
        module(data(*shape))
        return module

    return build


RIGHT = {
    "linear": regression(net(), 6, 3),
    "tanh": regression(net(nn.Tanh), 6, 3),
    "relu": regression(net(nn.ReLU), 6, 3),
    "gelu": regression(net(nn.GELU), 6, 3),
    "silu": regression(net(nn.SiLU), 6, 3),
    "mish": regression(net(nn.Mish), 6, 3),
    "hardswish": regression(net(nn.Hardswish), 6, 3),
    "softmax": regression(net(lambda: nn.Softmax(-1)), 6, 3),
    "prelu": regression(net(nn.PReLU), 6, 3),
    "convolution": regression(warmed(conv(nn.Tanh), 3, 1, 4, 4), 3, 1, 4, 4),
    "transposed convolution": regression(lambda: nn.ConvTranspose1d(2, 1, 2), 3, 2, 4),
    "depthwise convolution": regression(lambda: nn.Conv1d(2, 2, 2, groups=2), 3, 2, 4),
    "max pooling": regression(warmed(conv(lambda: nn.MaxPool2d(2)), 3, 1, 5, 5), 3, 1, 5, 5),
    "average pooling": regression(warmed(conv(lambda: nn.AvgPool2d(2)), 3, 1, 5, 5), 3, 1, 5, 5),
    "adaptive pooling": regression(warmed(conv(lambda: nn.AdaptiveAvgPool2d(2)), 3, 1, 5, 5), 3, 1, 5, 5),
    "batch norm": regression(net(lambda: nn.BatchNorm1d(4), nn.Tanh), 6, 3),
    "batch norm in eval mode": regression(lambda: net(lambda: nn.BatchNorm1d(4), nn.Tanh)().eval(), 6, 3),
    "layer norm": regression(net(lambda: nn.LayerNorm(4), nn.Tanh), 6, 3),
    "group norm": regression(net(lambda: nn.GroupNorm(2, 4), nn.Tanh), 6, 3),
    "instance norm": regression(lambda: nn.Sequential(nn.Conv1d(2, 2, 2), nn.InstanceNorm1d(2, affine=True)), 3, 2, 5),
    "rms norm": regression(net(lambda: nn.RMSNorm(4), nn.Tanh), 6, 3),
    "dropout": regression(net(nn.Tanh, lambda: nn.Dropout(0.4)), 6, 3),
    "channel dropout": regression(warmed(conv(nn.Dropout2d), 3, 1, 4, 4), 3, 1, 4, 4),
    "embedding": tokens(lambda: nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 1))),
    "padded embedding": tokens(lambda: nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Tanh(), nn.Linear(3, 1))),
    "lstm": regression(lambda: nn.LSTM(3, 2, batch_first=True), 2, 3, 3),
    "bidirectional gru": regression(lambda: nn.GRU(3, 2, batch_first=True, bidirectional=True), 2, 3, 3),
    "rnn": regression(lambda: nn.RNN(3, 2, batch_first=True), 2, 3, 3),
    "lstm cell": regression(lambda: nn.LSTMCell(3, 2), 4, 3),
    "multi-head attention": regression(SelfAttention, 2, 3, 4),
    "scaled dot product attention": regression(Attention, 2, 3, 4),
    "causal attention": regression(CausalAttention, 2, 3, 4),
    "transformer layer": regression(
        lambda: nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True), 2, 3, 4
    ),
    "tied head": tokens(Tied),
    "residual": regression(Residual, 6, 3),
    "a layer used twice": regression(Reused, 6, 3),
    "bilinear": regression(lambda: WithFunction(lambda z: z.prod(-1)), 6, 3),
    "sparse embedding": tokens(lambda: nn.Embedding(5, 3, sparse=True)),
    "spectral norm": regression(lambda: parametrizations.spectral_norm(nn.Linear(3, 2)).eval(), 6, 3),
    "orthogonal": regression(lambda: parametrizations.orthogonal(nn.Linear(3, 3)), 6, 3),
    "checkpointed": regression(Checkpointed, 6, 3),
    "complex inside": regression(Spectral, 6, 4),
    "custom function": regression(lambda: WithFunction(Cubed.apply), 6, 3),
}

REFUSED = {
    "hardsigmoid": (regression(net(nn.Hardsigmoid), 6, 3), "DoubleBackwardUnsupported", "layer '1': hardsigmoid"),
    "embedding bag max": (tokens(lambda: Bag("max")), "DoubleBackwardUnsupported", "layer 'bag': embedding_bag"),
    "embedding bag sum": (tokens(lambda: Bag("sum")), "DoubleBackwardUnsupported", "layer 'bag': embedding_bag"),
    "distances": (regression(Distances, 6, 3), "DoubleBackwardUnsupported", "cdist has 1 derivative"),
    "weight norm": (
        regression(lambda: parametrizations.weight_norm(nn.Linear(3, 2)), 6, 3),
        "DoubleBackwardUnsupported",
        "layer 'parametrizations.weight.0': weight norm",
    ),
    "once differentiable": (
        regression(lambda: WithFunction(CubedOnce.apply), 6, 3),
        "DoubleBackwardUnsupported",
        "once_differentiable",
    ),
    "reentrant checkpoint": (
        regression(lambda: Checkpointed(reentrant=True), 6, 3),
        "DoubleBackwardUnsupported",
        "use_reentrant=False",
    ),
    "compiled": (regression(lambda: torch.compile(nn.Linear(3, 1)), 6, 3), "UnsupportedModule", "compiled"),
    "data parallel": (regression(lambda: nn.DataParallel(nn.Linear(3, 1)), 6, 3), "UnsupportedModule", ".module"),
    "scripted": (
        regression(lambda: torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3)), 6, 3),
        "UnsupportedModule",
        "jit",
    ),
}

MARGINS = {
    "multi_margin_loss": lambda z: fn.multi_margin_loss(z, torch.arange(6) % 2),
    "multilabel_margin_loss": lambda z: fn.multilabel_margin_loss(z, torch.arange(12).view(6, 2) % 2),
    "ctc_loss": lambda z: fn.ctc_loss(z.view(6, 1, 2).log_softmax(-1), torch.ones(1, 2, dtype=torch.long), [6], [2]),
}
