"""Ranking metrics that are exact on ties, defined once, and say what they did with odd groups.

numpy and torch only: usable without TorchRec. Every function takes numpy arrays, tensors or
lists, never changes them, and stops at the first row that is not what it should be. States that
take batches are in ``Streaming...``; ``sidrank.metrics.torchrec`` puts them into TorchRec's
metric module and is the one file that needs it.
"""

from sidrank.metrics.auc import auc
from sidrank.metrics.bootstrap import cluster_bootstrap
from sidrank.metrics.calibration import (
    Reliability,
    brier_score,
    calibration,
    expected_calibration_error,
    reliability,
)
from sidrank.metrics.cohorts import exposure_slices, sid_prefixes
from sidrank.metrics.delong import AUCDifference, AUCEstimate, delong, paired_delong
from sidrank.metrics.effective_rank import StreamingEffectiveRank, effective_rank
from sidrank.metrics.expected_auc import bayes_auc, expected_auc
from sidrank.metrics.grouped_auc import GroupAUCs, group_aucs, grouped_auc
from sidrank.metrics.hierarchical_recall import hierarchical_recall
from sidrank.metrics.intervals import Interval, PairedRun, paired_interval
from sidrank.metrics.log_loss import log_loss, normalized_entropy
from sidrank.metrics.multiplicity import benjamini_hochberg
from sidrank.metrics.requests import hit_rate, mean_reciprocal_rank, ndcg
from sidrank.metrics.sequential_collapse import SequentialCollapse, sequential_collapse
from sidrank.metrics.slices import SliceMetrics, Slices, slice_metrics
from sidrank.metrics.streaming_auc import Bounds, StreamingAUC
from sidrank.metrics.streaming_grouped_auc import StreamingGroupedAUC

__all__ = [
    "AUCDifference",
    "AUCEstimate",
    "Bounds",
    "GroupAUCs",
    "Interval",
    "PairedRun",
    "Reliability",
    "SequentialCollapse",
    "SliceMetrics",
    "Slices",
    "StreamingAUC",
    "StreamingEffectiveRank",
    "StreamingGroupedAUC",
    "auc",
    "bayes_auc",
    "benjamini_hochberg",
    "brier_score",
    "calibration",
    "cluster_bootstrap",
    "delong",
    "effective_rank",
    "expected_auc",
    "expected_calibration_error",
    "exposure_slices",
    "group_aucs",
    "grouped_auc",
    "hierarchical_recall",
    "hit_rate",
    "log_loss",
    "mean_reciprocal_rank",
    "ndcg",
    "normalized_entropy",
    "paired_delong",
    "paired_interval",
    "reliability",
    "sequential_collapse",
    "sid_prefixes",
    "slice_metrics",
]
