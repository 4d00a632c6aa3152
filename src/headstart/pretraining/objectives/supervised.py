"""Learn the labels of the source task: cross entropy, binary cross entropy or squared error on the network's output."""

from __future__ import annotations

import numpy as np
import torch

from headstart.dataset.dataset import Dataset
from headstart.errors import DataError
from headstart.pretraining.base import PretrainingPlan
from headstart.sources.base import Source
from headstart.sources.types import Batch
from headstart.training.augment import Mix
from headstart.training.batches import SampleBatches
from headstart.training.config import Augment, TrainingConfig
from headstart.training.losses import SupervisedLoss


def prepare(
    source: Source, data: Dataset, batches: SampleBatches, *, config: TrainingConfig, augment: Augment
) -> PretrainingPlan:
    """Train the whole network, its own classifier included.

    Raises
    ------
    DataError
        Without targets, with several target columns or missing labels, or when the network's output has another width.
    """
    if len(data.columns) != 1:
        raise DataError(f"objective='supervised' needs one target column; this dataset has {len(data.columns)}.")
    column = data.columns[0]
    matrix = column.matrix()
    if np.isnan(matrix).any():
        raise DataError(f"{int(np.isnan(matrix).any(1).sum())} labels of {column.name!r} are missing; leave those out.")
    network = source.module.train()
    device = next(network.parameters()).device

    def forward(batch: Batch, mix: Mix | None) -> torch.Tensor:
        tensors = source.input.tensors(batch, device, torch.float32)
        if mix is not None:
            tensors = {name: mix(t) if t.is_floating_point() else t for name, t in tensors.items()}
        output: torch.Tensor = source.forward(tensors, module=network)
        if output.shape != (len(batch), matrix.shape[1]):
            raise DataError(
                f"The network gives {tuple(output.shape[1:])} numbers per item, but {column.name!r} needs "
                f"{matrix.shape[1]}. Give it an output of that size (num_classes= or classes= in its options)."
            )
        return output

    targets = torch.from_numpy(matrix.astype(np.float32)).to(device)
    loss = SupervisedLoss(forward, targets, column.task, config=config, augment=augment)
    classes = [str(c) for c in column.classes or ()]
    return PretrainingPlan(dict(network.named_parameters()), loss, {"classes": classes, "task": column.task})
