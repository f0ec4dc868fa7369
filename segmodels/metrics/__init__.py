"""What a judgement measures, one idea per file; every number is a function of counts that add up
over images and ranks."""

from segmodels.metrics.confusion import JaccardIndex, confusion_of, scores

__all__ = ["JaccardIndex", "confusion_of", "scores"]
