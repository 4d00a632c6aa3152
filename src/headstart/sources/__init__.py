"""Sources: models that already know something. One model family per file. Floor 3."""

from headstart.sources.base import SOURCES, Batch, Layer, Source, SourceHead, load_source

__all__ = ["SOURCES", "Batch", "Layer", "Source", "SourceHead", "load_source"]
