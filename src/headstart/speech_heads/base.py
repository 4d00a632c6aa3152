"""CTC heads: frames of features (T, d) → log-probabilities of symbols per frame. The table, and what all share.

Connectionist temporal classification sums over all ways to align a text with the frames: each frame says one symbol or
the blank, repeats are merged, blanks dropped. A head is a small network on features that stay as they are; one file
beside this one and one line in ``CTC`` each.

References
----------
Graves et al., Connectionist temporal classification, ICML 2006.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from headstart._base.constraints import Interval, Options, validate
from headstart._base.registry import Family, check_names
from headstart.training.config import TrainingConfig, split_settings

CTC = Family(
    "CTC heads", {"bilstm": "headstart.speech_heads.bilstm:BiLstm", "linear": "headstart.speech_heads.linear:Linear"}
)


TRAINING = TrainingConfig(epochs=30, batch_size=16, lr=3e-3, weight_decay=1e-2, clip=5.0)
"""How a head is trained, unless it says otherwise; gradients of CTC are large at the beginning."""

# of the settings of training, those that have no effect here
_NO_EFFECT = ("budget", "seed", "label_smoothing", "precision", "num_workers", "patience")


@dataclass(frozen=True, kw_only=True)
class CtcHead(ABC):
    """How frames become text.

    Attributes
    ----------
    units : {"auto", "characters", "words"}
        What a symbol is. ``"auto"`` takes words where a few of them make up all transcripts (digits, commands).
    beam : int
        Width of the prefix beam search that reads the text off the frames; 1 takes the best symbol of every frame.
    dropout : float
    training : TrainingConfig
        Its fields are given to :func:`ctc` by name: ``ctc("bilstm", epochs=5)``. Batches are smaller where items are
        few, for 12 steps per epoch.

    Notes
    -----
    Frames must be at least as many as symbols, and one more between two equal ones.
    """

    name: ClassVar[str]

    units: Annotated[str, Options("auto", "characters", "words")] = "auto"
    beam: Annotated[int, Interval(1, 1000, integer=True)] = 8
    dropout: Annotated[float, Interval(0, 1, closed="left")] = 0.3
    training: TrainingConfig = TRAINING

    @abstractmethod
    def network(self, features: int, outputs: int) -> torch.nn.Module:
        """Initial weights, from torch's generator.

        The module takes (frames (n, T, features), lengths (n,)) and gives (n, T, outputs); nothing in it depends on
        frames beyond a length. Buffers ``mean`` and ``scale`` (features,) standardise the features.
        """

    def config(self) -> dict[str, Any]:
        """Return the hyper-parameters as flat plain data, from which :func:`ctc` makes the head again."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "training"
        }
        always = {name: getattr(self.training, name) for name in ("epochs", "batch_size", "lr", "weight_decay")}
        return {**fields, **always, **self.training.changes(TRAINING)}

    def check(self) -> None:
        """Raise OptionError when a field has a value that is not allowed."""
        validate(self.training)
        validate(self)


def ctc(name: str, **fields: Any) -> CtcHead:
    """Make a CTC head by name, for ``fit(head=…)``: ``ctc("bilstm", hidden=128)``.

    Raises
    ------
    UnknownName
        When there is no such head, or it has no such field. Values are checked by ``fit``.

    Examples
    --------
    >>> ctc("bilstm", beam=1).hidden
    64
    """
    kind = CTC[name]
    training, others = split_settings(fields, TrainingConfig)
    names = [field.name for record in (kind, TrainingConfig) for field in dataclasses.fields(record)]
    check_names(f"fields of {name}", fields, [n for n in names if n not in ("training", *_NO_EFFECT)])
    result: CtcHead = kind(**others, training=dataclasses.replace(TRAINING, **training))
    return result
