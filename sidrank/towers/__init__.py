"""Behaviours and a target, or an instruction, in; one vector out. Torch only."""

from sidrank.towers.instruction_search import InstructionGuidedSearch
from sidrank.towers.search_attention import ESUTargetAttention, GSUSearch, SearchAttention

__all__ = ["ESUTargetAttention", "GSUSearch", "InstructionGuidedSearch", "SearchAttention"]
