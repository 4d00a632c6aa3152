"""Claims of rank(), each beside its baseline; every part writes its share of results/ranking.json.

* ``cost``: ranking all candidate layers of several sources costs at most 1.3 × the extraction passes it needs. The
  baseline is ``extract()`` with the layers that the ranking looks at; both start from an empty store and alternate.
  A ranking of the same items with new labels is timed, too.
* ``choice``: the row that the ranking puts first is within a point of the best of all rows, fitted and measured on held
  out items; so is its order (weighted τ). The baselines are the scores that need no cross-validation, and model size.
  Five sources (four trained, one with initial weights) × all layers × photos, hand signs, written digits.
* ``fusion``: sources together against the best single row, on items that nothing was chosen on.
* ``sounds``: spoken digits of unseen speakers with YAMNet: which layer wins, and what fusing gives against the last.
* ``noise``: how often noise is said to transfer, at the level of one in a hundred; and digits as few as 30.

    python benchmarks/ranking.py [cost choice fusion sounds noise] [--save]
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _parts import DATA, run_parts, words
from scipy.stats import weightedtau

from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.ranking import rank
from headstart.selection.search import select_head
from headstart.sources import Source, load_source
from headstart.transfer import fit

CLASSES = 10
BAR = 1.3
TRAINED = ("mobilenetv2_100.imagenet", "mobilenetv2_100.imagenet_tf2", "mobilenetv2_100.inat_insect")
SCORES = ("accuracy", "logme", "h_score", "knn", "nce", "leep", "static")


def noisy_images(count: int, side: int) -> Dataset:
    """Noise around one faint pattern per class."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % CLASSES
    patterns = rng.normal(size=(CLASSES, 8, 8, 3)) * 12
    large = np.kron(patterns, np.ones((1, -(-side // 8), -(-side // 8), 1)))[:, :side, :side]
    X = rng.normal(128, 50, size=(count, side, side, 3)) + large[y]
    return Dataset.from_arrays(X.clip(0, 255).astype(np.uint8), [f"class {i}" for i in y])


def seconds(run: Callable[[Path], object]) -> float:
    """Wall time of one run into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run(Path(folder))
        return time.perf_counter() - begun


def measure(sources: list, data: Dataset, repeats: int) -> tuple[list[float], list[float]]:
    """Times of the passes alone, and of the ranking, in turn."""

    def passes(store: Path) -> None:
        for source in sources:
            extract(source, data, layers="auto", store=store)

    def ranking(store: Path) -> None:
        rank(sources, data, store=store)

    times = [(seconds(passes), seconds(ranking)) for _ in range(repeats + 1)][1:]
    return [a for a, _ in times], [b for _, b in times]


def cost(args: argparse.Namespace) -> dict:
    """Times of ranking and of its passes."""
    sources = [load_source(address) for address in args.sources] if args.sources else trained()
    data = noisy_images(args.pictures, args.side)
    alone, ranked = measure(sources, data, args.repeats)
    ratios = [b / a for a, b in zip(alone, ranked, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        rank(sources, data, store=Path(folder))
        other = data.with_targets(list(np.random.default_rng(1).permutation(list(data.targets))))
        begun = time.perf_counter()
        rank(sources, other, store=Path(folder))
        again = time.perf_counter() - begun
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "extract_seconds": alone,
        "rank_seconds": ranked,
        "again_with_new_labels_seconds": again,
        "holds": statistics.median(ratios) <= BAR,
        "setting": {
            "pictures": args.pictures,
            "side": args.side,
            "sources": [s.name for s in sources],
            "layers": sum(len(s.select("auto")) for s in sources),
        },
    }


def images() -> dict[str, Dataset]:
    """Photos of waste, hand signs, and a sample of written digits."""
    folder = DATA / "images" / "mnist_t10k"
    X = np.frombuffer(gzip.decompress(next(folder.glob("*images*")).read_bytes()), np.uint8)[16:].reshape(-1, 28, 28)
    y = np.frombuffer(gzip.decompress(next(folder.glob("*labels*")).read_bytes()), np.uint8)[8:]
    sample = np.random.default_rng(0).permutation(len(X))[:1000]
    digits = Dataset.from_arrays(np.repeat(X[sample][..., None], 3, 3), [str(v) for v in y[sample]])
    return {**{n: Dataset.from_folder(DATA / "images" / n) for n in ("trashnet", "sign_digits")}, "mnist": digits}


def trained() -> list:
    """The MobileNetV2 with ImageNet weights (two trainings) and with iNaturalist weights."""
    return [load_source(f"timm:{DATA / 'weights' / name}") for name in TRAINED]


def candidates() -> list:
    """All sources to choose from: the trained ones, SqueezeNet as a torch module, and one with initial weights."""
    import torch
    import torchvision

    network = torchvision.models.squeezenet1_1()
    weights = torch.load(DATA / "weights" / "squeezenet1_1_features_in1k.pth", weights_only=True)
    network.load_state_dict(weights, strict=False)  # the file has no classifier
    squeeze = Source.from_module(network.features, name="squeezenet1_1.imagenet")
    return [*trained(), squeeze, load_source("timm:mobilenetv2_100", pretrained=False, options={"pad_type": "same"})]


def choice(_: argparse.Namespace) -> dict:
    """Regret and weighted τ of every score against held-out items, two draws of each target."""
    sources = candidates()
    targets = {}
    for name, data in images().items():
        for seed in (0, 1):
            train, test = data.split(test_size=0.5, random_state=seed)
            ranking = rank(sources, train, random_state=0)
            truth = [tested(sources, row, train, test) for row in ranking.rows]
            scores = {}
            for score in SCORES:
                pairs = [(getattr(row, score), t) for row, t in zip(ranking.rows, truth, strict=True)]
                measured = [
                    (value, t) for value, t in pairs if value is not None
                ]  # SqueezeNet came without a classifier
                top = max(value for value, _ in measured)
                scores[score] = {
                    "regret": max(truth) - float(np.mean([t for value, t in measured if value == top])),
                    "tau": float(weightedtau(*zip(*measured, strict=True)).statistic),
                }
            targets[f"{name} {seed}"] = {"rows": len(truth), "best": max(truth), "scores": scores}
            print(name, seed, {k: (round(v["regret"], 3), round(v["tau"], 2)) for k, v in scores.items()}, flush=True)
    kinds = ("regret", "tau")
    mean = {
        score: {kind: float(np.mean([target["scores"][score][kind] for target in targets.values()])) for kind in kinds}
        for score in SCORES
    }
    cross_validated = mean["accuracy"]
    return {
        "mean": mean,
        "targets": targets,
        "holds": cross_validated["regret"] <= 0.01 and cross_validated["tau"] >= 0.8,
    }


def tested(sources: list, row: object, train: Dataset, test: Dataset) -> float:
    """Test accuracy of the best head on one layer."""
    source = next(s for s in sources if s.fingerprint == row.fingerprint)
    X, Z = (extract(source, part, layers=[row.layer]).rows(row.layer, part) for part in (train, test))
    T, U = train.columns[0].matrix(), test.columns[0].matrix()
    head = select_head({"x": X}, T, balance="auto", random_state=0).fit({"x": X}, T)
    return float((head.decision(Z).argmax(1) == U.argmax(1)).mean())


def fusion(_: argparse.Namespace) -> dict:
    """fit() with ImageNet and iNaturalist sources together, against the best single row of either; four draws."""
    sources = [item for item in trained() if "tf2" not in item.name]
    targets = {}
    for name, data in images().items():
        for seed in range(4):
            train, test = data.split(test_size=0.5, random_state=seed)
            best = rank(sources, train, random_state=0).best
            source = next(s for s in sources if s.fingerprint == best.fingerprint)
            options = {"policy": "frozen", "random_state": 0}
            single = float(fit(source, train, layers=[best.layer], **options).evaluate(test).metrics["accuracy"])
            predictor = fit(sources, train, **options)
            together = float(predictor.evaluate(test).metrics["accuracy"])
            targets[f"{name} {seed}"] = {"single": single, "together": together, "layers": list(predictor.layers)}
            print(name, seed, round(single, 3), round(together, 3), predictor.layers, flush=True)
    gains = {
        name: float(
            np.mean([item["together"] - item["single"] for key, item in targets.items() if key.startswith(name)])
        )
        for name in images()
    }
    return {"targets": targets, "gain": gains, "holds": sum(gain > 0 for gain in gains.values()) >= 2}


def sounds(_: argparse.Namespace) -> dict:
    """Which layer of YAMNet wins on digits of unseen speakers; fused against the last one."""
    data = Dataset.from_table(DATA / "audio/fsdd.csv", input="path", target="digit", groups="speaker", split="split")
    source = load_source(f"timm:{DATA / 'weights' / 'mobilenetv1_100.audioset_yamnet'}")
    train, test = data.part("train"), data.part("test")
    ranking = rank(source, train, random_state=0)
    last = max(ranking.rows, key=lambda row: (row.depth, source.layer(row.layer).macs))
    results = {}
    for what, layers in {"best": [ranking.best.layer], "last": [last.layer], "fused": "auto"}.items():
        predictor = fit(source, train, layers=layers, policy="frozen", random_state=0)
        results[what] = {"layers": list(predictor.layers), "test": float(predictor.evaluate(test).metrics["accuracy"])}
        print(what, results[what], flush=True)
    rows = {row.layer: row.accuracy for row in ranking.rows}
    return {"cross_validated": rows, **results, "holds": results["fused"]["test"] >= results["last"]["test"] + 0.2}


def noise(_: argparse.Namespace) -> dict:
    """How often noise images (60 rows, 2 classes) are said to transfer; and few written digits."""
    source = load_source("fake:image")
    n_transfers = 0
    for seed in range(200):
        X = np.random.default_rng(seed).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
        data = Dataset.from_arrays(X, [f"class {i % 2}" for i in range(60)])
        n_transfers += rank(source, data, store=False).transfers
    digits, real = images()["mnist"], trained()[0]
    power = {n: sum(rank(real, digits.sample(n=n, random_state=s)).transfers for s in range(10)) for n in (30, 60)}
    print(n_transfers, power, flush=True)
    return {
        "noise_said_to_transfer": n_transfers,
        "of": 200,
        "digits_said_to_transfer_of_10": power,
        "holds": n_transfers <= 6,
    }


PARTS = {"cost": cost, "choice": choice, "fusion": fusion, "sounds": sounds, "noise": noise}


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--sources", nargs="+", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    run_parts("ranking", PARTS, parser)


if __name__ == "__main__":
    main()
