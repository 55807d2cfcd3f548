"""Dense blocks that several rooms share: gates, fusion, merging, attention. Torch only."""

from sidrank.layers.attention import attend
from sidrank.layers.attention_masks import window_mask
from sidrank.layers.cross_attention import CrossAttention
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.frozen_rows import FrozenRowsEmbedding
from sidrank.layers.gate_nu import GateNU
from sidrank.layers.gates import ConvexGate, ResidualGate
from sidrank.layers.gumbel_keep import GumbelKeep, keep_share
from sidrank.layers.nlir import NLIR
from sidrank.layers.piecewise_linear_encoding import (
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
)
from sidrank.layers.rank_mixer import PerTokenFFN, PerTokenLinear, RankMixerBlock
from sidrank.layers.resolution_attention import ResolutionAttention
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.segment_masks import condensation_mask, segment_mask
from sidrank.layers.self_attention import Memory, SelfAttention
from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead
from sidrank.layers.soft_discretization import SoftDiscretization
from sidrank.layers.sparse_moe import SparseMoE, balance_experts
from sidrank.layers.swiglu import SwiGLU
from sidrank.layers.task_token import TaskConditionedBOS, TaskGate
from sidrank.layers.token_merger import TokenMerger
from sidrank.layers.token_mixing import token_mixing
from sidrank.layers.windowed_attention import jagged_windowed_attention, windowed_attention

__all__ = [
    "NLIR",
    "ConvexGate",
    "CrossAttention",
    "DecoderBlock",
    "FrozenRowsEmbedding",
    "GateNU",
    "GumbelKeep",
    "Memory",
    "PerTokenFFN",
    "PerTokenLinear",
    "PiecewiseLinearEmbedding",
    "PiecewiseLinearEncoding",
    "RankMixerBlock",
    "ResidualGate",
    "ResolutionAttention",
    "RotaryEmbedding",
    "SelfAttention",
    "SemiCausalNTPHead",
    "SoftDiscretization",
    "SparseMoE",
    "SwiGLU",
    "TaskConditionedBOS",
    "TaskGate",
    "TokenMerger",
    "attend",
    "balance_experts",
    "condensation_mask",
    "jagged_windowed_attention",
    "keep_share",
    "segment_mask",
    "token_mixing",
    "window_mask",
    "windowed_attention",
]
