"""Fine-tuning: (source, solved head) × policy → (source, head).

Starts from the solved head (LP-FT, Kumar et al. 2022). What a policy does not train is bit-identical afterwards,
batch-norm statistics included. The source given is never touched.
"""

from headstart.finetuning.budget import estimate
from headstart.finetuning.cache import ActivationStore
from headstart.finetuning.finetune import FineTuneResult, decisions, finetune
from headstart.finetuning.model import FineTuneModel, HeadInit
from headstart.training.augment import image_views, mirrored
from headstart.training.batches import Samples, Views

__all__ = [
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
