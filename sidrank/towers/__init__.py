"""Behaviours and a target, or an instruction, in; one vector out. Torch only."""

from sidrank.towers.din import DIN
from sidrank.towers.eta import LSHSearch
from sidrank.towers.instruction_search import InstructionGuidedSearch
from sidrank.towers.search_attention import ESUTargetAttention, GSUSearch, SearchAttention
from sidrank.towers.twin import TWIN
from sidrank.towers.urgency_din import UrgencyDIN, mask_expired

__all__ = [
    "DIN",
    "TWIN",
    "ESUTargetAttention",
    "GSUSearch",
    "InstructionGuidedSearch",
    "LSHSearch",
    "SearchAttention",
    "UrgencyDIN",
    "mask_expired",
]
