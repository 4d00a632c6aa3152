"""Weights: read safely, fetched from a model hub, fitted into a network with a count of what matched, and written.

Nothing is ever unpickled. ``save`` writes a source as a folder of safetensors and JSON, which ``saved.py`` reads.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import tarfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._base import extras
from headstart._base.files import write_atomic, write_json
from headstart._base.hashing import fingerprint, key_of_bytes, key_of_file
from headstart._base.processes import is_main
from headstart._base.progress import note
from headstart.errors import OfflineError, SourceError, UnsafeFile, WeightsError

if TYPE_CHECKING:
    import torch

    from headstart.sources.base import Source

_NEEDED = 0.95
_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")  # left behind by DataParallel and torch.compile
_DEEPEST = 4
_OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HUB_SECONDS = 5
_COUNTERS = ("num_batches_tracked",)
_PICKLES = 8  # torch's older form is a few pickles one after the other
_CALLS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4")


def read_weights(path: Path) -> dict[str, Any]:
    """Tensors of a safetensors or pth file; 16-bit floats and narrower become float32.

    Raises
    ------
    WeightsError
        When the file is missing, empty, damaged, or holds no tensors.
    UnsafeFile
        When a pth file contains anything that would have to be executed.
    """
    if not path.is_file():
        raise WeightsError(f"There is no weights file at {path}.")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty.")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" or _is_safetensors(path) else _read_pth(path)
    tensors = {_without_wrapper(k): v for k, v in _tensors_in(loaded).items()}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors.")
    return {k: v.float() if v.is_floating_point() and v.element_size() < 4 else v for k, v in tensors.items()}


def hub_folder(repository: str, patterns: Sequence[str], *, needed: str) -> Path | None:
    """The folder of a hub repository in the local cache; its files are fetched only where ``needed`` is not there.

    ``snapshot_download`` asks the hub once, and fails within a second without a network. ``hf_hub_download``, which
    timm uses, tries again for half a minute.

    Returns
    -------
    Path or None
        None when the repository has no such file.

    Raises
    ------
    OfflineError
        When the hub cannot be asked, with the reason; also when ``HF_HUB_OFFLINE`` forbids to.
    """
    hub = extras.require_package("huggingface_hub", "to look up hub names")
    fetch = partial(hub.snapshot_download, repository, allow_patterns=list(patterns))
    try:
        folder = Path(fetch(local_files_only=True))
        if (folder / needed).is_file():
            return folder
    except (OSError, ValueError):  # nothing of it is in the cache, or this is no name of a repository
        pass
    for switch in _OFFLINE_SWITCHES:
        if os.environ.get(switch, "").lower() in ("1", "true", "yes", "on"):
            raise OfflineError(f"{switch} is set")
    try:
        folder = Path(fetch(etag_timeout=_HUB_SECONDS))
    except Exception as error:  # the hub's client raises a dozen kinds; all of them mean: not to be had
        raise OfflineError(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    return folder if (folder / needed).is_file() else None


def write_weights(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; tensors that share memory are written out each.

    Raises
    ------
    StoreError
        When the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(copies, temporary, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:  # its own kind of OSError
            raise OSError(str(error)) from error

    write_atomic(path, write)


def fit_weights(
    network: torch.nn.Module, weights: Mapping[str, Any], origin: str, *, head: tuple[str, ...] = ()
) -> list[str]:
    """Load tensors by name; at least 95 % of the backbone's must be there, and none may have another shape.

    Parameters
    ----------
    head : tuple of str
        Prefixes of the classifier's tensors, which need not match.

    Returns
    -------
    list of str
        Tensors of the backbone that kept their initial values (at most 5 %).

    Raises
    ------
    WeightsError
        Names the tensors that are missing, of another shape, or too many.
    """
    state = network.state_dict()
    backbone = [k for k in state if not k.endswith(_COUNTERS) and not (head and k.startswith(head))]
    fitting = {k: v for k, v in weights.items() if k in state and state[k].shape == v.shape}
    missing = [k for k in backbone if k not in fitting]
    reshaped = [k for k in missing if k in weights]
    if reshaped or len(backbone) - len(missing) < _NEEDED * len(backbone):
        raise WeightsError(_mismatch_message(origin, missing, backbone, weights=weights, state=state))
    network.load_state_dict({**state, **fitting}, strict=True)
    if missing:
        note(f"{len(missing)} of {len(backbone)} tensors are not in {origin} and keep initial values: {missing[:5]}.")
    return missing


def _mismatch_message(
    origin: str, missing: list[str], backbone: list[str], *, weights: Mapping[str, Any], state: Mapping[str, Any]
) -> str:
    def show(names: list[str]) -> str:
        return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")

    shapes = [f"{k} {tuple(weights[k].shape)} for {tuple(state[k].shape)}" for k in missing if k in weights]
    absent = [k for k in missing if k not in weights]
    extra = [k for k in weights if k not in state]
    count = f"{len(backbone) - len(missing)} of the backbone's {len(backbone)} tensors"
    lines = [f"Only {count} match {origin}; 95 % are needed, and none of another shape."]
    lines += [f"Of another shape: {show(shapes)}."] if shapes else []
    lines += [f"Not in the file: {show(absent)}."] if absent else []
    lines += [f"In the file but not in the network: {show(extra)}."] if extra else []
    lines.append("Are these the weights of this architecture? Its options (pad_type, in_chans, …) must be given, too.")
    return "\n".join(lines)


def _is_safetensors(path: Path) -> bool:
    """A length in eight bytes, then JSON: safetensors under any name."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged and cannot be read as safetensors: {error}") from error


def _read_pth(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript and protocols: the errors say it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler falls over damaged files in many ways
        refused = isinstance(error, pickle.UnpicklingError) or "weights_only=True" in str(error)
        if refused and _needs_execution(path):
            raise UnsafeFile(
                f"{path} was not opened: it holds more than tensors, and reading it would run code from it. "
                "Ask its author for a safetensors file."
            ) from error
        why = "it is no file of tensors" if refused else str(error)[:200] or type(error).__name__
        raise WeightsError(f"{path} is damaged and cannot be read as weights: {why}") from error


def _needs_execution(path: Path) -> bool:
    """True for a refused file that asks for more than numbers (its opcodes are listed, not followed)."""
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        return True
    with open(path, "rb") as file:
        try:
            for _ in range(_PICKLES):
                if any(opcode.name in _CALLS for opcode, _, _ in pickletools.genops(file)):
                    return True
        except Exception:  # the end, or no pickle at all
            return False
    return False


def _without_wrapper(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _tensors_in(loaded: object) -> dict[str, Any]:
    import torch

    for _ in range(_DEEPEST):  # a file may contain itself
        inner = next(
            (loaded[k] for k in _WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(k), dict)), None
        )
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict):
        return {}
    return {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


FORMAT = 1
RECORD = "source.json"
WEIGHTS = "weights.safetensors"


def save(source: Source, folder: Path) -> Path:
    """Write the source; the record goes last, so a folder without it was never finished.

    Of several processes that train together the first one writes.

    Raises
    ------
    SourceError
        For a Python object that cannot be built again from plain data.
    StoreError
        When the folder cannot be written.
    """
    if source.rebuild is None:
        raise SourceError(
            f"{source.address} is a Python object; headstart cannot build it again from a file without running code. "
            "Save its weights yourself and give the object to load_source again, or use a named architecture."
        )
    if not is_main():
        return folder
    write_weights(folder / WEIGHTS, source.backend.state_dict())
    for name, content in source.files.items():
        write_atomic(folder / "files" / name, content)
    record = {
        "format": FORMAT,
        "address": source.address,
        "rebuild": dict(source.rebuild),
        "classifier": source.classifier,
        "meta": dict(source.meta),
        "fingerprint": source.fingerprint,
        "weights": key_of_file(folder / WEIGHTS).hex(),
        "files": {name: key_of_bytes(content).hex() for name, content in source.files.items()},
    }
    if source.statistics is not None and source.statistics.fingerprint == source.fingerprint:
        source.statistics.save(folder)
    write_json(folder / RECORD, {**record, "check": checksum_of(record)})
    return folder


def checksum_of(record: Mapping[str, Any]) -> str:
    """Hash of everything in the record but itself."""
    return fingerprint({key: value for key, value in record.items() if key != "check"}, 32)
