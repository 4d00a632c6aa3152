"""pretrain(): train an architecture on a source task, and return it as a Source."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from headstart._base.constraints import validate
from headstart._base.hashing import fingerprint
from headstart._base.registry import check_parameters
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.extraction.loading import readable_items, sample_loader
from headstart.extraction.source_statistics import source_statistics
from headstart.pretraining.base import ARCHITECTURES, OBJECTIVES, Objective
from headstart.sources.base import Source, load_source
from headstart.training.augment import image_views
from headstart.training.batches import SampleBatches, Samples
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import Augment, TrainingConfig
from headstart.training.distributed import init_distributed
from headstart.training.loop import train

_DEFAULTS = TrainingConfig(weight_decay=0.01)
_OF_THE_LOSS = ("label_smoothing", "precision")


def pretrain(
    architecture: str | Source,
    data: Dataset,
    *,
    objective: str = "supervised",
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    budget: float | None = None,
    config: TrainingConfig | None = None,
    augment: Augment | None = None,
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
    budget : float, optional
        Seconds; cuts the number of epochs to what fits.
    config : TrainingConfig, optional
        Everything else that training can be told (weight decay, moving average, precision, workers, …); the arguments
        above stand for its fields of the same names where it leaves them open.
    augment : Augment, optional
        Random views of images (``views``), and mixup.
    image_size : int, optional
        Side of the images given to the network.
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
    prepare: Objective = OBJECTIVES[objective]
    augment = augment if augment is not None else Augment()
    validate(augment)
    training = dataclasses.replace(config if config is not None else _DEFAULTS, seed=random_state)
    if training.budget is None:
        training = dataclasses.replace(training, budget=budget)
    training = training.resolve(epochs=epochs, batch_size=batch_size, lr=lr)
    source = _initial(architecture, data, seed=random_state, image_size=image_size, options=options)
    data = readable_items(source, data)
    identity = _identity(source, data, objective, config=training, augment=augment)  # before the weights change
    batches = _batches(source, data, augment)
    plan = prepare(source, data, batches, config=training, augment=augment)
    history: dict[str, Any] = {}
    if plan.loss is not None:
        course = train(
            [ParameterGroup(plan.parameters)],
            plan.loss,
            batches,
            config=training,
            buffers={name: b for name, b in source.module.named_buffers() if name not in plan.parameters},
            checkpoint=Path(checkpoint).expanduser() if checkpoint is not None else None,
            identity=identity,
            label=f"{source.name}: pretraining",
        )
        history = {"loss": [round(v, 5) for v in course.loss], "epochs": len(course.loss)}
    network = source.module.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    meta = {**source.meta, **plan.meta, "objective": objective, "random_state": random_state, **history}
    address = f"{source.address.partition('+')[0]}+{objective}-{data.fingerprint[:6]}"
    result = source.with_module(network, meta=meta, address=address, statistics=None)
    if statistics:
        return dataclasses.replace(result, statistics=source_statistics(result, data, store=False))
    return result


def _batches(source: Source, data: Dataset, augment: Augment) -> SampleBatches:
    views = None
    if (augment.views or 1) > 1:
        views = image_views(source, data, mirror=False)  # nobody can tell yet whether a mirror image is harmless
        if views is None:
            raise OptionError("views= above 1 needs images: other items have no random variants. Leave it out.")
    samples = Samples(sample_loader(source, data), source.input.collate, len(data), views=views)
    return SampleBatches(samples, views=augment.views or 1)


def _identity(source: Source, data: Dataset, objective: str, *, config: TrainingConfig, augment: Augment) -> str:
    """Return what is trained on what, as a fingerprint; the loop adds the settings of every step to it."""
    record: list[Any] = [source.fingerprint, data.fingerprint, objective]
    # version 0.1 knew none of these, and its checkpoints are still taken up
    changed = {name: value for name, value in config.changes(_DEFAULTS).items() if name in _OF_THE_LOSS}
    if changed or augment != Augment():
        record.append([changed, vars(augment)])
    return fingerprint(record)


def _initial(
    architecture: str | Source, data: Dataset, *, seed: int, image_size: int | None, options: dict[str, Any]
) -> Source:
    """Return the source that is trained: built anew, or a copy of the one given."""
    if len(data) == 0:
        raise DataError("There is nothing to pretrain on: the dataset is empty.")
    if isinstance(architecture, Source) or ":" in architecture:
        source = load_source(architecture, **options)
        return source.with_module(copy.deepcopy(source.module))
    build = ARCHITECTURES[architecture]
    check_parameters(f"options of architecture {architecture!r}", options, build)
    if data.columns:  # one output per class, or per value of a regression
        options = {"classes": data.columns[0].matrix().shape[1], **options}
    result: Source = build(data, seed=seed, image_size=image_size, **options)
    return result
