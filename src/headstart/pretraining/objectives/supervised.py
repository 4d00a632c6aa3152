"""Learn the labels of the source task: cross entropy, binary cross entropy or squared error on the network's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from headstart._base.processes import local_shard
from headstart.errors import DataError
from headstart.pretraining.base import PretrainingPlan
from headstart.training.losses import loss_for


def prepare(source: Any, data: Any, samples: Any) -> PretrainingPlan:
    """The whole network moves, its own classifier included.

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
    wanted = torch.from_numpy(matrix.astype(np.float32))
    measure = loss_for(column.task, wanted)
    network = source.module.train()
    device = next(network.parameters()).device

    def loss(indices: np.ndarray, _generator: torch.Generator) -> torch.Tensor:
        indices = local_shard(indices)
        tensors = source.input.tensors(samples.batch(indices), device, torch.float32)
        output = source.forward(tensors, module=network)
        if output.shape != (len(indices), wanted.shape[1]):
            raise DataError(
                f"The network gives {tuple(output.shape[1:])} numbers per item, but {column.name!r} needs "
                f"{wanted.shape[1]}. Give it an output of that size (num_classes= or classes= in its options)."
            )
        return measure(output, wanted[torch.from_numpy(indices)].to(output.device))

    classes = [str(c) for c in column.classes or ()]
    return PretrainingPlan(
        dict(network.named_parameters()), loss, len(matrix), {"classes": classes, "task": column.task}
    )
