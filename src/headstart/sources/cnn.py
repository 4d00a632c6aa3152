"""The classic small network for 28 × 28 × 1 images, to be trained with ``pretrain("cnn", data)``.

Two 3 × 3 convolutions (32, 64), each with 2 × 2 max-pooling, flatten, dense 64, softmax over the classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from headstart.errors import OptionError
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Source
from headstart.sources.inputs.image import ImageInput

CLASSIFIER = "classifier"
_SMALLEST = 10  # a side below it leaves nothing after the second pooling


def load(
    name: str = "cnn",
    *,
    classes: int = 10,
    size: Sequence[int] = (28, 28),
    channels: int = 1,
    seed: int = 0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Source:
    """Build the network with initial weights drawn from ``seed``; ``mean`` and ``std`` are of pixels scaled to 0–1.

    Raises
    ------
    OptionError
        For images smaller than 10 × 10, no classes, or a number of channels other than 1 and 3.
    """
    import torch
    from torch import nn

    if len(size) != 2 or min(size) < _SMALLEST or classes < 1 or channels not in (1, 3):
        raise OptionError(
            f"cnn: takes images of at least {_SMALLEST} × {_SMALLEST} with 1 or 3 channels, and at least one class; "
            f"got size={tuple(size)}, channels={channels}, classes={classes}."
        )
    height, width = (((side - 2) // 2 - 2) // 2 for side in size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 3),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                dense=nn.Linear(64 * height * width, 64),
                relu3=nn.ReLU(),
                classifier=nn.Linear(64, classes),
            )
        )
    sides = (int(size[0]), int(size[1]))
    input = ImageInput(
        size=sides, channels=channels, mean=(mean,) * channels, std=(std,) * channels, crop_pct=1.0, crop_mode="squash"
    )
    built = {"classes": classes, "size": list(sides), "channels": channels, "seed": seed, "mean": mean, "std": std}
    rebuild = {"family": "cnn", "name": name, "options": built}
    address = f"cnn:{name}"
    return Source(address, TorchBackend(network.eval(), address), input, classifier=CLASSIFIER, rebuild=rebuild)
