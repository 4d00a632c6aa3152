"""Fine-tuning: (source, solved head) × policy → (source, head). Floor 5.

Starts from the solved head (LP-FT, Kumar et al. 2022). What a policy does not move is bit-identical afterwards,
batch-norm statistics included. The source given is never touched.
"""

from headstart._samples import Samples, Views
from headstart.finetuning._cache import ActivationStore
from headstart.finetuning._network import FineTuneModel, HeadInit, LayerSpec
from headstart.finetuning._plan import estimate
from headstart.finetuning._tune import FineTuneResult, decisions, finetune
from headstart.finetuning._views import image_views, mirrored

__all__ = [
    "LayerSpec",
    "ActivationStore",
    "FineTuneResult",
    "Samples",
    "HeadInit",
    "FineTuneModel",
    "Views",
    "decisions",
    "estimate",
    "mirrored",
    "image_views",
    "finetune",
]
