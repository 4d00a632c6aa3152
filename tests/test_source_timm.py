"""timm's networks: folders, names with local weights, options, and what happens without a network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.dataset import Dataset
from headstart.errors import OfflineError, OptionError, SourceError, StoreError, UnknownName, UnsafeFile, WeightsError
from headstart.extraction import extract
from headstart.sources import load_source
from headstart.sources.weights import hub_folder
from networks import picture_data

timm = pytest.importorskip("timm")
huggingface_hub = pytest.importorskip("huggingface_hub")

SAME = {"pad_type": "same"}
PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4}
TINY = {"pretrained": False, "input": {"input_size": (3, 64, 64)}}


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    return shared / "weights" / "mobilenetv2_100.imagenet"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A small network in timm's local-dir form, with a classifier of five classes."""
    path = tmp_path_factory.mktemp("timm") / "tiny"
    path.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model("test_resnet", num_classes=5)
    save_file(network.state_dict(), path / "model.safetensors")
    cfg = {"input_size": [3, 40, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.9,
           "interpolation": "bicubic", "crop_mode": "squash", "license": "mit"}  # fmt: skip
    (path / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": cfg, "origin": "a test"})
    )
    return path


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    return shutil.copytree(tiny, tmp_path / "copy")


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_brings_its_own_preprocessing(tiny):
    source = load_source(f"timm:{tiny}")
    options = source.input
    assert (options.size, options.mean, options.std) == ((40, 48), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (options.crop_pct, options.crop_mode, options.interpolation) == (0.9, "squash", "bicubic")
    assert source.meta == {"licence": "mit", "origin": "a test", "classes": 5}
    assert source.name == "tiny"
    assert source.classifier == "fc"
    assert source.layer("output").shape == (5,)
    assert not source.module.training


def test_a_real_folder_is_what_timm_makes_of_it(folder, shared, tmp_path):
    source = load_source(f"timm:{folder}")
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours, theirs = source.module.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert source.input.mean == (0.5, 0.5, 0.5)
    data = Dataset.from_items(sorted((shared / "images" / "trashnet").glob("*/*.jpg"))[:3])
    bank = extract(source, data, layers=["blocks.4", "global_pool"], pooling="avg", store=tmp_path, **PLAIN)
    assert bank.rows("blocks.4", data).shape == (3, 96)
    assert bank.rows("global_pool", data).shape == (3, 1280)


def test_blocks_of_a_real_network_are_candidates(folder):
    source = load_source(f"timm:{folder}")
    chosen = source.select("auto")
    assert {"blocks.2", "blocks.4", "blocks.6", "global_pool"} <= set(chosen)
    assert len(chosen) <= 19
    assert not {"blocks", "classifier", "output"} & set(chosen)
    depths = {layer.name: layer.depth for layer in source.layers}
    assert 0.2 < depths["blocks.2"] < depths["blocks.4"] < depths["blocks.6"] < 1
    total = source.layer("output").macs
    assert 0.29e9 < total < 0.33e9  # published: 0.30 G


def test_three_trainings_of_one_network_are_three_sources(shared):
    prints = set()
    for name in ("imagenet", "imagenet_tf2", "inat_insect"):
        prints.add(load_source(f"timm:{shared / 'weights' / f'mobilenetv2_100.{name}'}").fingerprint)
    assert len(prints) == 3


def test_audio_folders_give_a_source_of_sounds(shared, tmp_path):
    source = load_source(f"timm:{shared / 'weights' / 'mobilenetv1_100.audioset_yamnet'}")
    assert source.modality == "audio"
    data = Dataset.from_items(sorted((shared / "audio" / "esc10").glob("*/*.ogg"))[:3])
    rows = extract(source, data, layers="blocks.3.0", store=tmp_path, **PLAIN).rows("blocks.3.0", data)
    assert rows.shape[0] == 3
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    assert again.input == source.input


def test_a_moved_folder_is_the_same_source(tiny, copy):
    assert load_source(f"timm:{copy}").fingerprint == load_source(f"timm:{tiny}").fingerprint


def test_saved_and_loaded(tiny, tmp_path):
    source = load_source(f"timm:{tiny}")
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    assert again.input == source.input
    assert again.classifier == "fc"


@pytest.mark.parametrize("name", ["/nowhere/at/all", "weights/no-such", "..\\here"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(SourceError, match="There is no folder"):
        load_source(f"timm:{name}")


def test_a_folder_without_config_or_weights(tmp_path, copy):
    with pytest.raises(StoreError, match=r"config\.json"):
        load_source(f"timm:{tmp_path}")
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"none of model\.safetensors"):
        load_source(f"timm:{copy}")
    load_source(f"timm:{copy}", pretrained=False, weights=copy / "unused.pth")


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architecture": 3}'])
def test_a_damaged_config(copy, config):
    (copy / "config.json").write_text(config)
    with pytest.raises((SourceError, StoreError), match=r"config\.json"):
        load_source(f"timm:{copy}")


def test_a_pth_file_in_the_folder(copy):
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    source = load_source(f"timm:{copy}")
    assert torch.equal(source.module.state_dict()["conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"],
                       state["conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"])  # fmt: skip


# ---- names with local weights ---------------------------------------------------------------------------------------


def test_a_name_with_safetensors(folder):
    source = load_source("timm:mobilenetv2_100", weights=folder / "model.safetensors", options=SAME)
    assert torch.equal(
        source.module.classifier.bias, load_file(folder / "model.safetensors")["classifier.bias"].float()
    )
    assert source.meta["classes"] == 1001  # the file's own classifier fits, too
    assert source.input.interpolation == "bicubic"  # timm's own for this name; the folder says otherwise


def test_a_name_with_pth(folder, tmp_path):
    torch.save({"state_dict": load_file(folder / "model.safetensors")}, tmp_path / "w.pth")
    from_pth = load_source("timm:mobilenetv2_100", weights=tmp_path / "w.pth", options=SAME)
    direct = load_source("timm:mobilenetv2_100", weights=str(folder / "model.safetensors"), options=SAME)
    assert from_pth.fingerprint == direct.fingerprint


def test_options_and_input_change_the_fingerprint(tiny):
    weights = tiny / "model.safetensors"
    prints = {
        load_source("timm:test_resnet", weights=weights).fingerprint,
        load_source("timm:test_resnet", weights=weights, options={"output_stride": 16}).fingerprint,
        load_source("timm:test_resnet", weights=weights, input={"crop_pct": 0.5}).fingerprint,
        load_source("timm:test_resnet", weights=weights, input={"input_size": (3, 96, 96)}).fingerprint,
        load_source(f"timm:{tiny}").fingerprint,
    }
    assert len(prints) == 5


def test_weights_of_another_architecture(tiny):
    with pytest.raises(WeightsError) as caught:
        load_source("timm:test_vit", weights=tiny / "model.safetensors")
    assert "Only 0 of the backbone's" in str(caught.value)
    assert "Not in the file: " in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_another_number_of_channels_is_refused_with_the_tensor(folder):
    with pytest.raises(WeightsError, match=r"conv_stem\.weight \(32, 3, 3, 3\) for \(32, 1, 3, 3\)"):
        load_source("timm:mobilenetv2_100", weights=folder / "model.safetensors", options={**SAME, "in_chans": 1})


def test_fewer_than_95_percent_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    backbone = [k for k in state if not k.startswith("fc.") and "num_batches" not in k]
    for k in backbone[: len(backbone) // 10]:
        del state[k]
    save_file(state, copy / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"(?s)95 % are needed.*Not in the file: .*\({len(backbone) // 10}\)"):
        load_source(f"timm:{copy}")


def test_another_classifier_is_a_choice(tiny):
    source = load_source("timm:test_resnet", weights=tiny / "model.safetensors", options={"num_classes": 3})
    assert source.module.fc.out_features == 3
    state = load_file(tiny / "model.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in source.module.state_dict().items() if not k.startswith("fc."))


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "missing", "pickle"])
def test_damaged_weights(copy, damage):
    path = copy / "model.safetensors"
    blob = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": blob[: len(blob) // 2], "noise": os.urandom(500),
                          "pickle": b"\x80\x04\x95."}[damage])  # fmt: skip
    with pytest.raises(WeightsError):
        load_source(f"timm:{copy}")
    with pytest.raises(WeightsError):
        load_source("timm:test_resnet", weights=path)


def test_weights_that_would_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'RUN'}",)

    torch.save({"a": Evil()}, tmp_path / "w.pth")
    with pytest.raises(UnsafeFile, match="run code"):
        load_source("timm:test_resnet", weights=tmp_path / "w.pth")
    assert not (tmp_path / "RUN").exists()


# ---- without weights ------------------------------------------------------------------------------------------------


def test_initial_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    sources = [load_source("timm:test_resnet", **TINY, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert sources[0].fingerprint == sources[1].fingerprint != sources[2].fingerprint


def test_grey_input_follows_the_options(tmp_path):
    source = load_source("timm:test_resnet", **{**TINY, "input": {}}, options={"in_chans": 1})
    assert source.input.channels == 1
    assert len(source.input.mean) == 1
    data = picture_data(3, side=30)
    assert extract(source, data, layers="last", store=tmp_path, **PLAIN).computed == 3


def test_the_size_follows_the_options():
    source = load_source("timm:test_vit", pretrained=False, options={"img_size": 96})
    assert source.input.size == (96, 96)
    assert source.meta["class_token"]
    assert source.layer("blocks.0").axes == "tc"
    assert source.layer("blocks.0").shape[0] == 36 + 1


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"options": {"no_such": 1}}, OptionError, "does not take these options"),
        ({"options": {"act_layer": print}}, OptionError, "plain data"),
        ({"input": {"sise": 3}}, UnknownName, "did you mean 'input_size'|'sise' is not one of"),
        ({"pretraned": True}, UnknownName, "did you mean 'pretrained'"),
    ],
)
def test_options_that_are_wrong(options, kind, said):
    with pytest.raises(kind, match=said):
        load_source("timm:test_resnet", **{"pretrained": False, **options})


def test_unknown_names_and_tags():
    with pytest.raises(UnknownName, match="did you mean 'mobilenetv2_1"):
        load_source("timm:mobilenetv2_10")
    with pytest.raises(UnknownName, match=r"did you mean 'mobilenetv2_100\.ra_in1k'"):
        load_source("timm:mobilenetv2_100.ra_in2k")


# ---- no network -----------------------------------------------------------------------------------------------------


def never(*_, **__):
    raise AssertionError("it asked the network")


def test_offline_is_said_at_once(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(timm, "create_model", never)
    with pytest.raises(OfflineError, match=r"(?s)HF_HUB_OFFLINE is set.*weights=FILE.*pretrained=False"):
        load_source("timm:mobilenetv2_100")


def test_without_the_switch_the_hub_is_asked_once(monkeypatch):
    """timm and the hub's client would try again for the better part of a minute."""
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    requests = []

    def refuse(repository, **options):
        requests.append(options.get("local_files_only", False))
        raise ConnectionError("no route to huggingface.co\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(timm, "create_model", never)
    with pytest.raises(OfflineError, match=r"(?s)cannot be fetched: ConnectionError: no route.*co\. Give weights=FILE"):
        load_source("timm:mobilenetv2_100")
    assert requests == [True, False]  # the local cache first


def test_what_the_hub_gives_is_read_from_its_folder(tiny, monkeypatch):
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    calls = []

    def fetch(repository, *, allow_patterns, local_files_only=False, etag_timeout=None):
        calls.append((allow_patterns, etag_timeout))
        if local_files_only:
            raise FileNotFoundError
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub_folder("someone/something", ["model.safetensors"], needed="model.safetensors") == tiny
    assert hub_folder("someone/something", ["absent.bin"], needed="absent.bin") is None
    assert all(timeout for _, timeout in calls[1::2])


def test_weights_in_the_local_hub_cache_are_found(tiny, tmp_path, monkeypatch):
    cfg = timm.get_pretrained_cfg("test_resnet")
    cache = tmp_path / "hub"
    path = cache / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    (path / "snapshots" / "abc").mkdir(parents=True)
    (path / "refs").mkdir()
    (path / "refs" / "main").write_text("abc")
    state = load_file(tiny / "model.safetensors")
    wide = timm.create_model("test_resnet").state_dict()
    state |= {k: torch.zeros_like(wide[k]) for k in ("fc.weight", "fc.bias")}
    save_file(state, path / "snapshots" / "abc" / "model.safetensors")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(socket, "getaddrinfo", never)
    source = load_source("timm:test_resnet")
    assert all(torch.equal(v, state[k]) for k, v in source.module.state_dict().items())


@pytest.mark.slow
def test_offline_in_a_new_process(tmp_path):
    """As users meet it: no switch set, no network, an empty cache."""
    code = (
        "import time, timm\nfrom headstart.sources import load_source\nfrom headstart.errors import OfflineError\n"
        "begun = time.monotonic()\n"
        "try:\n    load_source('timm:mobilenetv2_100')\n"
        "except OfflineError as error:\n    print('offline', time.monotonic() - begun < 20)\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    env |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "offline True"


def test_interpolations_that_are_not_known_become_bicubic():
    source = load_source("timm:test_resnet", pretrained=False, input={"interpolation": "lanczos"})
    assert source.input.interpolation == "bicubic"


def test_features_do_not_depend_on_the_classifier(tiny, tmp_path):
    data = picture_data(3)
    rows = []
    for classes in (5, 3, 0):
        options = {"options": {"num_classes": classes}, "input": TINY["input"]}
        source = load_source("timm:test_resnet", weights=tiny / "model.safetensors", **options)
        bank = extract(source, data, layers="layer4", pooling="avg", store=tmp_path, **PLAIN)
        rows.append(bank.rows("layer4", data))
    assert np.allclose(rows[0], rows[1])
    assert np.allclose(rows[0], rows[2])
