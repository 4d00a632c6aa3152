"""Small torch networks with one peculiarity each, and small data, for the tests of sources, engines and training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headstart.dataset import Dataset
from headstart.sources.base import Source

torch.set_num_threads(1)  # on networks this small, two threads only wait for each other, on a busy machine for long


def seeded(make, seed: int = 0):
    """A network whose weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def pictures(n: int, *, side: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def picture_data(n: int, *, classes: int = 2, **kind) -> Dataset:
    return Dataset.from_arrays(pictures(n, **kind), [f"class {i % classes}" for i in range(n)])


def vectors(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def separable(n: int, *, classes: int = 3, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around one centre per class, and the classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, d)) * 2
    return (centres[y] + rng.normal(size=(n, d))).astype(np.float32), y


def image_source(make, *, seed: int = 0, side: int = 16, **options) -> Source:
    return Source.from_module(seeded(make, seed), size=(side, side), crop_pct=1.0, **options)


def vector_source(make, *, seed: int = 0, d: int = 8, **options) -> Source:
    return Source.from_module(seeded(make, seed), modality="vector", shape=(d,), **options)


class OutOfOrder(nn.Module):
    """Registered last, executed first; a module that is never executed; another registered twice under two names."""

    def __init__(self):
        super().__init__()
        self.third = nn.Linear(6, 5)
        self.never = nn.Linear(8, 8)
        self.second = nn.Linear(7, 6)
        self.first = nn.Linear(8, 7)
        self.alias = self.second

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


class CalledTwice(nn.Module):
    """One layer used at two depths: it has no one place."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return self.last(torch.relu(self.shared(torch.relu(self.shared(x)))))


class InPlace(nn.Module):
    """Activations that overwrite what the convolution returned."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act2(self.conv2(self.act(self.conv(x))))


class Recurrent(nn.Module):
    """An LSTM returns (sequence, (hidden, cell)); the head reads the last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        sequence, _ = self.lstm(x.view(len(x), -1, 4))
        return self.head(sequence[:, -1])


class Named(nn.Module):
    """Modules that return mappings, lists, nothing, and whole numbers."""

    class Pair(nn.Module):
        def forward(self, x):
            return {"main": x * 2, "other": x}

    class Nothing(nn.Module):
        def forward(self, x):
            return None

    class Ranks(nn.Module):
        def forward(self, x):
            return x.argsort(1)

    class Listing(nn.Module):
        def forward(self, x):
            return [x + 1, x]

    def __init__(self):
        super().__init__()
        self.pair, self.nothing, self.ranks, self.listing = self.Pair(), self.Nothing(), self.Ranks(), self.Listing()
        self.end = nn.Linear(8, 4)

    def forward(self, x):
        x = self.pair(x)["main"]
        self.nothing(x)
        self.ranks(x)
        return {"logits": self.end(self.listing(x)[0])}


class OutputInside(nn.Module):
    """A layer called ``output`` that is not the last."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(8, 6)
        self.after = nn.Linear(6, 4)

    def forward(self, x):
        return self.after(torch.tanh(self.output(x)))


class Bare(nn.Module):
    """No layers inside at all."""

    def forward(self, x):
        return x.mean((2, 3))


class BatchStatistics(nn.Module):
    """Batch normalisation without stored statistics: evaluation mode does not help."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class RandomForward(nn.Module):
    """Dropout as a function, always on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return nn.functional.dropout(self.conv(x), 0.5, training=True)


class Failing(nn.Module):
    """Fails in the middle when told to."""

    class Bomb(nn.Module):
        armed = False

        def forward(self, x):
            if self.armed:
                raise KeyError("boom")
            return x

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(8, 8)
        self.bomb = self.Bomb()
        self.after = nn.Linear(8, 4)

    def forward(self, x):
        return self.after(self.bomb(self.before(x)))


class Normed(nn.Module):
    """Convolutions with batch normalisation and dropout, in blocks; statistics that are not the initial ones."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*[self._block(a, b) for a, b in ((8, 8), (8, 12), (12, 12), (12, 16))])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)

    @staticmethod
    def _block(a: int, b: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.Dropout(0.2))

    def forward(self, x):
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))


class Dense(nn.Module):
    """Three dense layers."""

    def __init__(self, d: int = 8, outputs: int = 6):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(d, 16), nn.Linear(16, 12), nn.Linear(12, outputs)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def counted(network: nn.Module) -> tuple[dict[str, int], list]:
    """Counts how often each inner module runs, and the handles to stop counting."""
    counts = {name: 0 for name, _ in network.named_modules() if name}

    def hook(name):
        def count(*_):
            counts[name] += 1

        return count

    return counts, [m.register_forward_hook(hook(name)) for name, m in network.named_modules() if name]


def hooks_of(network: nn.Module) -> int:
    """How many hooks hang on a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in network.modules() for kind in kinds)


def state_bytes(network: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer, to the last bit."""
    return {name: t.detach().cpu().numpy().tobytes() for name, t in network.state_dict().items()}
