"""Extraction: Source × Dataset → FeatureBank. One pass for all asked layers, stopping after the deepest. Floor 4."""

from headstart.extraction.autotune import device_name
from headstart.extraction.extract import extract, open_store, recipe
from headstart.extraction.loading import item_label, readable_items, sample_loader, unreadable_items

__all__ = [
    "device_name",
    "extract",
    "item_label",
    "readable_items",
    "sample_loader",
    "recipe",
    "open_store",
    "unreadable_items",
]
