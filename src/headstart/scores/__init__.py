"""Scores: how well features transfer to a target, before any head is trained. Higher is better."""

from headstart.scores.base import SCORES, Score, score

__all__ = ["SCORES", "Score", "score"]
