"""How a source is run on this machine: measured once on real items, remembered, reused.

Every precision that the engine offers is timed on the first items and compared with fp32, row by row; it is accepted
only if no row's cosine falls below the source's limit. The choice is stored beside the cache under the source, the
device and the machine, so that noise in a later timing never misses a bank and never changes a result.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.files import cache_folder, read_json, write_json
from headstart._base.hashing import fingerprint
from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart.engines.base import ENGINES, PRECISIONS, Engine, RuntimeConfig
from headstart.errors import MissingPackage, NumericsError, SourceError, StoreError, UnknownName
from headstart.pooling import reducer, resolve
from headstart.sources.base import Source
from headstart.sources.types import Batch

_BATCHES = (8, 32)
_MORE_BATCHES = (128,)  # where a processor's cache is no limit: 5,600 items/s at 32, 10,400 at 128 on an H200
_DEFAULT_BATCH = 16
_ENOUGH = 1.1  # another precision must be this much faster to be worth its rounding
_TOLERANCES = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}  # batches of other sizes are rounded otherwise


def choose_runtime(
    source: Source,
    draw: Callable[[], Sequence[Any]],
    *,
    engine: str,
    precision: str,
    device: str,
    batch_size: int | None = None,
) -> RuntimeConfig:
    """The remembered choice, or a new one measured on samples of the data at hand.

    Parameters
    ----------
    draw : callable
        Gives up to 32 prepared samples; called only when something has to be measured.
    engine, precision : str
        A name fixes it; ``"auto"`` leaves it to the measurement.
    batch_size : int, optional
        With all three fixed nothing is timed, and only the source is checked.

    Raises
    ------
    SourceError
        When the features of an item depend on its batch-mates, or differ from run to run.
    """
    names = _candidate_engines(source, engine)
    if precision not in ("auto", *PRECISIONS):
        raise UnknownName(unknown_name("precisions", precision, ["auto", *PRECISIONS]))
    device = _resolve_device(names, device)
    fixed = engine != "auto" and precision != "auto" and batch_size is not None
    cache_path = _cache_path(source, names, {"engine": engine, "precision": precision, "device": device})
    cached = _load_cached(cache_path, names)
    if cached is not None and (fixed or cached.speed > 0):
        return cached
    samples = draw()
    if not samples:
        return RuntimeConfig(
            names[0], "fp32" if precision == "auto" else precision, device, batch_size or _DEFAULT_BATCH
        )
    if fixed:  # nothing is left to choose, but the source may still be one that cannot be relied on
        choice = RuntimeConfig(names[0], precision, device, batch_size or _DEFAULT_BATCH)
        _check_batch_invariance(source, samples, choice)
    else:
        choice = _benchmark(source, samples, names, precision=precision, device=device)
    other = _load_cached(cache_path, names)
    if other is not None and other.speed > 0:  # another process was faster: one choice for all
        return other
    _save_to_cache(cache_path, choice)
    if choice.speed:
        cosine = f"least cosine to fp32 {choice.cosine:.4f}"
        note(f"{source.name}: {choice} ({choice.speed:.0f} items/s, {cosine}; remembered)")
    return choice


def _candidate_engines(source: Source, engine: str) -> list[str]:
    """Names of the engines to try: the one asked for, or all that can run the source and are installed."""
    if engine != "auto":
        able = [
            *source.engines,
            *(name for name in ENGINES if name not in source.engines and _runs_on_request(name, source)),
        ]
        if engine not in able:
            raise UnknownName(unknown_name(f"engines of {source.address}", engine, able))
        return [engine]
    installed, absent = [], []
    for name in source.engines:
        try:
            ENGINES[name].version()
            installed.append(name)
        except MissingPackage as error:
            absent.append(str(error))
    if not installed:
        raise MissingPackage(f"No engine that can run {source.address} is installed. {' '.join(absent)}")
    return installed


def _runs_on_request(engine: str, source: Source) -> bool:
    """Whether an engine that is never chosen by itself can run a source when it is asked for."""
    runs = getattr(ENGINES[engine], "runs", None)
    return runs is not None and bool(runs(source))


def _resolve_device(names: Sequence[str], device: str) -> str:
    """``"auto"`` → the best device of the engine that comes first."""
    default = getattr(ENGINES[names[0]], "default_device", None)
    return str(default()) if device == "auto" and default is not None else device_name(device)


def device_name(device: str) -> str:
    """``"auto"`` → cuda, mps or cpu; anything else as it is."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cache_path(source: Source, names: Sequence[str], requested: dict[str, Any]) -> Path:
    machine = {"machine": platform.machine(), "processor": _cpu_model(), "threads": os.cpu_count()}
    versions = {name: ENGINES[name].version() for name in names}
    what = {"source": source.fingerprint, **requested, **machine, "versions": versions}
    return cache_folder() / "choices" / f"{fingerprint(what)}.json"


def _load_cached(path: Path, names: Sequence[str]) -> RuntimeConfig | None:
    if not path.is_file():
        return None
    try:
        runtime = RuntimeConfig(**read_json(path, "remembered choice"))
    except (StoreError, TypeError) as error:
        note(f"{path} is damaged and is measured again ({error}).")
        return None
    numbers = isinstance(runtime.batch_size, int) and isinstance(runtime.speed, (int, float))
    if runtime.engine in names and runtime.precision in PRECISIONS and numbers and runtime.batch_size >= 1:
        return runtime
    note(f"{path} holds no choice that can be used and is measured again.")
    return None


def _save_to_cache(path: Path, choice: RuntimeConfig) -> None:
    try:
        write_json(path, choice.to_dict())
    except StoreError as error:
        note(f"The choice cannot be remembered, and is measured again next time: {error}")


def _benchmark(
    source: Source, samples: Sequence[Any], names: Sequence[str], *, precision: str, device: str
) -> RuntimeConfig:
    reduce = probe_layers(source)
    plain_choice = RuntimeConfig(names[0], "fp32", device)
    plain = ENGINES[names[0]](source, reduce, plain_choice)
    batch = source.input.collate([samples[i % len(samples)] for i in range(_DEFAULT_BATCH)])
    reference = plain(batch)
    _check_batch_invariance(source, samples, plain_choice)
    best: tuple[RuntimeConfig, Any] | None = None
    for name in names:
        for kind in ENGINES[name].precisions(source, device) if precision == "auto" else (precision,):
            first = (name, kind) == (names[0], "fp32")
            engine = plain if first else ENGINES[name](source, reduce, RuntimeConfig(name, kind, device))
            cosine = _cosine_to_reference(reference, engine, batch, forced=precision != "auto")
            if precision == "auto" and cosine < source.minimum_cosine and not first:
                continue
            speed = round(_items_per_second(engine, batch), 1)
            if best is None or speed > _ENOUGH * best[0].speed:
                best = RuntimeConfig(name, kind, device, _DEFAULT_BATCH, round(cosine, 6), speed), engine
    assert best is not None
    if best[0].cosine < source.minimum_cosine:
        note(f"{source.name}: features in {best[0].precision}, as asked, are only {best[0].cosine:.4f} like fp32's.")
    return _tune_batch_size(best[0], best[1], source, samples)


def _cosine_to_reference(reference: dict[str, np.ndarray], engine: Engine, batch: Batch, *, forced: bool) -> float:
    """Least cosine to fp32; -1 for what overflows, unless that was asked for."""
    try:
        return min_cosine(reference, {name: np.asarray(rows) for name, rows in engine(batch).items()})
    except NumericsError:
        if forced:
            raise
        return -1.0


def _tune_batch_size(best: RuntimeConfig, engine: Engine, source: Source, samples: Sequence[Any]) -> RuntimeConfig:
    """The batch size with the most items per second: small batches stay in the processor's cache."""
    for size in _BATCHES if best.device == "cpu" else (*_BATCHES, *_MORE_BATCHES):
        batch = source.input.collate([samples[i % len(samples)] for i in range(size)])
        engine(batch)
        speed = _items_per_second(engine, batch)
        if speed > 1.05 * best.speed:
            best = dataclasses.replace(best, batch_size=size, speed=round(speed, 1))
    return best


def _items_per_second(engine: Engine, batch: Batch) -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        engine(batch)
        times.append(time.perf_counter() - start)
    return len(batch) / max(min(times), 1e-9)


def probe_layers(source: Source, *, include_last: bool = False) -> dict[str, Any]:
    """Return three layers spread over the candidates, pooled, to measure fidelity on; and the last of all."""
    candidates = [layer for layer in source.layers if layer.candidate] or list(source.layers[-1:])
    picked = [candidates[i] for i in (len(candidates) // 3, 2 * len(candidates) // 3, -1)]
    picked += [source.layers[-1]] if include_last else []
    return {
        layer.name: reducer(resolve("auto", axes=layer.axes, shape=layer.shape, modality=source.modality), layer.axes)
        for layer in sorted(picked, key=lambda candidate: candidate.macs)
    }


def min_cosine(reference: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> float:
    """The smallest cosine between corresponding rows, over all layers. Rows that are zero in both count as equal."""
    least = 1.0
    for name, plain in reference.items():
        a, b = plain.reshape(len(plain), -1).astype(np.float64), rows[name].reshape(len(plain), -1).astype(np.float64)
        if not np.isfinite(b).all():
            return -1.0
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.divide((a * b).sum(1), norms, out=np.ones(len(a)), where=norms > 0)
        least = min(least, float(cosine.min()))
    return least


def _check_batch_invariance(source: Source, samples: Sequence[Any], choice: RuntimeConfig) -> None:
    """Features of an item may not depend on its batch-mates, and must come out the same twice: the whole network."""
    engine = ENGINES[choice.engine](source, probe_layers(source, include_last=True), choice)
    tolerance = _TOLERANCES[choice.precision]
    batch = source.input.collate(samples[:4])
    together = engine(batch)
    _check_same_rows(source, together, engine(batch), tolerance)
    _check_same_rows(source, together, engine(source.input.collate(samples[:1])), tolerance)
    example = source.input.example(3)
    if len(samples) < 2 and example.counts is None:  # batch-mates that are copies tell nothing
        mask = None if example.mask is None else example.mask[:1]
        first = Batch({name: values[:1] for name, values in example.inputs.items()}, mask=mask)
        _check_same_rows(source, engine(example), engine(first), tolerance)


def _check_same_rows(
    source: Source, rows: dict[str, np.ndarray], again: dict[str, np.ndarray], tolerance: float
) -> None:
    """The rows that both have, the first ones of each layer, must agree."""
    for name, values in again.items():
        first, second = (
            part[: len(values)].reshape(len(values), -1).astype(np.float64) for part in (rows[name], values)
        )
        scale = np.maximum(np.linalg.norm(first, axis=1), 1e-12)
        if first.shape != second.shape or (np.linalg.norm(first - second, axis=1) / scale).max() > tolerance:
            raise SourceError(
                f"{source.address}: at layer {name} the features of an item change with its batch-mates or from run to "
                "run, although the network is in evaluation mode. Some module uses batch statistics or random numbers "
                "in forward(); such features cannot be cached."
            )


@lru_cache(maxsize=1)
def _cpu_model() -> str:
    """The processor's model, so that a cache folder shared by several machines keeps their choices apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    facts = {line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags", "Features"))}
    return fingerprint(sorted(facts))
