"""Fine-tuning: (source, solved head) × policy → (source, head). Floor 5.

Starts from the solved head (LP-FT, Kumar et al. 2022). What a policy does not move is bit-identical afterwards,
batch-norm statistics included. The source given is never touched.
"""

from headstart._samples import Samples, Views
from headstart.finetuning._cache import Keep
from headstart.finetuning._network import Feature, Start, Tuned
from headstart.finetuning._plan import estimate
from headstart.finetuning._tune import Outcome, decisions, tune
from headstart.finetuning._views import mirrored, picture_views

__all__ = [
    "Feature",
    "Keep",
    "Outcome",
    "Samples",
    "Start",
    "Tuned",
    "Views",
    "decisions",
    "estimate",
    "mirrored",
    "picture_views",
    "tune",
]
