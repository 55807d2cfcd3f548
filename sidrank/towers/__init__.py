"""Behaviours and a target, or an instruction, in; one vector out. Torch only."""

from sidrank.towers.din import DIN
from sidrank.towers.eta import LSHSearch
from sidrank.towers.instruction_search import InstructionGuidedSearch
from sidrank.towers.least_squares import LeastSquaresRead
from sidrank.towers.search_attention import ESUTargetAttention, GSUSearch, SearchAttention
from sidrank.towers.situation_aggregation import TypedTargetAttention
from sidrank.towers.situation_correlations import (
    AcrossBehaviours,
    AcrossFields,
    SituationCorrelations,
    WithRequest,
)
from sidrank.towers.situation_denoising import SituationDenoising
from sidrank.towers.situation_fields import SituationFields, TypeParameterization, elapsed
from sidrank.towers.situation_tower import SituationTower
from sidrank.towers.twin import TWIN
from sidrank.towers.urgency_din import UrgencyDIN, mask_expired

__all__ = [
    "DIN",
    "TWIN",
    "AcrossBehaviours",
    "AcrossFields",
    "ESUTargetAttention",
    "GSUSearch",
    "InstructionGuidedSearch",
    "LSHSearch",
    "LeastSquaresRead",
    "SearchAttention",
    "SituationCorrelations",
    "SituationDenoising",
    "SituationFields",
    "SituationTower",
    "TypeParameterization",
    "TypedTargetAttention",
    "UrgencyDIN",
    "WithRequest",
    "elapsed",
    "mask_expired",
]
