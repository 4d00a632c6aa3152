"""Extraction: Source × Dataset → FeatureBank. One pass for all asked layers, stopping after the deepest. Floor 4."""

from headstart.extraction.autotune import device_name
from headstart.extraction.extract import extract, recipe, store_of
from headstart.extraction.loading import label, readable, reading, unreadable

__all__ = ["device_name", "extract", "label", "readable", "reading", "recipe", "store_of", "unreadable"]
