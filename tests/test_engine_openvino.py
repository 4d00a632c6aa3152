"""OpenVINO on request: no telemetry, rows like torch's, and what it cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

import networks
from headstart._base import extras
from headstart.engines import ENGINES, RuntimeConfig
from headstart.errors import MissingPackage, OptionError, SourceError, UnknownName
from headstart.extraction import extract
from headstart.pooling import reducer
from headstart.sources import load_source
from networks import image_source, picture_data

# Everything that could reach a network, or say who we are, fails loudly in this process.
WATCHED = """
import socket, sys, pathlib
def refuse(*args, **kwargs):
    print("LOOKUP", args)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = refuse
from headstart.engines.openvino import OpenVinoEngine, _openvino
_openvino().Core()
import openvino
assert not any(name.partition(".")[0] == "openvino_telemetry" for name in sys.modules), "telemetry was imported"
print("done", [str(p) for p in pathlib.Path.home().iterdir()])
"""


def test_importing_it_asks_no_network_and_leaves_nothing_at_home(tmp_path):
    source = str(Path(__file__).resolve().parent.parent / "src")
    env = {"HOME": str(tmp_path), "PYTHONPATH": source, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done []"


def test_rows_are_torchs(tmp_path):
    source = image_source(networks.Normed, classifier="classifier")
    data = picture_data(7)
    run_engine = {"layers": ["blocks.1", "pool"], "precision": "fp32", "batch_size": 3, "store": tmp_path}
    plain, result = (extract(source, data, engine=name, **run_engine) for name in ("torch", "openvino"))
    for layer in plain.layers:
        assert np.allclose(result.rows(layer, data), plain.rows(layer, data), rtol=1e-4, atol=1e-5)
    assert result.computed == 7  # another engine is another bank
    assert result.recipe["pool"]["versions"]["openvino"]


def test_it_is_never_chosen_by_itself(tmp_path):
    source = image_source(networks.Normed, classifier="classifier")
    assert "openvino" not in source.engines
    assert extract(source, picture_data(3), layers="pool", store=tmp_path).choice.engine == "torch"


def test_what_it_cannot_run_is_refused():
    words = load_source("lstm:small", vocabulary=("a", "cat"), embedding=3, hidden=3)
    assert not ENGINES["openvino"].runs(words)
    with pytest.raises(OptionError, match=r"cannot be run by OpenVINO"):
        ENGINES["openvino"](words, {}, RuntimeConfig("openvino", "fp32"))
    with pytest.raises(UnknownName, match=r"engines of lstm:small"):
        extract(words, networks.Dataset.from_items(["a cat"], "text"), engine="openvino", store=False)
    with pytest.raises(OptionError, match=r"precision must be one of fp32, bf16"):
        ENGINES["openvino"](load_source("fake:image"), {"7": reducer("avg", "c")}, RuntimeConfig("openvino", "fp16"))


def test_networks_that_fix_the_number_of_inputs_are_refused():
    source = networks.vector_source(networks.Recurrent)  # it asks len(x)
    engine = ENGINES["openvino"](source, {"head": reducer("avg", "c")}, RuntimeConfig("openvino", "fp32"))
    with pytest.raises(SourceError, match=r"fixes the number of inputs|cannot convert"):
        engine(source.input.example(4))


def test_without_the_package(monkeypatch):
    is_installed = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "openvino" and is_installed(name))
    monkeypatch.setattr(extras, "installed_version", lambda name: None)
    with pytest.raises(MissingPackage, match=r"openvino"):
        ENGINES["openvino"].version()
