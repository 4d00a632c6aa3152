"""Fine-tuning: (source, solved head) × policy → (source, head). Floor 5.

Starts from the solved head (LP-FT, Kumar et al. 2022). What a policy does not move is bit-identical afterwards,
batch-norm statistics included. The source given is never touched.
"""

from headstart._samples import Samples
from headstart.finetuning._network import Feature, Start, Tuned
from headstart.finetuning._tune import Outcome, tune

__all__ = ["Feature", "Outcome", "Samples", "Start", "Tuned", "tune"]
