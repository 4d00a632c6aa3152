"""demo(): does transfer help? Digits 5–9 from a few examples each, with what was learned on digits 0–4.

The data are the 8 × 8 digits that come with scikit-learn, so nothing is fetched. A small convolutional network learns
the digits 0–4 (the source task). Then the digits 5–9 (the target task) are learned from a handful of labelled examples
in three ways, on the same examples and measured on the same pictures:

* *scratch*: the same network from random weights, for 30 epochs (60 gave 0.003 more at most) at the learning rate that
  does best on 400 further labelled pictures, which the other two never see: that favours scratch;
* *frozen*: the source's features and a solved head, both found by cross-validation on the examples alone;
* *fine-tuned*: that, and then all weights moved at a small learning rate.

This is repeated with other examples; every row has the 95 % interval of its mean over the repeats.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from headstart._base.files import write_atomic
from headstart._base.intervals import Metric, paired_difference
from headstart._base.progress import listening, note, track
from headstart.dataset.dataset import Dataset
from headstart.errors import OptionError, StoreError
from headstart.extraction.extract import extract
from headstart.policies.base import Policy, policy
from headstart.pooling import resolve
from headstart.predictor.predictor import Predictor
from headstart.pretraining.pretrain import pretrain
from headstart.result.record import plain
from headstart.sources.base import Source
from headstart.transfer.fit import fit

# ---- What the demonstration found, as frozen records. ----


@dataclass(frozen=True)
class DemoRow:
    """One way to learn the target task: mean accuracy over the repeats with its 95 % interval, seconds per repeat."""

    name: str
    accuracy: float
    low: float
    high: float
    seconds: float
    accuracies: tuple[float, ...]

    @classmethod
    def of(cls, name: str, accuracies: Sequence[float], seconds: Sequence[float]) -> DemoRow:
        """From one accuracy and one duration per repeat; the interval is Student's, kept within 0 and 1."""
        values = np.asarray(accuracies, dtype=np.float64)
        mean = float(values.mean())
        half = float(stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
        low, high = max(0.0, mean - half), min(1.0, mean + half)
        return cls(name, mean, low, high, float(np.mean(seconds)), tuple(values.tolist()))


@dataclass(frozen=True)
class Tried:
    """A candidate layer.

    Attributes
    ----------
    what : str
        In plain words.
    numbers : int
        How many it gives per picture.
    accuracy : float
        Cross-validated on the examples alone; mean over the repeats.
    chosen : int
        In how many repeats it was chosen, alone or together with others.
    """

    layer: str
    what: str
    numbers: int
    accuracy: float
    chosen: int


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    rows : tuple of Row
        scratch, frozen, fine-tuned.
    layers : tuple of Tried
        In the order in which they run.
    predictor : Path
        The better of the two transferred predictors of the first repeat.
    samples : tuple of Path
        Pictures it has not seen.
    scratch_lr : float
        The learning rate that scratch was given.
    source_seconds, seconds : float
        For the source task, and for everything.
    """

    rows: tuple[DemoRow, ...]
    layers: tuple[Tried, ...]
    predictor: Path
    samples: tuple[Path, ...]
    per_class: int
    repeats: int
    scratch_lr: float
    source_seconds: float
    seconds: float

    @property
    def best(self) -> DemoRow:
        """The better of the two ways to transfer."""
        return max(self.rows[1:], key=lambda row: row.accuracy)

    @property
    def gain(self) -> Metric:
        """The better transfer less scratch, repeat by repeat, with its 95 % interval."""
        return Metric(*paired_difference(np.array(self.best.accuracies), np.array(self.rows[0].accuracies)))

    @property
    def helped(self) -> bool:
        """Whether the interval of the better transfer lies wholly above that of scratch."""
        return self.best.low > self.rows[0].high

    @property
    def verdict(self) -> str:
        """One sentence; it says so when transfer did not help."""
        gain, name = self.gain, self.best.name
        points = f"{100 * gain:+.1f} points against scratch"
        if gain.low is not None and gain.high is not None:
            points += f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, repeat by repeat)"
        if self.helped:
            return f"Transfer helped: {name} {points}."
        if gain.low is not None and gain.low > 0:
            return f"Transfer helped a little: {name} {points}, but the intervals above touch."
        if gain.high is not None and gain.high < 0:
            return f"Transfer hurts here: {name} {points}."
        return f"Transfer did not clearly help here: {name} {points}."

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        conclusions = {"gain": self.gain, "helped": self.helped, "verdict": self.verdict}
        return {name: plain(value) for name, value in {**vars(self), **conclusions}.items()}


# ---- The digits that come with scikit-learn: two tasks of five digits each, and pictures to try a predictor with. ----


def tasks() -> tuple[Dataset, Dataset]:
    """Digits 0–4 and digits 5–9 as uint8 pictures, so that the source's own preprocessing resizes them."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    pixels = np.rint(X.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    names = np.array([str(digit) for digit in y])
    low = y < 5
    return Dataset.from_arrays(pixels[low], names[low]), Dataset.from_arrays(pixels[~low], names[~low])


def samples(test: Dataset, folder: Path) -> tuple[Path, ...]:
    """One picture of each digit that training never saw, as PNG."""
    from PIL import Image

    places = []
    for digit in test.classes:
        index = list(test.targets).index(digit)
        blob = io.BytesIO()
        Image.fromarray(np.asarray(test.items[index])).save(blob, "PNG")
        places.append(folder / f"{digit}.png")
        write_atomic(places[-1], blob.getvalue())
    return tuple(places)


_NAMES = ("scratch", "frozen", "fine-tuned")
_RATES = (3e-4, 1e-3, 3e-3)  # tried for scratch
_TUNING: dict[str, Any] = {"lr": 1e-4, "epochs": 8, "label_smoothing": 0.0, "views": 1}
_BATCH = 10
_TEST = 0.5
_WHAT = {
    "relu1": "first convolution, averaged",
    "pool1": "first pooling, averaged",
    "relu2": "second convolution, averaged",
    "flatten": "the convolutions' output, flattened",
    "relu3": "last dense layer",
}


@dataclass(frozen=True)
class _Repeat:
    accuracies: dict[str, float]
    seconds: dict[str, float]
    predictors: dict[str, Predictor]


def demo(
    output: str | Path = "headstart-demo",
    *,
    repeats: int = 16,
    per_class: int = 10,
    source_epochs: int = 15,
    epochs: int = 30,
    random_state: int = 0,
) -> Demo:
    """Run the demonstration, and leave a predictor and some pictures to try it with.

    Parameters
    ----------
    output : path
        A folder; ``digits.headstart`` and ``digits/*.png`` are written into it.
    repeats : int
        How often the target task is learned anew, from other examples.
    per_class : int
        Labelled examples of each of the five digits.
    source_epochs, epochs : int
        Of the source task, and of scratch.

    Raises
    ------
    OptionError
        Fewer than two repeats or examples, or no epoch.
    StoreError
        When the folder cannot be written.

    Notes
    -----
    Cost: about 2 s of one processor core per repeat, and 10 s for the source task.
    """
    begun = time.perf_counter()
    _check(repeats=repeats, per_class=per_class, source_epochs=source_epochs, epochs=epochs)
    folder = _folder(output)
    with _calm():
        low, high = tasks()
        note(f"Learning digits 0–4 from {len(low)} pictures: the source task.")
        source = pretrain("cnn", low, epochs=source_epochs, random_state=random_state)
        source_seconds = time.perf_counter() - begun
        pool, test = high.split(test_size=_TEST, random_state=random_state)
        draws = [pool.sample(per_class, random_state=random_state + i) for i in range(repeats)]
        note(f"Learning digits 5–9 from {per_class} pictures of each, {repeats} times, in three ways.")
        with track("digits 5–9, three ways", repeats + 1) as done, listening(None):
            lr = _best_rate(draws[0], pool.without(draws[0]), epochs, random_state)
            done()
            repeat_results = []
            for number, train in enumerate(draws):
                repeat_results.append(_repeat(source, train, test, lr=lr, epochs=epochs, seed=random_state + number))
                done()
        rows = tuple(
            DemoRow.of(n, [r.accuracies[n] for r in repeat_results], [r.seconds[n] for r in repeat_results])
            for n in _NAMES
        )
        best = max(rows[1:], key=lambda row: row.accuracy)
        saved = repeat_results[0].predictors[best.name].save(folder / "digits.headstart")
    return Demo(
        rows=rows,
        layers=_layers(source, [repeat_result.predictors["frozen"] for repeat_result in repeat_results]),
        predictor=saved,
        samples=samples(test, folder / "digits"),
        per_class=per_class,
        repeats=repeats,
        scratch_lr=lr,
        source_seconds=source_seconds,
        seconds=time.perf_counter() - begun,
    )


def _repeat(source: Source, train: Dataset, test: Dataset, *, lr: float, epochs: int, seed: int) -> _Repeat:
    """The three ways on the same examples, measured on the same pictures."""
    accuracies, seconds, predictors = {}, {}, {}
    begun = time.perf_counter()
    scratch = _scratch(train, lr, epochs, seed)
    seconds["scratch"] = time.perf_counter() - begun
    accuracies["scratch"] = _own_accuracy(scratch, test)

    def measured(name: str, used_policy: Policy, **start: Any) -> Predictor:
        begun = time.perf_counter()
        # no guard: the row shall show what fine-tuning does, whether it helps or not
        predictor = fit(source, train, policy=used_policy, **start, guard=False, precision="fp32", random_state=seed)
        seconds[name] = time.perf_counter() - begun
        accuracies[name] = _share(predictor.predict(test), test.targets)
        predictors[name] = predictor
        return predictor

    frozen = measured("frozen", policy("frozen"))
    solved = {"layers": list(frozen.layers), "head": frozen.head.name}  # what is tuned is what was solved
    measured("fine-tuned", policy("full", batch_size=_BATCH, **_TUNING), **solved)
    seconds["fine-tuned"] += seconds["frozen"]  # it begins where that ends
    return _Repeat(accuracies, seconds, predictors)


def _scratch(train: Dataset, lr: float, epochs: int, seed: int) -> Source:
    return pretrain("cnn", train, epochs=epochs, lr=lr, batch_size=_BATCH, random_state=seed)


def _best_rate(train: Dataset, further: Dataset, epochs: int, seed: int) -> float:
    """The learning rate at which scratch does best on pictures that are used for nothing else."""
    scores = {lr: _own_accuracy(_scratch(train, lr, epochs, seed), further) for lr in _RATES}
    return max(scores, key=lambda lr: scores[lr])


def _own_accuracy(source: Source, test: Dataset) -> float:
    """Accuracy of a network's own classifier."""
    rows = extract(source, test, layers=["classifier"], precision="fp32").rows("classifier", test)
    return _share([test.classes[i] for i in rows.argmax(1)], test.targets)


def _share(labels: Sequence[Any], truth: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(labels, truth)]))


def _layers(source: Source, predictors: Sequence[Predictor]) -> tuple[Tried, ...]:
    """Every candidate layer with its cross-validated accuracy on the examples, and how often it was chosen."""
    chosen = [predictor.layers for predictor in predictors]
    scores: dict[str, list[float]] = {}
    for predictor in predictors:
        for selection in predictor.chosen["selection"].values():
            for row in selection["table"]:
                scores.setdefault(row["layers"], []).append(row["score"])
    tried = []
    for layer in source.layers:
        if layer.name in scores:
            flat = resolve("auto", axes=layer.axes, shape=layer.shape) == "flatten"
            numbers = int(np.prod(layer.shape)) if flat else layer.shape[0]
            often = sum(layer.name in layers for layers in chosen)
            what = _WHAT.get(layer.name, layer.kind)
            tried.append(Tried(layer.name, what, numbers, float(np.mean(scores[layer.name])), often))
    return tuple(tried)


def _check(**numbers: int) -> None:
    least = {"repeats": 2, "per_class": 2, "source_epochs": 1, "epochs": 1}
    wrong = [f"{name} must be at least {least[name]}; got {n}." for name, n in numbers.items() if not n >= least[name]]
    if wrong:
        raise OptionError("\n".join(wrong))


def _folder(output: str | Path) -> Path:
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"Cannot make the folder {folder}: {reason}. Give another output folder.") from error
    return folder


@contextmanager
def _calm() -> Iterator[None]:
    """One thread, and a bank of its own that is thrown away.

    Steps of ten small pictures take milliseconds: with several threads they mostly wait for each other, the more so
    when the machine has other things to do (measured: 10 × the time). A bank from before would hide what it costs.
    """
    threads, cache = torch.get_num_threads(), os.environ.get("HEADSTART_CACHE")
    with tempfile.TemporaryDirectory(prefix="headstart-demo-") as folder, threadpool_limits(1):
        torch.set_num_threads(1)
        os.environ["HEADSTART_CACHE"] = folder
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if cache is None:
                del os.environ["HEADSTART_CACHE"]
            else:
                os.environ["HEADSTART_CACHE"] = cache
