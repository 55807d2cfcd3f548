"""Rankers assembled from the other rooms: examples to read, and to start from."""

from sidrank.models.sid_behaviours import SIDBehaviours
from sidrank.models.sid_ranker import SIDRanker

__all__ = ["SIDBehaviours", "SIDRanker"]
