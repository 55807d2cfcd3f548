"""Ranking metrics that are exact on ties, defined once, and say what they did with odd groups.

numpy and torch only: usable without TorchRec. Every function takes numpy arrays, tensors or
lists and returns Python floats.
"""

from sidrank.metrics.auc import auc
from sidrank.metrics.grouped_auc import GroupAUCs, group_aucs, grouped_auc
from sidrank.metrics.intervals import Interval, PairedRun, paired_interval
from sidrank.metrics.log_loss import log_loss, normalized_entropy

__all__ = [
    "GroupAUCs",
    "Interval",
    "PairedRun",
    "auc",
    "group_aucs",
    "grouped_auc",
    "log_loss",
    "normalized_entropy",
    "paired_interval",
]
