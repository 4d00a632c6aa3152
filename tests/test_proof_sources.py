"""prove() over every family of sources and every way that data comes: the same questions, whatever is asked."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import headstart as hs
import networks
from headstart._base.progress import listening
from headstart.cli import run as program
from headstart.dataset import Dataset
from headstart.errors import HeadstartError, UnknownName
from headstart.pretraining import pretrain
from headstart.proof import few_shot_splits, prove
from headstart.result import Proof
from headstart.sources import Source, load_source
from listeners import Notes
from networks import image_source, picture_data, separable, vector_source

QUICK = {"shots": (2,), "repeats": 2, "steps": 2, "policy": "frozen"}
EVERYBODY = {"raw", "random", "scratch", "frozen"}
WORDS = "a cat sat on the warm mat while two dogs ran far away".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def sentences(n: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 5)) + (" cat" if i % 2 else " dogs") for i in range(n)]
    return Dataset.from_arrays(texts, ["cat" if i % 2 else "dogs" for i in range(n)])


def photos(folder, n: int = 12):
    """Class folders of small pictures that differ in brightness."""
    rng = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 120)):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            pixels = rng.integers(low, low + 100, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def whole(proof: Proof, names=EVERYBODY) -> None:
    """What must hold for every proof."""
    assert {row.name for row in proof.rows} == set(names)
    assert proof.helps in (True, False, None) and proof.verdict.endswith(".")
    assert all(0 <= row.low <= row.accuracy <= row.high <= 1 for row in proof.rows)
    assert {gain.baseline for gain in proof.gains} == set(names) & {"raw", "random", "scratch"}
    assert json.loads(json.dumps(proof.to_dict(), allow_nan=False))["kind"] == "Proof"


class TestFamilies:
    def test_module(self):
        whole(prove(image_source(networks.Normed), picture_data(24), **QUICK))

    def test_cnn(self):
        data = picture_data(24, side=12, channels=1)
        whole(prove(pretrain("cnn", data, epochs=1, image_size=12), data, **QUICK))

    def test_saved(self, tmp_path):
        data = picture_data(24, side=12)
        source = pretrain("cnn", data, epochs=1, image_size=12)
        saved = load_source(f"saved:{source.save(tmp_path / 'saved')}")
        item, other = (prove(s, data, checkpoint=tmp_path / s.name, **QUICK) for s in (source, saved))
        assert [row.scores for row in item.rows] == [row.scores for row in other.rows], "the same weights"

    def test_a_tuned_source_can_be_proven_again(self):
        data = picture_data(24, side=16)
        first = hs.fit(image_source(networks.Normed), data, policy=hs.policy("full", epochs=1), guard=False)
        whole(prove(first.source, data, **QUICK))

    @pytest.mark.slow
    def test_hf(self, tmp_path):
        pytest.importorskip("transformers")
        from tiny_models import bert_folder

        whole(prove(f"hf:{bert_folder(tmp_path / 'bert')}", sentences(), **QUICK))

    @pytest.mark.slow
    def test_timm(self):
        pytest.importorskip("timm")
        source = load_source("timm:test_efficientnet", pretrained=False)
        whole(prove(source, picture_data(24, side=32), layers="last", **QUICK))

    @pytest.mark.slow
    def test_keras(self, tmp_path):
        pytest.importorskip("keras")
        from tiny_models import keras_file

        whole(prove(f"keras:{keras_file(tmp_path / 'a.keras')}", picture_data(24), **QUICK))

    def test_vectors(self):
        X, y = separable(24, classes=2)
        whole(prove(vector_source(networks.Dense), Dataset.from_arrays(X, [f"c{c}" for c in y]), **QUICK))

    def test_recurrent(self):
        X, y = separable(24, classes=2)
        whole(prove(vector_source(networks.Recurrent), Dataset.from_arrays(X, [f"c{c}" for c in y]), **QUICK))

    def test_sounds(self):
        class Front(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.relu, self.pool = nn.Conv1d(1, 4, 9, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1)
                self.last = nn.Linear(4, 2)

            def forward(self, x):
                return self.last(self.pool(self.relu(self.conv(x[:, None]))).flatten(1))

        source = Source.from_module(
            networks.seeded(Front), modality="audio", shape=(800,), preprocess=lambda clip: clip.samples[:800]
        )
        tones = np.sin(np.outer([0.1 + 0.3 * (i % 2) for i in range(24)], np.arange(1600))).astype(np.float32)
        labels = ["low" if i % 2 == 0 else "high" for i in range(24)]
        tones += np.random.default_rng(0).normal(0, 0.1, tones.shape).astype(np.float32)
        proof = prove(source, Dataset.from_arrays(tones, labels, modality="audio", sample_rate=8_000), **QUICK)
        whole(proof)
        assert "log-mel energies" in proof.table


class TestData:
    def test_folders_with_parts(self, tmp_path):
        for part in ("train", "test"):
            photos(tmp_path / "all" / part, n=8)
        # the two parts hold the same pictures: copies of test items are no training items
        with pytest.raises(HeadstartError):
            prove("fake:image", Dataset.from_folder(tmp_path / "all"), **QUICK)

    def test_a_folder(self, tmp_path):
        proof = prove("fake:image", Dataset.from_folder(photos(tmp_path / "photos")), **QUICK)
        whole(proof)
        assert proof.provenance["test_items"] in (7, 8)

    def test_a_table_with_groups(self, tmp_path):
        photos(tmp_path / "photos")
        table = tmp_path / "table.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "camera"])
            for i, path in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
                writer.writerow([path.relative_to(tmp_path), path.parent.name, f"c{i % 6}"])
        data = Dataset.from_table(table, "path", "label", groups="camera")
        proof = prove("fake:image", data, **QUICK)
        assert any("of its own: the intervals speak for" in note for note in proof.notes)

    def test_labels_that_are_missing(self):
        data = picture_data(30)
        data = data.with_targets([None if i < 6 else y for i, y in enumerate(data.targets)])
        whole(prove("fake:image", data, **QUICK))

    @given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.lists(st.integers(1, 300), min_size=2, max_size=5))
    def test_numbers_of_labels_that_there_are(self, shots, sizes):
        notes: list[str] = []
        remaining, extra_shots = few_shot_splits._feasible_shots(shots, np.array(sizes), notes)
        assert set(remaining) <= set(shots) and all(k <= max(sizes) for k in (*remaining, *extra_shots))
        assert list(remaining) == sorted(set(remaining)) and list(extra_shots) == sorted(set(extra_shots))
        assert not set(remaining) & set(extra_shots) and all(k > max(remaining) for k in extra_shots)
        assert all(k <= 8 * max(remaining) for k in extra_shots)
        assert bool(notes) >= (len(remaining) < len(set(shots)))


class TestArguments:
    def test_an_address_is_a_source(self):
        item, other = (prove(s, picture_data(24), **QUICK) for s in ("fake:image", load_source("fake:image")))
        assert item == other, "and it was read, not run again"

    def test_layers_that_are_named(self):
        source = load_source("fake:image")
        name = source.select("last")[0]
        whole(prove(source, picture_data(24), layers=[name], pooling="avg", **QUICK))
        with pytest.raises(UnknownName):
            prove(source, picture_data(24), layers=["nowhere"], **QUICK)

    def test_one_number_of_labels(self):
        proof = prove("fake:image", picture_data(24), **{**QUICK, "shots": 2})
        assert {gain.shots for gain in proof.gains} == {None, 2}

    def test_finished_runs_are_in_the_cache_folder(self, tmp_path):
        prove("fake:image", picture_data(24), **QUICK)
        (folder,) = (tmp_path / "cache" / "proofs").iterdir()
        names = {path.stem for path in folder.iterdir()}
        assert {"plan", "raw-2-0", "random-2-1", "scratch-2-0", "frozen-2-1", "rate-2"} <= names

    def test_policies_of_any_kind(self):
        for policy in ("full", hs.policy("last_layers", layers=1, epochs=1)):
            proof = prove(image_source(networks.Normed), picture_data(30), **{**QUICK, "policy": policy})
            whole(proof, EVERYBODY | {"fine-tuned"})
            assert any("Fine-tuned weights were kept in" in note for note in proof.notes)

    def test_says_little_while_it_runs(self):
        with listening(heard := Notes()):
            prove("fake:image", picture_data(24), **QUICK)
        assert len(heard) <= 4 and sum("Plan: " in text for text in heard) == 1


class TestProgram:
    """``headstart prove`` in this process."""

    WORDS = ("--source", "fake:image", "--shots", "2", "--repeats", "2", "--budget", "6", "--policy", "frozen")

    def test_json_is_the_proof(self, tmp_path, capsys):
        assert program(["prove", str(photos(tmp_path / "p")), *self.WORDS, "--json"]) == 0
        whole(Proof.from_dict(json.loads(capsys.readouterr().out)))

    def test_quiet(self, tmp_path, capsys):
        assert program(["prove", str(photos(tmp_path / "p")), *self.WORDS, "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert "labels per class" in out and "Plan" not in err

    def test_a_folder_is_no_file(self, tmp_path, capsys):
        assert program(["prove", str(photos(tmp_path / "p")), *self.WORDS, "-o", str(tmp_path)]) == 1
        assert "is a folder" in capsys.readouterr().err

    def test_one_target(self, tmp_path, capsys):
        table = tmp_path / "t.csv"
        table.write_text("text,a,b\nhello,x,y\nworld,y,x\n")
        words = ["prove", str(table), "--source", "lstm:lstm", "--target", "a", "--target", "b"]
        assert program(words) == 1 and "one --target" in capsys.readouterr().err
