"""Sources: models that already know something. One model family per file. Floor 3."""

from headstart.sources.base import SOURCES, Source, load_source
from headstart.sources.types import Batch, Layer

__all__ = ["SOURCES", "Batch", "Layer", "Source", "load_source"]
