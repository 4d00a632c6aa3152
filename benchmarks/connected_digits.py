"""Claim: features of a network trained on other sounds read connected digits better than the same model from scratch.

Recordings of single digits (FSDD) of one speaker are joined, three to five with short gaps, into clips; speakers of the
test are not in training. Four ways to the same small CTC head (one bidirectional LSTM):

* transfer: frames of a middle layer of YAMNet, which learned from AudioSet; the network stays as it is;
* scratch: the same network up to the same layer with initial weights, trained together with the same head for as many
  seconds as ``--patience`` times the whole of transfer (features included), its learning rate chosen on a training
  speaker who was held out;
* random: frames of the same network with initial weights, frozen, and the same head;
* log-mel: the same head on the spectrogram itself.

    python benchmarks/connected_digits.py [--train 240] [--test 150] [--patience 6] [--save]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from _features import DATA
from torch.nn import functional

from headstart.ctc import Recogniser, alphabet_of, ctc
from headstart.dataset import Dataset
from headstart.extraction import reading
from headstart.metrics import evaluate
from headstart.pooling import reducer
from headstart.readers import reader
from headstart.sources import load_source
from headstart.training import Group, Schedule, train
from headstart.transfer import fit

HERE = Path(__file__).resolve().parent
RATE, LAYERS = 8000, ("blocks.2.1", "blocks.3.0", "blocks.3.2")
YAMNET = f"timm:{DATA / 'weights' / 'mobilenetv1_100.audioset_yamnet'}"
RATES = (1e-3, 3e-3)


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
        own = [clip for clip in clips if clip[1] == speakers[i % len(speakers)]]
        picked = [own[j] for j in rng.integers(0, len(own), rng.integers(3, 6))]
        parts = [np.zeros(rng.integers(400, 1200), np.float32)]
        for _, _, samples in picked:
            parts += [samples, np.zeros(rng.integers(400, 1200), np.float32)]
        waves.append(np.concatenate(parts))
        texts.append(" ".join(digit for digit, _, _ in picked))
        groups.append(own[0][1])
    return Dataset.from_arrays(
        waves, texts, task="transcription", groups=groups, modality="audio", sample_rate=RATE
    )  # fmt: skip


def scored(truth, found) -> dict[str, list[float]]:
    metrics = evaluate("transcription", list(truth), found)
    return {name: [round(float(v), 4) for v in (m, m.low, m.high)] for name, m in metrics.items()}


class Scratch:
    """The source's network with initial weights and the CTC head, trained together."""

    def __init__(self, layer: str, data: Dataset, head, seed: int = 0) -> None:
        self.source, self.layer, self.head = load_source(YAMNET, pretrained=False, seed=seed), layer, head
        read = reading(self.source, data)
        self.samples = [read(i) for i in range(len(data))]
        self.texts = list(data.targets)
        self.alphabet = alphabet_of(self.texts)
        self.reduce = reducer("frames", self.source.layer(layer).axes)

    def frames(self, samples) -> list[torch.Tensor]:
        batch = self.source.input.collate(samples)
        tensors = self.source.input.tensors(batch, torch.device("cpu"), torch.float32)
        tensors = {"x": tensors["x"].contiguous(memory_format=torch.channels_last)}
        network = self.source.network
        return self.source.run(network, tensors, {self.layer: lambda out: self.reduce(out, batch)})[self.layer]

    def train(self, which, lr: float, seconds: float) -> int:
        network = self.source.network.train().to(memory_format=torch.channels_last)
        with torch.no_grad():
            some = [f.numpy() for f in self.frames([self.samples[i] for i in which[:32]])]
        self.recogniser = Recogniser.fresh(self.head, self.alphabet, some)
        numbers = [torch.tensor(self.alphabet.numbers(self.texts[i])) for i in which]

        def loss(indices, generator):
            frames = self.frames([self.samples[which[i]] for i in indices])
            lengths = torch.tensor([len(f) for f in frames])
            batch = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
            scores = self.recogniser.network.train()(batch, lengths).log_softmax(2).transpose(0, 1)
            wanted = [numbers[i] for i in indices]
            sizes = torch.tensor([len(w) for w in wanted])
            return functional.ctc_loss(scores, torch.cat(wanted), lengths, sizes, zero_infinity=True)

        end = self.source.network.named_parameters()
        groups = [Group(dict(end)), Group({f"head.{k}": p for k, p in self.recogniser.network.named_parameters()})]
        how = Schedule(epochs=200, batch_size=self.head.batch_size, lr=lr, weight_decay=1e-2, clip=5.0, budget=seconds)
        history = train(groups, loss, len(which), schedule=how, buffers=dict(network.named_buffers()))
        return len(history.loss)

    def texts_of(self, samples) -> list[str]:
        self.source.network.eval()
        with torch.no_grad():
            found = [f.numpy() for i in range(0, len(samples), 16) for f in self.frames(samples[i : i + 16])]
        return self.recogniser.texts(found)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--train", type=int, default=240)
    words.add_argument("--test", type=int, default=150)
    words.add_argument("--patience", type=float, default=6.0)
    words.add_argument("--save", action="store_true")
    asked = words.parse_args()
    data, test = joined("train", asked.train), joined("test", asked.test)
    report: dict[str, object] = {"train": len(data), "test": len(test), "threads": torch.get_num_threads()}
    report["seconds per clip"] = round(sum(map(len, data.items)) / RATE / len(data), 2)

    start = time.perf_counter()
    predictor = fit(load_source(YAMNET), data, layers=LAYERS, head="bilstm", store=False, precision="fp32")
    spent = time.perf_counter() - start
    layer, head = predictor.layers[0], predictor.answers[0].recogniser.head
    found = predictor.predict(test)
    report["transfer"] = {**scored(test.targets, found), "layer": layer, "seconds": round(spent, 1)}
    answer = predictor.answers[0].recogniser
    plain = dataclasses.replace(answer, head=dataclasses.replace(head, beam=1))
    one = dataclasses.replace(predictor, answers=(dataclasses.replace(predictor.answers[0], recogniser=plain),))
    report["transfer, best path instead of beam"] = scored(test.targets, one.predict(test))
    print(json.dumps(report, indent=1), flush=True)

    for name, source in (("random", load_source(YAMNET, pretrained=False)), ("log-mel", load_source("identity:audio"))):
        start = time.perf_counter()
        where = (layer,) if name == "random" else "last"
        other = fit(source, data, layers=where, head=ctc("bilstm"), store=False, precision="fp32")
        row = scored(test.targets, other.predict(test))
        report[name] = {**row, "seconds": round(time.perf_counter() - start, 1)}
        print(name, report[name], flush=True)

    held = data.groups[0]
    fitting = [i for i, g in enumerate(data.groups) if g != held]
    rest = [i for i, g in enumerate(data.groups) if g == held]
    errors = {}
    budget = asked.patience * spent
    for lr in RATES:
        model = Scratch(layer, data, head)
        epochs = model.train(fitting, lr, budget / 4)
        said = model.texts_of([model.samples[i] for i in rest])
        errors[lr] = scored([data.targets[i] for i in rest], said)["cer"][0]
        print("scratch", lr, epochs, errors[lr], flush=True)
    best = min(errors, key=lambda lr: errors[lr])
    model = Scratch(layer, data, head)
    epochs = model.train(list(range(len(data))), best, budget)
    said = model.texts_of([reading(model.source, test)(i) for i in range(len(test))])
    report["scratch"] = {**scored(test.targets, said), "seconds": round(budget, 1), "epochs": epochs, "lr": best,
                         "held-out cer by lr": errors}  # fmt: skip
    report["holds"] = bool(report["transfer"]["wer"][0] < report["scratch"]["wer"][0])
    text = json.dumps(report, indent=1)
    print(text)
    if asked.save:
        (HERE / "results" / "connected_digits.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
