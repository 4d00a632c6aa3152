"""pretrain(): train an architecture on a source task, and give it back as a Source."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from headstart._base.hashing import fingerprint
from headstart._base.registry import check_parameters
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError
from headstart.extraction.loading import readable, reading
from headstart.extraction.source_statistics import source_statistics
from headstart.pretraining.base import ARCHITECTURES, OBJECTIVES
from headstart.sources.base import Source, load_source
from headstart.training.batches import Samples
from headstart.training.checkpoint import ParameterGroup
from headstart.training.distributed import init_distributed
from headstart.training.loop import TrainingConfig, train


def pretrain(
    architecture: str | Source,
    data: Dataset,
    *,
    objective: str = "supervised",
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    budget: float | None = None,
    image_size: int | None = None,
    random_state: int = 0,
    checkpoint: str | Path | None = None,
    statistics: bool = False,
    **options: Any,
) -> Source:
    """Train a network on a source task; its features can then be transferred.

    Parameters
    ----------
    architecture : str or Source
        A built-in architecture (``"cnn"``), or a source (or its address) whose own network is trained further.
    data : Dataset
        The source task.
    objective : str
        ``"supervised"`` learns the labels; ``"random"`` leaves initial weights (the control).
    epochs, batch_size, lr
        Of AdamW with warm-up and cosine decay.
    budget : seconds, optional
        Cuts the number of epochs to what fits.
    image_size : int, optional
        Side of the pictures given to the network.
    random_state : int
        Seeds weights, order and dropout; recorded in ``source.meta``.
    checkpoint : path, optional
        Written after every epoch and taken up again after a kill.
    statistics : bool
        Also summarise the training data in the features (one more pass), so that rankings can say what a target shares
        with it. See :func:`headstart.source_statistics`.
    **options
        Of the architecture.

    Returns
    -------
    Source

    Raises
    ------
    UnknownName, OptionError, DataError, NumericsError, StoreError

    Notes
    -----
    Cost: ``epochs`` forward and backward passes over the data.
    """
    init_distributed()
    prepare = OBJECTIVES[objective]
    source = _fresh(architecture, data, seed=random_state, image_size=image_size, options=options)
    data = readable(source, data)
    begun = fingerprint([source.fingerprint, data.fingerprint, objective])
    samples = Samples(reading(source, data), source.input.collate, len(data))
    plan = prepare(source, data, samples)
    history: dict[str, Any] = {}
    if plan.loss is not None:
        schedule = TrainingConfig(
            epochs=epochs, batch_size=batch_size, lr=lr, budget=budget, seed=random_state, weight_decay=0.01
        )
        done = train(
            [ParameterGroup(plan.parameters)],
            plan.loss,
            plan.count,
            config=schedule,
            buffers={name: b for name, b in source.module.named_buffers() if name not in plan.parameters},
            checkpoint=Path(checkpoint).expanduser() if checkpoint is not None else None,
            identity=begun,
            label=f"{source.name}: pretraining",
        )
        history = {"loss": [round(v, 5) for v in done.loss], "epochs": len(done.loss)}
    network = source.module.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    meta = {**source.meta, **plan.meta, "objective": objective, "random_state": random_state, **history}
    address = f"{source.address.partition('+')[0]}+{objective}-{data.fingerprint[:6]}"
    made = source.with_module(network, meta=meta, address=address, statistics=None)
    return dataclasses.replace(made, statistics=source_statistics(made, data, store=False)) if statistics else made


def _fresh(
    architecture: str | Source, data: Dataset, *, seed: int, image_size: int | None, options: dict[str, Any]
) -> Source:
    if len(data) == 0:
        raise DataError("There is nothing to pretrain on: the dataset is empty.")
    if isinstance(architecture, Source) or ":" in architecture:
        source = load_source(architecture, **options)
        return source.with_module(copy.deepcopy(source.module))
    build = ARCHITECTURES[architecture]
    check_parameters(f"options of architecture {architecture!r}", options, build)
    if data.columns:  # one output per class, or per value of a regression
        options = {"classes": data.columns[0].matrix().shape[1], **options}
    made: Source = build(data, seed=seed, image_size=image_size, **options)
    return made
