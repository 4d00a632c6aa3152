"""How a source is run: measured once, remembered, reused; what is damaged is measured again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.engines import ENGINES, RuntimeConfig
from headstart.errors import MissingPackage, NumericsError, SourceError, StoreError, UnknownName
from headstart.extraction import autotune, extract
from headstart.extraction.autotune import choose_runtime, device_name, min_cosine, probe_layers
from headstart.sources import load_source
from listeners import Notes
from networks import image_source, picture_data, pictures, vector_source, vectors

AUTO = {"engine": "auto", "precision": "auto", "device": "cpu"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source():
    return load_source("fake:image")


def drawn(source, n=8):
    return lambda: [source.input.prepare(p) for p in pictures(n)]


def never():
    raise AssertionError("nothing has to be measured")


def remembered(cache) -> list[Path]:
    return sorted((cache / "choices").glob("*.json"))


class Fake:
    """An engine whose speed and fidelity are given: seconds per call, by precision."""

    seconds: dict[str, float] = {"fp32": 0.004, "bf16": 0.001}
    noise: dict[str, float] = {"fp32": 0.0, "bf16": 0.0}
    clock = 0.0
    made: list[str] = []

    def __init__(self, source, reduce, choice):
        self.reduce, self.choice = reduce, choice
        type(self).made.append(f"{choice.engine} {choice.precision}")

    def __call__(self, batch):
        type(self).clock += self.seconds[self.choice.precision] * (1 + len(batch) / 100)
        rows = np.random.default_rng(0).normal(size=(1, 30)).repeat(len(batch), 0)
        return dict.fromkeys(self.reduce, rows + self.noise[self.choice.precision])

    @staticmethod
    def precisions(source, device):
        return ("fp32", "bf16")

    @staticmethod
    def version():
        return {"fake": "1"}


@pytest.fixture
def fake(monkeypatch):
    kind = type("Engine", (Fake,), {"made": [], "clock": 0.0, "seconds": dict(Fake.seconds), "noise": dict(Fake.noise)})
    monkeypatch.setattr(ENGINES, "_table", {"torch": "test_choosing:Engine"})
    monkeypatch.setattr(sys.modules[__name__], "Engine", kind, raising=False)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: kind.clock)
    return kind


# ---- remembering ----------------------------------------------------------------------------------------------------


def test_a_choice_is_measured_once_and_remembered(source, cache):
    first = choose_runtime(source, drawn(source), **AUTO)
    assert first.engine == "torch"
    assert first.speed > 0
    assert first.batch_size in (8, 16, 32)
    assert len(remembered(cache)) == 1
    assert choose_runtime(source, never, **AUTO) == first
    assert choose_runtime(load_source("fake:image"), never, **AUTO) == first


def test_another_process_makes_the_same_choice(source, cache):
    first = choose_runtime(source, drawn(source), **AUTO)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from headstart.extraction import autotune\n"
        "from headstart.sources import load_source\n"
        "def never(): raise SystemExit('measured again')\n"
        "runtime = autotune.choose_runtime(load_source('fake:image'), never, engine='auto', precision='auto',"
        " device='cpu')\n"
        "print(runtime.to_dict())\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(here.parent / "src")], capture_output=True, text=True, check=True,
        env={**os.environ, "HEADSTART_CACHE": str(cache)},
    )  # fmt: skip
    assert done.stdout.strip() == str(first.to_dict())


def test_noise_in_a_later_timing_changes_nothing(source, fake):
    first = choose_runtime(source, drawn(source), **AUTO)
    assert first.precision == "bf16"
    fake.seconds = {"fp32": 0.001, "bf16": 0.1}
    assert choose_runtime(source, never, **AUTO) == first


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"engine": "torch"}', '{"engine": "torch", "precision": "fp32", "colour": 1}',
     '{"engine": "gone", "precision": "fp32", "speed": 3}', '{"engine": "torch", "precision": "fp4", "speed": 3}',
     '{"engine": "torch", "precision": "fp32", "batch_size": 0, "speed": 3}',
     '{"engine": "torch", "precision": "fp32", "batch_size": "8", "speed": 3}',
     '{"engine": "torch", "precision": "fp32", "speed": "fast"}'],
)  # fmt: skip
def test_a_damaged_choice_is_measured_again(source, cache, content):
    first = choose_runtime(source, drawn(source), **AUTO)
    (path,) = remembered(cache)
    path.write_text(content)
    with listening(notes := Notes()):
        again = choose_runtime(source, drawn(source), **AUTO)
    assert again.engine == first.engine
    assert again.speed > 0
    assert RuntimeConfig(**json.loads(path.read_text())) == again
    assert any("measured again" in text for text in notes)


def test_other_weights_questions_and_devices_are_chosen_apart(source, cache, fake):
    choose_runtime(source, drawn(source), **AUTO)
    for kind in ({"engine": "torch"}, {"precision": "fp32"}, {"device": "cuda"}):
        choose_runtime(source, drawn(source), **{**AUTO, **kind})
    other = load_source("fake:image", seed=3)
    choose_runtime(other, drawn(other), **AUTO)
    assert len(remembered(cache)) == 5


def test_the_first_of_two_processes_decides(source, cache, fake):
    """While this one measured, another has written its choice down: all use that one."""

    def meanwhile():
        path = autotune._cache_path(source, ["torch"], AUTO)
        autotune.write_json(path, RuntimeConfig("torch", "fp32", "cpu", 8, 1.0, 77.0).to_dict())
        return drawn(source)()

    assert choose_runtime(source, meanwhile, **AUTO) == RuntimeConfig("torch", "fp32", "cpu", 8, 1.0, 77.0)


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    with listening(notes := Notes()):
        assert choose_runtime(source, drawn(source), **AUTO).speed > 0
    assert any("cannot be remembered" in text for text in notes)
    data = picture_data(3)
    assert extract(source, data, layers="7", store=tmp_path / "store").computed == 3


def test_the_choice_is_said_once(source):
    with listening(notes := Notes()):
        choose_runtime(source, drawn(source), **AUTO)
        choose_runtime(source, drawn(source), **AUTO)
    assert len(notes) == 1
    assert "remembered" in notes[0]
    assert "items/s" in notes[0]


def test_without_samples_nothing_is_remembered(source, cache):
    assert choose_runtime(source, list, **AUTO) == RuntimeConfig("torch", "fp32", "cpu", 16)
    assert choose_runtime(source, list, **{**AUTO, "precision": "bf16"}).precision == "bf16"
    assert remembered(cache) == []


# ---- choosing -------------------------------------------------------------------------------------------------------


def test_the_faster_precision_wins_when_it_is_faithful(source, fake):
    assert choose_runtime(source, drawn(source), **AUTO).precision == "bf16"


def test_a_little_faster_is_not_worth_the_rounding(source, fake):
    fake.seconds["bf16"] = 0.0038
    assert choose_runtime(source, drawn(source), **AUTO).precision == "fp32"


def test_an_unfaithful_precision_is_not_taken(source, fake):
    fake.noise["bf16"] = 30.0
    chosen = choose_runtime(source, drawn(source), **AUTO)
    assert chosen.precision == "fp32"
    assert chosen.cosine == 1.0


def test_the_sources_own_limit_decides(source, fake):
    import dataclasses

    fake.noise["bf16"] = 0.05
    assert choose_runtime(source, drawn(source), **AUTO).precision == "bf16"
    strict = dataclasses.replace(load_source("fake:image", seed=9), minimum_cosine=0.99999)
    assert choose_runtime(strict, drawn(strict), **AUTO).precision == "fp32"


def test_what_overflows_is_not_taken_unless_it_was_asked_for(source, fake, monkeypatch):
    real = fake.__call__

    def overflows(self, batch):
        if self.choice.precision == "bf16":
            raise NumericsError("NaN or infinity at layer 3")
        return real(self, batch)

    monkeypatch.setattr(fake, "__call__", overflows)
    assert choose_runtime(source, drawn(source), **AUTO).precision == "fp32"
    with pytest.raises(NumericsError):
        choose_runtime(source, drawn(source), **{**AUTO, "precision": "bf16"})


def test_a_precision_that_was_asked_for_is_taken_and_its_price_said(source, fake):
    fake.noise["bf16"] = 30.0
    with listening(notes := Notes()):
        chosen = choose_runtime(source, drawn(source), **{**AUTO, "precision": "bf16"})
    assert chosen.precision == "bf16"
    assert chosen.cosine < 0.99
    assert any("in bf16, as asked, are only" in text for text in notes)


def test_the_batch_size_with_the_most_items_per_second(source, fake):
    assert (
        choose_runtime(source, drawn(source), **AUTO).batch_size == 32
    )  # the fake's calls cost nearly the same at any size


def test_everything_given_means_nothing_is_timed(source, fake, cache):
    options = {"engine": "torch", "precision": "bf16", "device": "cpu", "batch_size": 4}
    chosen = choose_runtime(source, drawn(source), **options)
    assert chosen == RuntimeConfig("torch", "bf16", "cpu", 4)
    assert fake.made == ["torch bf16"]  # only to check the source
    assert choose_runtime(source, never, **{**options, "batch_size": 7}) == chosen
    measured = choose_runtime(source, drawn(source), **{**options, "batch_size": None})
    assert measured.speed > 0


def test_the_fastest_engine_of_several(source, fake, monkeypatch):
    slow = type("Slow", (fake,), {"seconds": {"fp32": 0.02, "bf16": 0.02}, "made": []})
    monkeypatch.setattr(sys.modules[__name__], "Slow", slow, raising=False)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: fake.clock + slow.clock)
    monkeypatch.setattr(ENGINES, "_table", {"torch": "test_choosing:Engine", "slow": "test_choosing:Slow"})
    import dataclasses

    for engines in (("torch", "slow"), ("slow", "torch")):
        for precision in ("auto", "bf16", "fp32"):
            both = dataclasses.replace(source, engines=engines)
            chosen = choose_runtime(both, drawn(source), **{**AUTO, "precision": precision})
            assert chosen.engine == "torch", (engines, precision)


def test_engines_that_are_not_installed_are_passed_over(source, fake, monkeypatch):
    class Absent(Fake):
        @staticmethod
        def version():
            raise MissingPackage("The package 'openvino' is needed. pip install openvino")

    monkeypatch.setattr(sys.modules[__name__], "Absent", Absent, raising=False)
    monkeypatch.setattr(ENGINES, "_table", {"torch": "test_choosing:Engine", "absent": "test_choosing:Absent"})
    import dataclasses

    both = dataclasses.replace(source, engines=("absent", "torch"))
    assert choose_runtime(both, drawn(source), **AUTO).engine == "torch"
    with pytest.raises(MissingPackage, match="pip install openvino"):
        choose_runtime(dataclasses.replace(source, engines=("absent",)), drawn(source), **AUTO)


@pytest.mark.parametrize(
    ("how", "said"),
    [({"engine": "tensorrt"}, "engines of fake:image"), ({"precision": "fp8"}, "'fp8' is not one of the precisions")],
)
def test_names_that_are_not_known(source, how, said):
    with pytest.raises(UnknownName, match=said):
        choose_runtime(source, drawn(source), **{**AUTO, **how})


# ---- sources that cannot be relied on -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("make", [networks.BatchStatistics, networks.RandomForward])
@pytest.mark.parametrize("count", [1, 8])
def test_batch_mates_and_chance_are_found_out(make, fixed, count, cache):
    source = image_source(make)
    options = {"engine": "torch", "precision": "fp32", "device": "cpu", "batch_size": 4} if fixed else AUTO
    with pytest.raises(SourceError, match="batch statistics or random numbers"):
        choose_runtime(source, drawn(source, count), **options)
    assert remembered(cache) == []


def test_rare_chance_after_the_last_candidate_is_found_out():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(nn.functional.dropout(self.body(x), 0.9, training=True))

    source = vector_source(Late, classifier="head")
    with pytest.raises(SourceError, match=r"at layer (head|output)"):
        choose_runtime(source, lambda: list(vectors(6)), **AUTO)


def test_numbers_that_are_not_finite_are_said():
    source = vector_source(networks.Dense)
    with torch.no_grad():
        source.module.b.bias[0] = float("inf")
    with pytest.raises(NumericsError, match="NaN or infinity at layer"):
        choose_runtime(source, lambda: list(vectors(6)), **AUTO)


def test_an_honest_network_passes_with_one_item():
    source = image_source(networks.Normed)
    assert choose_runtime(source, drawn(source, 1), **AUTO).speed > 0


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_probes_are_candidates_in_execution_order(source):
    normed = image_source(networks.Normed, classifier="classifier")
    assert list(probe_layers(normed)) == ["blocks.1", "blocks.3", "pool"]
    assert list(probe_layers(normed, include_last=True))[-1] in ("classifier", "output")
    assert set(probe_layers(source)) <= set(source.select("auto"))


def test_least_cosine():
    plain = {"a": np.eye(3), "b": np.ones((3, 4))}
    assert min_cosine(plain, plain) == 1.0
    assert min_cosine(plain, {"a": np.eye(3) * 5, "b": np.ones((3, 4)) * 0.1}) == pytest.approx(1.0)
    turned = np.eye(3)
    turned[1] = [1, 1, 0]
    assert min_cosine(plain, {**plain, "a": turned}) == pytest.approx(0.5**0.5)
    assert min_cosine({"a": np.zeros((2, 3))}, {"a": np.zeros((2, 3))}) == 1.0
    assert min_cosine(plain, {**plain, "a": np.full((3, 3), np.nan)}) == -1.0


def test_device_names():
    assert device_name("cpu") == "cpu"
    assert device_name("cuda:3") == "cuda:3"
    assert device_name("auto") in ("cpu", "cuda", "mps")


def test_fixed_engine_and_precision_are_in_the_recipe(tmp_path):
    data = Dataset.from_arrays(pictures(4))
    options = {"layers": "7", "store": tmp_path, "engine": "torch", "batch_size": 2, "device": "cpu"}
    bank = extract("fake:image", data, precision="bf16", **options)
    result = bank.recipe["7"]
    assert (result["engine"], result["precision"], result["device"]) == ("torch", "bf16", "cpu")
    plain = extract("fake:image", data, precision="fp32", **options)
    assert plain.computed == 4
    a, b = bank.rows("7", data), plain.rows("7", data)
    assert not np.array_equal(a, b)
    assert min_cosine({"7": a}, {"7": b}) > 0.99


def test_a_damaged_cache_folder_is_said_by_the_bank(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError):
        extract("fake:image", picture_data(2), layers="7", engine="torch", precision="fp32", batch_size=2)


@pytest.mark.parametrize(("device", "most"), [("cpu", 32), ("cuda", 128)])
def test_large_batches_are_tried_where_a_processors_cache_is_no_limit(source, device, most, monkeypatch):
    seen = []
    monkeypatch.setattr(autotune, "_items_per_second", lambda engine, batch: float(len(batch)))
    best = autotune._tune_batch_size(
        RuntimeConfig("torch", "fp32", device), lambda batch: seen.append(len(batch)), source, drawn(source)()
    )
    assert (best.batch_size, best.speed) == (most, most)
    assert max(seen) == most
