"""Behaviours in, tokens or features out: alignment, search, tiers. Torch only."""

from sidrank.sequences.interest_alignment import InterestAlignment
from sidrank.sequences.selection import best_by_time, earlier, exclusive_rate, take
from sidrank.sequences.semantic_hard_search import DualCrossAttention, SemanticHardSearch
from sidrank.sequences.sid_tier import SIDTierToken, TierHistogram, bucket_means

__all__ = [
    "DualCrossAttention",
    "InterestAlignment",
    "SIDTierToken",
    "SemanticHardSearch",
    "TierHistogram",
    "best_by_time",
    "bucket_means",
    "earlier",
    "exclusive_rate",
    "take",
]
