"""Weights files: what fits, what is refused and why, and that nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from headstart._base.progress import listening
from headstart.errors import StoreError, UnsafeFile, WeightsError
from headstart.sources.weights import fit_weights, read_weights, write_weights
from listeners import Notes


class Evil:
    """Its pickle runs a command."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def state():
    network = small()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return network.state_dict()


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k].to(a[k].dtype)) for k in a)


# ---- forms that are read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin", "w.pt", "weights"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_any_form_under_any_name(tmp_path, state, name, form):
    path = tmp_path / name
    if form == "safetensors":
        save_file(state, path)
    else:
        if name.endswith("safetensors"):
            pytest.skip("a name that promises safetensors is taken at its word")
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert equal(read_weights(path), state)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "state_dict_ema", "model_ema", "module"])
def test_training_checkpoints_are_unwrapped(tmp_path, state, wrap):
    torch.save({wrap: dict(state), "epoch": 7, "optimizer": {"lr": 0.1}}, tmp_path / "c.pth")
    assert equal(read_weights(tmp_path / "c.pth"), state)


def test_wrappers_inside_wrappers(tmp_path, state):
    torch.save({"model": {"state_dict": dict(state)}}, tmp_path / "c.pth")
    assert equal(read_weights(tmp_path / "c.pth"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapping_modules_are_dropped(tmp_path, state, prefix):
    torch.save({prefix + k: v for k, v in state.items()}, tmp_path / "c.pth")
    assert equal(read_weights(tmp_path / "c.pth"), state)


def test_narrow_floats_become_float32_and_others_stay(tmp_path):
    values = {
        "half": torch.tensor([1.5], dtype=torch.float16),
        "brain": torch.tensor([1.5], dtype=torch.bfloat16),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "count": torch.tensor(7),
    }
    save_file(values, tmp_path / "w.safetensors")
    result = read_weights(tmp_path / "w.safetensors")
    assert [result[k].dtype for k in ("half", "brain", "double", "count")] == [
        torch.float32, torch.float32, torch.float64, torch.int64,
    ]  # fmt: skip
    assert float(result["double"]) == 1 / 3


# ---- what is damaged ------------------------------------------------------------------------------------------------


def test_missing_empty_and_folders(tmp_path):
    with pytest.raises(WeightsError, match="There is no weights file"):
        read_weights(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="There is no weights file"):
        read_weights(tmp_path)
    for name in ("e.pth", "e.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(WeightsError, match="is empty"):
            read_weights(tmp_path / name)


@given(form=st.sampled_from(["safetensors", "zip", "legacy"]), part=st.floats(0.0, 0.999), data=st.data())
def test_a_truncated_file_is_never_half_read(tmp_path_factory, form, part, data):
    path = tmp_path_factory.mktemp("cut") / ("w.safetensors" if form == "safetensors" else "w.pth")
    tensors = {"a": torch.arange(500.0), "b": torch.ones(3, 3)}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    full = path.read_bytes()
    path.write_bytes(full[: int(part * len(full))])
    with pytest.raises(WeightsError):
        read_weights(path)


@given(blob=st.binary(min_size=1, max_size=300), suffix=st.sampled_from([".pth", ".safetensors", ".bin"]))
def test_noise_is_a_weights_error_or_unsafe(tmp_path_factory, blob, suffix):
    path = tmp_path_factory.mktemp("noise") / f"w{suffix}"
    path.write_bytes(blob)
    with pytest.raises((WeightsError, UnsafeFile)):
        read_weights(path)


@pytest.mark.parametrize(
    "text", ["hello", "<html>404 Not Found: global class</html>", '{"a": 1}', "\x80", "PK\x03\x04"]
)
def test_things_that_are_no_weights(tmp_path, text):
    path = tmp_path / "w.pth"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(WeightsError, match=r"w\.pth is damaged"):
        read_weights(path)


def test_files_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    torch.save([torch.ones(2)], tmp_path / "b.pth")
    loop: dict = {}
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "c.pth")
    for name in "abc":
        with pytest.raises(WeightsError, match="holds no tensors"):
            read_weights(tmp_path / f"{name}.pth")


# ---- what would run -------------------------------------------------------------------------------------------------


def _tar(path, mark):
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            blob = pickle.dumps(Evil(mark))
            entry = tarfile.TarInfo(name)
            entry.size = len(blob)
            archive.addfile(entry, io.BytesIO(blob))


ATTACKS = {
    "beside a tensor": lambda path, mark: torch.save({"a": torch.ones(2), "e": Evil(mark)}, path),
    "deep inside": lambda path, mark: torch.save(
        {"state_dict": {"a": torch.ones(2), "e": [{"x": (Evil(mark),)}]}}, path
    ),
    "as a key": lambda path, mark: torch.save({"a": torch.ones(2), (Evil(mark), 1): 2}, path),
    "older form": lambda path, mark: torch.save([Evil(mark)], path, _use_new_zipfile_serialization=False),
    "plain pickle": lambda path, mark: path.write_bytes(pickle.dumps(Evil(mark))),
    "protocol 0": lambda path, mark: path.write_bytes(pickle.dumps(Evil(mark), 0)),
    "protocol 5": lambda path, mark: path.write_bytes(pickle.dumps({"w": Evil(mark)}, 5)),
    "tar": _tar,
    "whole module": lambda path, mark: torch.save(nn.Linear(2, 2), path),
    "numpy array": lambda path, mark: torch.save({"a": np.ones(2)}, path),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_nothing_in_a_file_is_run(tmp_path, attack, suffix):
    path, mark = tmp_path / f"w{suffix}", tmp_path / "RUN"
    ATTACKS[attack](path, mark)
    with pytest.raises(WeightsError if suffix == ".safetensors" else UnsafeFile, match=r"w\."):
        read_weights(path)
    assert not mark.exists()


def test_the_attack_would_work():
    """The marks above can appear: the same pickle, opened carelessly, runs."""
    ran = []
    loaded = type("Carelessly", (pickle.Unpickler,), {"find_class": lambda self, module, name: ran.append})(
        io.BytesIO(pickle.dumps(Evil("x")))
    )
    loaded.load()
    assert ran == ["touch x"]


def test_torchscript_is_not_opened(tmp_path):
    with pytest.warns(Warning) if hasattr(torch.jit, "script") else pytest.raises(Warning):
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "s.pth"))
    with pytest.raises(UnsafeFile, match="run code"):
        read_weights(tmp_path / "s.pth")


# ---- fitting --------------------------------------------------------------------------------------------------------


def test_weights_that_fit_are_loaded(state):
    network = small()
    assert fit_weights(network, state, "w.pth") == []
    assert equal(network.state_dict(), state)


def test_weights_of_another_network_are_refused_with_names(state):
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        fit_weights(network, {**state, "extra.weight": torch.ones(1)}, "w.pth")
    text = str(caught.value)
    assert "Only 1 of the backbone's 8 tensors match w.pth" in text
    assert "0.weight (4, 3) for (5, 3)" in text
    assert "In the file but not in the network: extra.weight" in text
    assert equal(network.state_dict(), before)


def test_one_tensor_of_another_shape_is_enough_to_refuse():
    """A first convolution that keeps random weights would look like a working network."""
    network = nn.Sequential(*[nn.Linear(4, 4) for _ in range(40)])
    state = dict(network.state_dict())
    state["0.weight"] = torch.ones(4, 3)
    with pytest.raises(WeightsError, match=r"Only 79 of the backbone's 80(?s:.*)0\.weight \(4, 3\) for \(4, 4\)"):
        fit_weights(network, state, "w.pth")


@given(missing=st.integers(0, 20))
def test_at_least_95_percent_must_be_there(missing):
    network = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(100)])
    state = {k: v for i, (k, v) in enumerate(network.state_dict().items()) if i >= missing}
    if missing > 5:
        with pytest.raises(WeightsError, match=rf"Only {100 - missing} of"):
            fit_weights(network, state, "w.pth")
    else:
        assert fit_weights(network, state, "w.pth") == [f"{i}.weight" for i in range(missing)]


def test_what_keeps_initial_values_is_said():
    network = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(40)])
    state = {k: v for k, v in network.state_dict().items() if k != "3.weight"}
    with listening(notes := Notes()):
        fit_weights(network, state, "w.pth")
    assert len(notes) == 1
    assert "1 of 40" in notes[0]
    assert "3.weight" in notes[0]


def test_a_classifier_need_not_match():
    network = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 5)})
    state = {"body.weight": torch.ones(4, 3), "body.bias": torch.ones(4), "head.weight": torch.ones(9, 4)}
    before = network["head"].weight.clone()
    assert fit_weights(network, state, "w.pth", head=("head.",)) == []
    assert torch.equal(network["head"].weight, before)
    assert torch.equal(network["body"].weight, torch.ones(4, 3))


def test_counters_of_batches_may_be_missing(state):
    partial = {k: v for k, v in state.items() if "num_batches" not in k}
    assert fit_weights(small(), partial, "w.pth") == []


# ---- writing --------------------------------------------------------------------------------------------------------


def test_writing_and_reading_back(tmp_path, state):
    write_weights(tmp_path / "deep" / "w.safetensors", state, {"what": "a test"})
    assert equal(read_weights(tmp_path / "deep" / "w.safetensors"), state)


def test_shared_and_strided_tensors_are_written_out(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    write_weights(tmp_path / "w.safetensors", {"a": base, "b": base, "t": base.t(), "s": base[:, ::2]})
    result = load_file(tmp_path / "w.safetensors")
    assert torch.equal(result["t"], base.t())
    assert torch.equal(result["s"], base[:, ::2])


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="Cannot write"):
        write_weights(tmp_path / "file" / "w.safetensors", {"a": torch.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
