"""Distances between two sets of features, from their moments: zero for identical, larger for less alike."""

from headstart.distances.base import DISTANCES, Distance, distance

__all__ = ["DISTANCES", "Distance", "distance"]
