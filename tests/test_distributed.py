"""Several processes that train as one: the result of one process, the same in all of them, and nobody waits in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import launched
from headstart._base import extras, processes
from headstart.errors import MissingPackage, OptionError
from headstart.training import distributed

HERE = Path(__file__).resolve().parent
ALONE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_alone_without_a_launcher(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    assert processes.rank_and_world_size() == (0, 1) and processes.is_main()
    assert processes.local_shard(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(distributed, "_accelerator", lambda: pytest.fail("it asked for others"))
    done = []
    distributed.init_distributed()
    distributed.run_on_all(lambda: done.append(1))
    assert distributed.main_first(lambda: 7) == 7 and distributed.broadcast_scalar(lambda: 0.1) == 0.1 and done == [1]
    distributed.assert_same_on_all_ranks({"a": 1}, "settings")
    tensor = torch.ones(2)
    distributed.average_tensors({"t": tensor})
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9])
@pytest.mark.parametrize("many", [1, 2, 3, 8])
def test_every_item_belongs_to_one_process(monkeypatch, count, many):
    parts = []
    monkeypatch.setenv("WORLD_SIZE", str(many))
    for number in range(many):
        monkeypatch.setenv("RANK", str(number))
        assert processes.rank_and_world_size() == (number, many)
        parts.append(processes.local_shard(np.arange(count)).tolist())
    assert [item for part in parts for item in part] == list(range(count))
    assert len(parts[0]) == max(map(len, parts))


@pytest.mark.parametrize(("number", "many"), [("2", "2"), ("-1", "2"), ("a", "2"), ("0", "x")])
def test_a_launcher_that_talks_nonsense(monkeypatch, number, many):
    monkeypatch.setenv("RANK", number)
    monkeypatch.setenv("WORLD_SIZE", many)
    with pytest.raises(OptionError, match="do not say which process this is"):
        processes.rank_and_world_size()


def test_without_accelerate(monkeypatch):
    """Said before anything is computed, with the line that installs it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"'accelerate' is needed to train in 2 processes together.*pip install"):
        launched.hs.fit("fake:vector", launched.hs.Dataset.from_arrays(np.eye(8), list(range(8))))


# ---- two processes --------------------------------------------------------------------------------------------------


def launch(*arguments, **options):
    environment = {name: value for name, value in os.environ.items() if name not in ALONE}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
               *map(str, arguments)]  # fmt: skip
    environment = {**environment, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, timeout=240, env=environment, **options)


def under(found, case):
    return {key.partition("/")[2]: value for key, value in found.items() if key.startswith(case + "/")}


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """One launch for everything, because starting takes longer than what is tried."""
    pytest.importorskip("accelerate")
    done = launch("launched.py", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (dict(np.load(tmp_path / f"of-{number}.npz")) for number in range(2))
    assert (first.pop("saves") > 0, second.pop("saves")) == (True, 0)  # checkpoints: the first process writes
    same_bits(first, second)
    what_one_comes_to(first, launched.results(tmp_path / "one", launched.SAME))
    failures(*(dict(line.split(": ", 1) for line in (tmp_path / f"said-{number}.txt").read_text().splitlines())
               for number in range(2)))  # fmt: skip


def same_bits(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if first[name].tobytes() != second[name].tobytes()] == []
    assert all(len(under(first, case)) > 3 for case in (*launched.SAME, *launched.OWN))


def what_one_comes_to(first, one):
    own_values = tuple(f"{case}/" for case in launched.OWN)
    assert one.keys() == {name for name in first if not name.startswith(own_values)}
    far = {k: np.abs(first[k] - v).max() for k, v in one.items() if not np.allclose(first[k], v, rtol=1e-4, atol=2e-5)}
    assert far == {}


def failures(first, second):
    """What one fails at ends all, with the reason where it happened."""
    other = "HeadstartError: Another process has failed"
    for name in ("an error in a step", "an error in validation"):
        assert first[name].startswith(other)
        assert second[name] == "ZeroDivisionError: division by zero"
    assert first["a checkpoint that cannot be written"].startswith("StoreError")
    assert second["a checkpoint that cannot be written"].startswith(other)
    for message in (first, second):
        assert message["a loss that is no number"].startswith("NumericsError: The loss is nan at step 3")
        assert message["other settings"].startswith("OptionError: The 2 processes do not have the same")
        assert message["prove"].startswith("OptionError: prove()")


@pytest.mark.slow
def test_the_command_line_answers_once(tmp_path):
    pytest.importorskip("accelerate")
    for label, low in (("dark", 0), ("light", 150)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(low, low + 80, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    policy = "last_layers:layers=1,epochs=2,views=2"
    done = launch("-m", "headstart", "fit", tmp_path / "photos", "-s", "fake:image", "-o", tmp_path / "p", "--policy",
                  policy, "--no-guard", "--json", env={"HEADSTART_CACHE": str(tmp_path / "cache")})  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    messages = json.loads(done.stdout)
    assert messages["policy"] == "last_layers" and len(messages["history"]["loss"]) == 2
    assert done.stderr.count("2 epochs ×") == 1
    assert launched.hs.load(tmp_path / "p").predict([str(tmp_path / "photos" / "dark" / "0.png")]) is not None


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_with_it(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys; sys.path.insert(0, os.getcwd())\n"
        "import launched; from headstart.training.distributed import init_distributed\n"
        "init_distributed()\n"
        "if os.environ['RANK'] == '1': os._exit(3)\n"
        "launched.loop(None)\n"
    )
    assert launch(script).returncode != 0
