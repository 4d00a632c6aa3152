"""Extraction: Source × Dataset → FeatureBank. One pass for all asked layers, stopping after the deepest. Floor 4."""

from headstart.extraction._choosing import device_name
from headstart.extraction._extract import extract, recipe, store_of
from headstart.extraction._reading import label, readable, reading, unreadable

__all__ = ["device_name", "extract", "label", "readable", "reading", "recipe", "store_of", "unreadable"]
