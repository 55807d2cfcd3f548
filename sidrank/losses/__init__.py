"""What models and tokenizers learn from. Torch only."""

from sidrank.losses.contrastive import info_nce, multi_positive_info_nce, two_way_info_nce
from sidrank.losses.query_to_item import Q2ILoss
from sidrank.losses.sid_item_contrast import SIDItemContrast

__all__ = [
    "Q2ILoss",
    "SIDItemContrast",
    "info_nce",
    "multi_positive_info_nce",
    "two_way_info_nce",
]
