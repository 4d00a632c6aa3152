"""Claim: features of a network trained on other sounds read connected digits better than the same model from scratch.

Recordings of single digits (FSDD) of one speaker are joined, three to five with short gaps, into clips; speakers of the
test are not in training. Ways to the same small CTC head (one bidirectional LSTM):

* transfer: frames of a middle layer of YAMNet, which learned from AudioSet; the network stays as it is;
* scratch: the same network up to the same layer with initial weights, trained together with the same head;
* small: two convolutions and the same head on the log-mel spectrogram, a size that fits the data, trained together;
* random: frames of the same network with initial weights, frozen, and the same head;
* log-mel: the same head on the spectrogram itself.

The two that start from nothing get what CTC needs: batches of 8 (more steps), a warm-up, clipped gradients, a cosine
to zero and no early stop, because the loss first rests on a plateau where only blanks are said. Their learning rate is
chosen from three on a training speaker who is held out, in runs of full length. The run that counts takes
``--patience`` times the seconds that transfer took in all (features, choice of the layer, heads); the choice of the
rate comes on top. A run of half the length tells whether more time would help; the claim is held against the better of
the two on the test, in favour of scratch. Nobody's training data is varied or masked.

    python benchmarks/connected_digits.py [--train 240] [--test 150] [--patience 4] [--save]
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from _parts import DATA, finish, keep, words
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from headstart.dataset import Dataset
from headstart.extraction import extract, sample_loader
from headstart.metrics import evaluate
from headstart.pooling import reducer
from headstart.predictor import Predictor
from headstart.readers import reader
from headstart.sources import load_source
from headstart.speech_heads import CtcHead, Recogniser, alphabet_of, ctc
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import TrainingConfig
from headstart.training.loop import train
from headstart.transfer import fit

RATE, LAYERS = 8000, ("blocks.2.1", "blocks.3.0", "blocks.3.2")
YAMNET = f"timm:{DATA / 'weights' / 'mobilenetv1_100.audioset_yamnet'}"
RATES = (3e-4, 1e-3, 3e-3)
BATCH = 8


def joined(split: str, n: int, seed: int = 0) -> Dataset:
    """``n`` clips of three to five digits of one speaker each, 50 to 150 ms apart."""
    with open(DATA / "audio" / "fsdd.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    read = reader("audio").read
    clips = [(row["digit"], row["speaker"], read(DATA / "audio" / row["path"]).samples) for row in rows]
    speakers = sorted({speaker for _, speaker, _ in clips})
    rng = np.random.default_rng([seed, split == "test"])
    waves, texts, groups = [], [], []
    for i in range(n):
        own_values = [clip for clip in clips if clip[1] == speakers[i % len(speakers)]]
        picked = [own_values[j] for j in rng.integers(0, len(own_values), rng.integers(3, 6))]
        parts = [np.zeros(rng.integers(400, 1200), np.float32)]
        for _, _, samples in picked:
            parts += [samples, np.zeros(rng.integers(400, 1200), np.float32)]
        waves.append(np.concatenate(parts))
        texts.append(" ".join(digit for digit, _, _ in picked))
        groups.append(own_values[0][1])
    return Dataset.from_arrays(
        waves, texts, task="transcription", groups=groups, modality="audio", sample_rate=RATE
    )  # fmt: skip


def scored(truth: Sequence[str], found: Sequence[str]) -> dict[str, list[float]]:
    metrics = evaluate("transcription", list(truth), list(found))
    return {name: [round(float(v), 4) for v in (m, m.low, m.high)] for name, m in metrics.items()}


class Yamnet(nn.Module):
    """The source's network up to a layer, with initial weights: patches of clips → frames of each clip."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.source, self.layer = load_source(YAMNET, pretrained=False, seed=0), layer
        self.network = self.source.module.requires_grad_(True).to(memory_format=torch.channels_last)
        self.reduce = reducer("frames", self.source.layer(layer).axes)

    def prepared(self, data: Dataset) -> list[Any]:
        read = sample_loader(self.source, data)
        return [read(i) for i in range(len(data))]

    def forward(self, samples: list[Any]) -> list[torch.Tensor]:
        batch = self.source.input.collate(samples)
        x = self.source.input.tensors(batch, torch.device("cpu"), torch.float32)["x"]
        tensors = {"x": x.contiguous(memory_format=torch.channels_last)}
        return self.source.run(tensors, {self.layer: lambda out: self.reduce(out, batch)})[self.layer]


class Small(nn.Module):
    """Two convolutions on the log-mel spectrogram: a quarter of its frames, of 64 maps over 16 bands."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.Conv2d(32, 64, 3, 2, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(32), nn.BatchNorm2d(64)])

    def prepared(self, data: Dataset) -> list[torch.Tensor]:
        bank = extract(load_source("identity:audio"), data, layers="last", pooling="frames", store=False)
        return [torch.from_numpy(np.array(item)) for item in bank.sequences(bank.layers[0], data)]

    def forward(self, samples: list[torch.Tensor]) -> list[torch.Tensor]:
        # -3.7 and 2.7: about the mean and spread of log-mel values, so that the padding, 0, is an average sound
        x = pad_sequence([(item + 3.7) / 2.7 for item in samples], batch_first=True)[:, None]
        lengths = torch.tensor([len(item) for item in samples])
        for convolution, norm in zip((self.first, self.second), self.norms):
            lengths = (lengths + 1) // 2
            x = torch.relu(norm(convolution(x)))
            x = x * (torch.arange(x.shape[2]) < lengths[:, None])[:, None, :, None]  # padding stays silent
        frames = x.permute(0, 2, 1, 3).flatten(2)
        return [item[:length] for item, length in zip(frames, lengths.tolist())]


class Twin:
    """A front with initial weights and the CTC head, trained together."""

    def __init__(self, front: nn.Module, samples: list[Any], texts: Sequence[str], head: CtcHead) -> None:
        self.front, self.samples, self.texts = front, samples, list(texts)
        self.alphabet = alphabet_of(self.texts)
        with torch.no_grad():
            subset = [item.numpy() for item in front.train()(samples[:32])]
        self.recogniser = Recogniser.fresh(head, self.alphabet, subset)
        sum(item.sum() for item in front(samples[:2])).backward()  # what lies behind the layer gets no gradient
        moving = {f"front.{name}": p for name, p in front.named_parameters() if p.grad is not None}
        head_end = {f"head.{name}": p for name, p in self.recogniser.network.named_parameters()}
        self.groups = [ParameterGroup(moving), ParameterGroup(head_end)]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for group in self.groups for p in group.parameters.values())

    def train(self, lr: float, epochs: int) -> list[float]:
        """The mean loss of every epoch."""
        numbers = [torch.tensor(self.alphabet.numbers(text)) for text in self.texts]
        self.front.train()
        self.recogniser.network.train()

        def loss(indices: np.ndarray, generator: torch.Generator) -> torch.Tensor:
            frames = self.front([self.samples[i] for i in indices])
            lengths = torch.tensor([len(item) for item in frames])
            scores = self.recogniser.network(pad_sequence(frames, batch_first=True), lengths).log_softmax(2)
            expected = [numbers[i] for i in indices]
            sizes = torch.tensor([len(item) for item in expected])
            return functional.ctc_loss(
                scores.transpose(0, 1), torch.cat(expected), lengths, sizes, zero_infinity=True
            )  # fmt: skip

        options = TrainingConfig(epochs=epochs, batch_size=BATCH, lr=lr, weight_decay=1e-2, clip=5.0, warmup=0.1)
        history = train(self.groups, loss, len(self.texts), config=options, buffers=dict(self.front.named_buffers()))
        return history.loss

    def read(self, samples: list[Any]) -> list[str]:
        self.front.eval()
        with torch.no_grad():
            result = [item.numpy() for i in range(0, len(samples), 16) for item in self.front(samples[i : i + 16])]
        return self.recogniser.texts(result)


def from_scratch(
    make: Callable[[], Any], data: Dataset, test: Dataset, head: CtcHead, seconds: float
) -> dict[str, object]:
    """The rate chosen on a held-out speaker, then half of ``seconds`` and all of it on everything."""
    samples, unseen, held_out = make().prepared(data), make().prepared(test), data.groups[0]
    fitting, rest = ([i for i, g in enumerate(data.groups) if (g == held_out) == out] for out in (False, True))

    def trained(lr: float, epochs: int, which: Sequence[int]) -> tuple[Twin, list[float], float]:
        twin = Twin(make(), [samples[i] for i in which], [data.targets[i] for i in which], head)
        begun = time.perf_counter()
        losses = twin.train(lr, epochs)
        return twin, losses, time.perf_counter() - begun

    everything = range(len(data))
    epochs = max(2, round(2 * seconds / trained(RATES[0], 2, everything)[2]))
    errors, spent = {}, 0.0
    for lr in RATES:
        twin, _, took = trained(lr, epochs, fitting)
        message = twin.read([samples[i] for i in rest])
        errors[lr] = scored([data.targets[i] for i in rest], message)["cer"][0]
        spent += took
        print("held-out cer at", lr, errors[lr], f"{took:.0f} s", flush=True)
    best = min(errors, key=lambda lr: errors[lr])
    rows = []
    for count in (epochs // 2, epochs):
        twin, losses, took = trained(best, count, everything)
        course = [round(item, 3) for item in (*losses[:: max(1, count // 10)], losses[-1])]
        rows.append({**scored(test.targets, twin.read(unseen)), "seconds": round(took, 1), "epochs": count,
                     "steps": count * -(-len(data) // BATCH), "loss, every tenth of the way": course})  # fmt: skip
        print(rows[-1], flush=True)
    return {**rows[1], "half as long": rows[0], "lr": best, "held-out cer by lr": errors,
            "seconds of choosing": round(spent, 1), "parameters": twin.parameters}  # fmt: skip


def transferred(data: Dataset, test: Dataset) -> tuple[dict[str, object], Predictor]:
    start = time.perf_counter()
    predictor = fit(load_source(YAMNET), data, layers=LAYERS, head="bilstm", store=False, precision="fp32")
    seconds = round(time.perf_counter() - start, 1)
    answer = predictor.targets[0]
    plain = dataclasses.replace(answer.recogniser, head=dataclasses.replace(answer.recogniser.head, beam=1))
    item = dataclasses.replace(predictor, targets=(dataclasses.replace(answer, recogniser=plain),))
    row = {**scored(test.targets, predictor.predict(test)), "layer": predictor.layers[0], "seconds": seconds}
    return {**row, "best path instead of beam": scored(test.targets, item.predict(test))}, predictor


def best_rates(report: dict[str, Any]) -> list[float]:
    """The lowest word error rate of every rival so far, whichever of its runs it comes from."""
    rivals = [row for name, row in report.items() if isinstance(row, dict) and name != "transfer"]
    return [min(row["wer"][0], row.get("half as long", row)["wer"][0]) for row in rivals]


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--patience", type=float, default=4.0)
    parser.add_argument("--only", nargs="+", default=["random", "log-mel", "scratch", "small"])
    requested = parser.parse_args()
    data, test = joined("train", requested.train), joined("test", requested.test)
    report: dict[str, Any] = {"train": len(data), "test": len(test), "threads": torch.get_num_threads()}
    report["seconds per clip"] = round(sum(map(len, data.items)) / RATE / len(data), 2)
    report["transfer"], predictor = transferred(data, test)
    print(report, flush=True)
    layer, head = predictor.layers[0], predictor.targets[0].recogniser.head
    frozen = {
        "random": (load_source(YAMNET, pretrained=False), layer),
        "log-mel": (load_source("identity:audio"), "last"),
    }
    fronts = {"small": Small, "scratch": lambda: Yamnet(layer)}
    for name in requested.only:
        if name in frozen:
            start = time.perf_counter()
            source, where = frozen[name]
            other = fit(source, data, layers=where, head=ctc("bilstm"), store=False, precision="fp32")
            row = scored(test.targets, other.predict(test))
            report[name] = {**row, "seconds": round(time.perf_counter() - start, 1)}
        else:
            seconds = requested.patience * report["transfer"]["seconds"]
            report[name] = from_scratch(fronts[name], data, test, head, seconds)
        print(name, report[name], flush=True)
        report["holds"] = all(report["transfer"]["wer"][0] < wer for wer in best_rates(report))
        if requested.save:
            keep("connected_digits", report)
    finish("connected_digits", report, save=requested.save)


if __name__ == "__main__":
    main()
