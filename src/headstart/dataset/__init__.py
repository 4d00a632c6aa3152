"""Dataset: items, targets, groups, a modality and a task; how to split, sample and compare them. Numpy only."""

from headstart.dataset.dataset import Dataset, check_has_targets
from headstart.dataset.duplicates import Item, KeyCache
from headstart.dataset.targets import Target

__all__ = ["Dataset", "Item", "KeyCache", "Target", "check_has_targets"]
