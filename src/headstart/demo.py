"""demo(): does transfer help? Digits 5–9 from a few examples each, with what was learned on digits 0–4. Floor 7.

The data are the 8 × 8 digits that come with scikit-learn, so nothing is fetched. A small convolutional network learns
the digits 0–4 (the source task). Then the digits 5–9 (the target task) are learned from a handful of labelled examples in
three ways, on the same examples and measured on the same pictures:

* *scratch*: the same network from random weights, at the learning rate that does best on 400 further labelled pictures,
  which the other two never see: that favours scratch;
* *frozen*: the source's features and a solved head; the layers are found by cross-validation on the examples alone;
* *fine-tuned*: that, then all weights below the head moved at a small learning rate.

This is repeated with other examples; every row has the 95 % interval of its mean over the repeats.
"""

from __future__ import annotations

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

from headstart._files import write_atomic
from headstart._intervals import Metric, paired_difference
from headstart._progress import track
from headstart._records import plain
from headstart.dataset import Dataset
from headstart.errors import OptionError, StoreError
from headstart.extraction import extract
from headstart.policies.base import policy
from headstart.predictor import Predictor
from headstart.pretraining import pretrain
from headstart.sources.base import Source
from headstart.transfer import fit

_RATES = (3e-4, 1e-3, 3e-3)  # tried for scratch
_BATCH = 10
_TEST = 0.5
_WHAT = {
    "relu1": "first convolution, averaged",
    "pool1": "first pooling, averaged",
    "relu2": "second convolution, averaged",
    "flatten": "second pooling, every number",
    "relu3": "last dense layer",
}


@dataclass(frozen=True)
class Row:
    """One way to learn the target task: mean accuracy over the repeats with its 95 % interval, seconds per repeat."""

    name: str
    accuracy: float
    low: float
    high: float
    seconds: float
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Tried:
    """A candidate layer: what it is, how many numbers it gives, its cross-validated accuracy, whether it was chosen."""

    layer: str
    what: str
    numbers: int | None
    accuracy: float
    low: float
    high: float
    chosen: bool


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    rows : tuple of Row
        scratch, frozen, fine-tuned.
    gain : Metric
        The better transfer row less scratch, repeat by repeat, with its 95 % interval.
    helped : bool
        Whether the interval of the better transfer row lies wholly above that of scratch.
    layers : tuple of Tried
        From the first repeat, the best first.
    predictor : Path
        The better of the two transferred predictors of the first repeat.
    samples : tuple of Path
        Pictures it has not seen.
    """

    rows: tuple[Row, ...]
    gain: Metric
    helped: bool
    verdict: str
    layers: tuple[Tried, ...]
    predictor: Path
    samples: tuple[Path, ...]
    per_class: int
    repeats: int
    scratch_lr: float
    source_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: plain(value) for name, value in vars(self).items()}


def demo(
    output: str | Path = "headstart-demo",
    *,
    repeats: int = 10,
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
        Of the source task, and of each training on the target task.

    Raises
    ------
    OptionError
        Fewer than two repeats, examples or epochs.
    StoreError
        When the folder cannot be written.

    Notes
    -----
    Cost: about 3 s of one processor core per repeat, and 10 s for the source task.
    """
    begun = time.perf_counter()
    _check(repeats=repeats, per_class=per_class, source_epochs=source_epochs, epochs=epochs)
    folder = _folder(output)
    with _quiet_machine():
        source_task, target_task = _tasks()
        source = pretrain("cnn", source_task, epochs=source_epochs, random_state=random_state)
        source_seconds = time.perf_counter() - begun
        pool, test = target_task.split(test_size=_TEST, random_state=random_state)
        draws = [pool.sample(per_class, random_state=random_state + i) for i in range(repeats)]
        lr = _best_rate(draws[0], pool.without(draws[0]), epochs, random_state)
        found: list[_Repeat] = []
        with track("digits 5–9, learned three ways", repeats) as done:
            for number, few in enumerate(draws):
                found.append(_repeat(source, few, test, lr=lr, epochs=epochs, seed=random_state + number))
                done()
        rows = tuple(_row(name, found) for name in ("scratch", "frozen", "fine-tuned"))
        best = max(rows[1:], key=lambda row: row.accuracy)
        predictor = found[0].predictors[best.name].save(folder / "digits.headstart")
    gain = Metric(*paired_difference(np.array(best.accuracies), np.array(rows[0].accuracies)))
    helped = best.low > rows[0].high
    return Demo(
        rows=rows,
        gain=gain,
        helped=helped,
        verdict=_verdict(best, gain, helped),
        layers=_layers(source, found[0].predictors["frozen"]),
        predictor=predictor,
        samples=_samples(test, folder / "digits"),
        per_class=per_class,
        repeats=repeats,
        scratch_lr=lr,
        source_seconds=source_seconds,
        seconds=time.perf_counter() - begun,
    )


@dataclass(frozen=True)
class _Repeat:
    accuracies: dict[str, float]
    seconds: dict[str, float]
    predictors: dict[str, Predictor]


def _repeat(source: Source, few: Dataset, test: Dataset, *, lr: float, epochs: int, seed: int) -> _Repeat:
    """The three ways on the same examples, measured on the same pictures."""
    full = policy("full", epochs=epochs, lr=1e-3, batch_size=_BATCH)
    accuracies, seconds, predictors = {}, {}, {}
    begun = time.perf_counter()
    scratch = _scratch(few, lr, epochs, seed)
    seconds["scratch"] = time.perf_counter() - begun
    accuracies["scratch"] = _own_accuracy(scratch, test)
    for name, how in (("frozen", "frozen"), ("fine-tuned", full)):
        begun = time.perf_counter()
        made = fit(source, few, policy=how, guard=False, precision="fp32", random_state=seed)
        seconds[name] = time.perf_counter() - begun
        accuracies[name] = _share(made.predict(test), test.targets)
        predictors[name] = made
    return _Repeat(accuracies, seconds, predictors)


def _scratch(few: Dataset, lr: float, epochs: int, seed: int) -> Source:
    return pretrain("cnn", few, epochs=epochs, lr=lr, batch_size=_BATCH, random_state=seed)


def _best_rate(few: Dataset, further: Dataset, epochs: int, seed: int) -> float:
    """The learning rate at which scratch does best on pictures that are used for nothing else."""
    scores = {lr: _own_accuracy(_scratch(few, lr, epochs, seed), further) for lr in _RATES}
    return max(scores, key=lambda lr: scores[lr])


def _own_accuracy(source: Source, test: Dataset) -> float:
    """Accuracy of a network's own classifier."""
    rows = extract(source, test, layers=["classifier"], precision="fp32").rows("classifier", test)
    return _share([test.classes[i] for i in rows.argmax(1)], test.targets)


def _share(labels: Sequence[Any], truth: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(labels, truth)]))


def _row(name: str, found: Sequence[_Repeat]) -> Row:
    """Mean over the repeats with Student's 95 % interval."""
    values = np.array([one.accuracies[name] for one in found])
    half = float(stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1)) / np.sqrt(len(values))
    mean, spent = float(values.mean()), float(np.mean([one.seconds[name] for one in found]))
    return Row(name, mean, max(0.0, mean - half), min(1.0, mean + half), spent, tuple(values.tolist()))


def _verdict(best: Row, gain: Metric, helped: bool) -> str:
    points = f"{100 * gain:+.1f} points against scratch"
    if gain.low is not None and gain.high is not None:
        points += f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, repeat by repeat)"
    if helped:
        return f"Transfer helped: {best.name} {points}."
    if gain.low is not None and gain.low > 0:
        return f"Transfer helped a little: {best.name} {points}, but the two intervals above touch."
    return f"Transfer did not clearly help here: {best.name} {points}."


def _layers(source: Source, predictor: Predictor) -> tuple[Tried, ...]:
    """The single layers and the joined ones that cross-validation looked at, the best first."""
    (selection,) = predictor.chosen["selection"].values()
    widths = {layer.name: int(np.prod(layer.shape)) for layer in source.layers}
    pooled = {part.layer: part.pooling for part in predictor.answers[0].parts}
    tried = []
    for row in selection["table"]:
        names = row["layers"].split(" + ")
        flat = all(pooled.get(n, "") == "flatten" or len(source.layer(n).shape) == 1 for n in names)
        numbers = sum(widths[n] if flat or len(source.layer(n).shape) == 1 else source.layer(n).shape[0] for n in names)
        what = _WHAT.get(names[0], "") if len(names) == 1 else "together"
        tried.append(
            Tried(
                row["layers"],
                what,
                numbers,
                row["score"],
                row["low"],
                row["high"],
                row["layers"] == selection["layers"],
            )
        )
    return tuple(tried)


def _tasks() -> tuple[Dataset, Dataset]:
    """Digits 0–4 and digits 5–9 as uint8 pictures, so that the source's own preprocessing resizes them."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    pixels = np.rint(X.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    names = np.array([str(digit) for digit in y])
    low = y < 5
    return Dataset.from_arrays(pixels[low], names[low]), Dataset.from_arrays(pixels[~low], names[~low])


def _samples(test: Dataset, folder: Path) -> tuple[Path, ...]:
    """One picture of each digit that training never saw, as PNG."""
    import io

    from PIL import Image

    places = []
    for digit in test.classes:
        index = list(test.targets).index(digit)
        blob = io.BytesIO()
        Image.fromarray(np.asarray(test.items[index])).save(blob, "PNG")
        places.append(folder / f"{digit}.png")
        write_atomic(places[-1], blob.getvalue())
    return tuple(places)


def _check(**numbers: int) -> None:
    least = {"repeats": 2, "per_class": 2, "source_epochs": 1, "epochs": 1}
    wrong = [f"{k} must be at least {least[k]}; got {v}." for k, v in numbers.items() if not v >= least[k]]
    if wrong:
        raise OptionError("\n".join(wrong))


def _folder(output: str | Path) -> Path:
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"Cannot make the folder {folder}: {error.strerror or error}. Give another output folder."
        ) from error
    return folder


@contextmanager
def _quiet_machine() -> Iterator[None]:
    """One thread, and a bank of its own that is thrown away.

    Steps of ten small pictures take milliseconds: with several threads they mostly wait for each other, the more so
    when the machine has other things to do (measured: 10 × the time). A bank from before would hide what it costs.
    """
    threads, cache = torch.get_num_threads(), os.environ.get("HEADSTART_CACHE")
    with tempfile.TemporaryDirectory(prefix="headstart-demo-") as own:
        torch.set_num_threads(1)
        os.environ["HEADSTART_CACHE"] = own
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if cache is None:
                del os.environ["HEADSTART_CACHE"]
            else:
                os.environ["HEADSTART_CACHE"] = cache
