"""LoRA: low-rank additions to linear layers are trained, through peft, and merged into the weights afterwards.

References
----------
Hu et al., LoRA: Low-rank adaptation of large language models, ICLR 2022.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from headstart._base import extras
from headstart._base.constraints import Interval, Name, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost

if TYPE_CHECKING:
    import torch

_WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class Lora(Policy):
    """``W + alpha / rank · B A`` in the linear layers of the topmost ``layers`` units, ``"all"`` by default.

    The result is an ordinary source: after training the product is added to the weights.

    Cost: it saves memory for the optimiser, not time: the backward pass still runs through every unit above the lowest
    linear layer. Needs peft, and linear layers: transformers have them everywhere, convolutional networks hardly.
    """

    name: ClassVar[str] = "lora"
    partial: ClassVar[bool] = True
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "all"
    rank: Annotated[int, Interval(1, 4096, integer=True)] = 8
    alpha: Annotated[float, Interval(0, None, closed="neither")] = 16.0

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the weights of linear layers: what has changed in the end."""
        top = topmost(parameters, self.layers)
        weights = (p for p in parameters if p.unit in top and p.kind == "linear" and f".{p.name}".endswith(_WEIGHT))
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in weights]

    def adapt(self, network: torch.nn.Module, trainable: Sequence[TrainableParameter]) -> list[TrainableParameter]:
        """Put the additions into the network, and return them: they are trained in place of the weights."""
        peft = extras.require_package("peft", "for policy='lora'")
        names = [parameter.name.removesuffix(_WEIGHT) for parameter in trainable]
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules="|".join(map(re.escape, names)), lora_dropout=0.0
        )
        peft.inject_adapter_in_model(config, network)
        return [
            TrainableParameter(f"{name}.lora_{part}.default{_WEIGHT}", parameter.lr_scale, parameter.start_epoch)
            for name, parameter in zip(names, trainable)
            for part in "AB"
        ]

    def merge(self, network: torch.nn.Module) -> None:
        """Add the products to the weights and take peft's layers out again."""
        layer = extras.require_package("peft.tuners.lora", "for policy='lora'").LoraLayer
        for name, module in list(network.named_modules()):
            if isinstance(module, layer):
                module.merge()
                above, _, last = name.rpartition(".")
                setattr(network.get_submodule(above), last, module.get_base_layer())
        network.__dict__.pop("peft_config", None)
