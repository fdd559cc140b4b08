"""Numbers to report, with their conventions."""

from delineate.metrics.overlap import CONVENTIONS, ConfusionMatrix, Scores

__all__ = ["CONVENTIONS", "ConfusionMatrix", "Scores"]
