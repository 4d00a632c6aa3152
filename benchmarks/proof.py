"""Claim: ``prove`` says what transfer is worth, and does not claim help where there is none.

Real data and weights: photos of rubbish (trashnet) and hand signs (sign_digits) with MobileNetV2, spoken digits of
unseen speakers (fsdd) with YAMNet, and trashnet with its labels shuffled. ``--null 40`` counts false claims: so many
proofs with labels that mean nothing, each with other labels and another seed, by a small network that has learned
digits. Runs that were finished before are read from the cache folder; the seconds reported are those that they took.

    python benchmarks/proof.py [--only trashnet fsdd sign_digits shuffled] [--budget 600] [--null 40] [--save]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from _parts import DATA, keep, machine, saved_report, words

import headstart as hs

MOBILENET = f"timm:{DATA / 'weights' / 'mobilenetv2_100.imagenet'}"
YAMNET = f"timm:{DATA / 'weights' / 'mobilenetv1_100.audioset_yamnet'}"


def shuffled(data: hs.Dataset, seed: int) -> hs.Dataset:
    """The same labels, dealt to other items."""
    return data.with_targets([data.targets[i] for i in np.random.default_rng(seed).permutation(len(data))])


def trashnet() -> tuple[str, hs.Dataset]:
    return MOBILENET, hs.Dataset.from_folder(DATA / "images/trashnet")


def sign_digits() -> tuple[str, hs.Dataset]:
    return MOBILENET, hs.Dataset.from_folder(DATA / "images/sign_digits")


def fsdd() -> tuple[str, hs.Dataset]:
    options = {"input": "path", "target": "digit", "task": "classification", "groups": "speaker", "split": "split"}
    return YAMNET, hs.Dataset.from_table(DATA / "audio/fsdd.csv", **options)


TASKS = {
    "trashnet": trashnet,
    "fsdd": fsdd,
    "sign_digits": sign_digits,
    "shuffled": lambda: (MOBILENET, shuffled(trashnet()[1], 0)),
}


def proven(name: str, budget: float, repeats: int) -> dict[str, object]:
    """One proof."""
    source, data = TASKS[name]()
    shots = (16,) if name == "shuffled" else (4, 16)
    proof = hs.prove(source, data, shots=shots, repeats=repeats, budget=budget, random_state=0)
    print(f"\n{name}, {proof.cost['seconds']:.0f} s\n\n{proof}")
    record = proof.to_dict()
    record["provenance"]["source"] = Path(record["provenance"]["source"]).name
    record["skipped"] = len(record["skipped"])
    return {"labels_saved": str(proof.labels_saved), **{k: record[k] for k in (
        "verdict", "helps", "rows", "gains", "labels", "time_saved", "notes", "cost", "provenance")}}  # fmt: skip


def null(times: int) -> dict[str, object]:
    """How often help, or harm, is claimed where labels mean nothing."""
    from headstart.demo.demo import tasks

    low, high = tasks()
    source = hs.pretrain("cnn", low, epochs=8)
    message: list[bool | None] = []
    for seed in range(times):
        small = high.sample(n=240, random_state=seed)
        with tempfile.TemporaryDirectory() as folder:
            proof = hs.prove(
                source, shuffled(small, seed), shots=(4, 16), repeats=3, steps=40, checkpoint=folder, random_state=seed
            )
        message.append(proof.helps)
        print(seed, proof.verdict)
    counts = {"help": message.count(True), "harm": message.count(False), "neither": message.count(None)}
    return {"proofs": times, "claimed": counts, "false_help_rate": message.count(True) / times}


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--null", type=int, default=0)
    requested = parser.parse_args()
    report = {**saved_report("proof"), "machine": machine()}
    for name in requested.restrict:
        report[name] = proven(name, requested.budget, requested.repeats)
        if requested.save:
            keep("proof", report)
    if requested.null:
        report["labels that mean nothing"] = null(requested.null)
        print(report["labels that mean nothing"])
    if requested.save:
        keep("proof", report)


if __name__ == "__main__":
    main()
