"""Dataset: items, targets, groups, a modality and a task; how to split, sample and compare them. Numpy only."""

from headstart.dataset._dataset import Dataset, need_targets
from headstart.dataset._duplicates import Item, KeyCache
from headstart.dataset._target import Target

__all__ = ["Dataset", "Item", "KeyCache", "Target", "need_targets"]
