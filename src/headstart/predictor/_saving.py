"""Writing a predictor: see ``_loading.py`` for what lies in the folder."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from headstart._files import write_atomic, write_json
from headstart._hashing import fingerprint, key_of_file
from headstart.errors import StoreError
from headstart.predictor._answer import Answer

FORMAT = 1
RECORD, ARRAYS = "predictor.json", "arrays.safetensors"


def save(predictor: Any, path: Path) -> Path:
    """Write into a fresh folder beside ``path`` and rename it: there is a whole predictor at ``path`` or the old one."""
    path = path.expanduser()
    if path.exists() and not (path / RECORD).is_file():
        raise StoreError(f"{path} exists and is no saved predictor; it is not overwritten.")
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        _write(predictor, draft)
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.old")
            os.replace(path, old)
            os.replace(draft, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft, path)
    except OSError as error:
        raise StoreError(f"Cannot save the predictor to {path}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def _write(predictor: Any, folder: Path) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    answers = []
    for number, answer in enumerate(predictor.answers):
        state = answer.head.state()
        arrays |= {f"{number}/{name}": np.array(value, order="C") for name, value in state.items()}
        if answer.log_ratio is not None:
            arrays[f"{number}/log_ratio"] = answer.log_ratio
        answers.append(_plain_answer(answer, sorted(state)))
    keys = sorted(predictor.trained_on)
    arrays["trained_on"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 8)
    folder.mkdir(parents=True)
    write_atomic(folder / ARRAYS, lambda file: save_file(arrays, file))
    sources = []
    for number, (source, choice) in enumerate(zip(predictor.sources, predictor.choices)):
        name = f"sources/{number}"
        if source.rebuild is not None:
            source.save(folder / name)
        sources.append(
            {
                "folder": name if source.rebuild is not None else None,
                "address": source.address,
                "fingerprint": source.fingerprint,
                "choice": choice.to_dict(),
            }
        )
    record = {
        "format": FORMAT,
        "answers": answers,
        "sources": sources,
        "arrays": key_of_file(folder / ARRAYS).hex(),
        "history": dict(predictor.history),
        "chosen": dict(predictor.chosen),
        "provenance": dict(predictor.provenance),
    }
    write_json(folder / RECORD, {**record, "checksum": fingerprint(record, 64)})


def _plain_answer(answer: Answer, arrays: list[str]) -> dict[str, Any]:
    return {
        "target": answer.target,
        "task": answer.task,
        "classes": None if answer.classes is None else list(answer.classes),
        "counts": None if answer.counts is None else [[label, int(n)] for label, n in answer.counts.items()],
        "parts": [vars(part) for part in answer.parts],
        "head": {"name": answer.head.name, "fields": answer.head.fields(), "arrays": arrays},
    }
