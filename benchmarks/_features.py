"""Features that benchmarks of heads share, computed once by the plain libraries and stored in the cache folder."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _parts import DATA

from headstart._base.files import cache_folder

MOBILENET = DATA / "weights" / "mobilenetv2_100.imagenet"
BLOCKS = ("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6")


def cached(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays by name, made once."""
    path = cache_folder() / "benchmarks" / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **make())
        partial.rename(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def photos(name: str) -> dict[str, np.ndarray]:
    """MobileNetV2 features of the photos under ``data/images``: pooled blocks, ``last`` (1,280), and labels ``y``."""
    return cached(f"mobilenet-{name}", lambda: _see(sorted((DATA / "images" / name).glob("*/*.*"))))


def _see(paths: list[Path]) -> dict[str, np.ndarray]:
    from PIL import Image

    arrays = _forward([(lambda path=path: Image.open(path).convert("RGB")) for path in paths])
    return {**arrays, "y": np.array([path.parent.name for path in paths])}


def eighty_classes(train: int = 38, test: int = 15, weights: Path = MOBILENET) -> dict[str, np.ndarray]:
    """A real task of 80 classes: ten hand signs and ten written digits, each in four rotations; 1,280 features.

    ``X, y`` to fit on and ``X_test, y_test``; no photo is in both, though it may be in one under several rotations.
    """
    other = "" if weights == MOBILENET else f"-{weights.name}"
    return cached(f"mobilenet-eighty-{train}-{test}{other}", lambda: _rotated(train, test, weights))


def _rotated(train: int, test: int, weights: Path) -> dict[str, np.ndarray]:
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = DATA / "images" / "mnist_t10k"
    images = np.frombuffer(gzip.decompress(next(folder.glob("*images*")).read_bytes()), np.uint8)[16:].reshape(
        -1, 28, 28
    )
    labels = np.frombuffer(gzip.decompress(next(folder.glob("*labels*")).read_bytes()), np.uint8)[8:]
    items, y, held_out = [], [], []
    for digit in range(10):
        signs = sorted((DATA / "images" / "sign_digits" / str(digit)).glob("*"))
        signs = [signs[i] for i in rng.permutation(len(signs))]
        written = rng.permutation(np.flatnonzero(labels == digit))
        for turn in range(4):
            for kind, pool, cut in ((0, signs, 70), (1, written, 300)):
                for new, part, count in ((False, pool[:cut], train), (True, pool[cut:], test)):
                    for i in rng.permutation(len(part))[:count]:
                        items.append((part[i], turn))
                        y.append(kind * 40 + digit * 4 + turn)
                        held_out.append(new)

    def load(item: object, turn: int) -> Image.Image:
        image = Image.open(item) if isinstance(item, Path) else Image.fromarray(images[item]).resize((100, 100))
        return image.convert("RGB").rotate(90 * turn)

    X = _forward([(lambda item=item, turn=turn: load(item, turn)) for item, turn in items], weights)["last"]
    labelled, new = np.array(y), np.array(held_out)
    return {"X": X[~new], "y": labelled[~new], "X_test": X[new], "y_test": labelled[new]}


def _forward(loaders: list[Callable[[], object]], weights: Path = MOBILENET) -> dict[str, np.ndarray]:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in (*BLOCKS, "last")}
    for name in BLOCKS:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: rows[name].append(out.mean((2, 3)))
        )
    with torch.inference_mode():
        for start in range(0, len(loaders), 32):
            rows["last"].append(model(torch.stack([transform(load()) for load in loaders[start : start + 32]])))
    return {name: torch.cat(parts).numpy() for name, parts in rows.items()}
