"""Dense blocks that several rooms share: gates, fusion, merging, attention. Torch only."""

from sidrank.layers.cross_attention import CrossAttention
from sidrank.layers.frozen_rows import FrozenRowsEmbedding
from sidrank.layers.gates import ConvexGate, ResidualGate
from sidrank.layers.resolution_attention import ResolutionAttention
from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead
from sidrank.layers.soft_discretization import SoftDiscretization
from sidrank.layers.task_token import TaskConditionedBOS, TaskGate
from sidrank.layers.token_merger import TokenMerger

__all__ = [
    "ConvexGate",
    "CrossAttention",
    "FrozenRowsEmbedding",
    "ResidualGate",
    "ResolutionAttention",
    "SemiCausalNTPHead",
    "SoftDiscretization",
    "TaskConditionedBOS",
    "TaskGate",
    "TokenMerger",
]
