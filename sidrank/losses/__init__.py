"""What models and tokenizers learn from. Torch only."""

from sidrank.losses.contrastive import info_nce, multi_positive_info_nce, two_way_info_nce
from sidrank.losses.joint_ranking import jrc
from sidrank.losses.listwise import listnet
from sidrank.losses.neural_ndcg import neural_ndcg
from sidrank.losses.pairwise import pairwise_logistic
from sidrank.losses.pointwise import binary_cross_entropy
from sidrank.losses.query_to_item import Q2ILoss
from sidrank.losses.request_lists import request_ids
from sidrank.losses.sid_item_contrast import SIDItemContrast
from sidrank.losses.uncertainty_weighting import UncertaintyWeighting

__all__ = [
    "Q2ILoss",
    "SIDItemContrast",
    "UncertaintyWeighting",
    "binary_cross_entropy",
    "info_nce",
    "jrc",
    "listnet",
    "multi_positive_info_nce",
    "neural_ndcg",
    "pairwise_logistic",
    "request_ids",
    "two_way_info_nce",
]
