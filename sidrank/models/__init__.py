"""Rankers assembled from the other rooms: examples to read, and to start from."""

from sidrank.models.dlrm_ranking import DLRMRanking
from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.sid_behaviours import SIDBehaviours
from sidrank.models.sid_ranker import SIDRanker
from sidrank.models.situation_behaviours import SituationBehaviours
from sidrank.models.situation_ctr import SituationCTR
from sidrank.models.token_former import TokenFormer

__all__ = [
    "DLRMRanking",
    "ItemBehaviours",
    "SIDBehaviours",
    "SIDRanker",
    "SituationBehaviours",
    "SituationCTR",
    "TokenFormer",
]
