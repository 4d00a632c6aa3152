"""Bytes → arrays: one modality per file. Floor 3, and no torch."""

from headstart.readers.base import READERS, Clip, Reader, reader

__all__ = ["READERS", "Clip", "Reader", "reader"]
