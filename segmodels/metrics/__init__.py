"""Metrics of an evaluation, one idea per file.

Every score is a function of counts that add up over images and ranks.
"""

from segmodels.metrics.confusion import JaccardIndex, confusion_of, scores

__all__ = ["JaccardIndex", "confusion_of", "scores"]
