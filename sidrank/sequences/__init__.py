"""Behaviours in, tokens or features out: alignment, search, tiers. Torch only."""

from sidrank.sequences.bfts import BFTSEncoder
from sidrank.sequences.bottleneck_pool import BottleneckPool, CondensedPrediction
from sidrank.sequences.compression_tokens import CompressionTokens
from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention
from sidrank.sequences.future import refuse_future_behaviours
from sidrank.sequences.hyformer import (
    HyFormer,
    HyFormerBlock,
    HyFormerQueries,
    KeepingHyFormer,
    QueryBoosting,
)
from sidrank.sequences.instance_rows import (
    InstanceHistory,
    InstanceSpec,
    instance_ids,
)
from sidrank.sequences.instance_sequence import InstanceSequence
from sidrank.sequences.instance_store import InMemoryInstanceStore, InstanceStore
from sidrank.sequences.instance_store_mapped import MappedInstanceStore
from sidrank.sequences.instance_store_sqlite import SQLiteInstanceStore
from sidrank.sequences.instance_tokens import InstanceTokenizer, InstanceTokens, user_order
from sidrank.sequences.interest_alignment import InterestAlignment
from sidrank.sequences.query_former import QueryFormer
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.selection import best_by_time, earlier, exclusive_rate, take
from sidrank.sequences.semantic_hard_search import DualCrossAttention, SemanticHardSearch
from sidrank.sequences.sid_tier import SIDTierToken, TierHistogram, bucket_means
from sidrank.sequences.sparse_ctr_encoder import SparseCTREncoder
from sidrank.sequences.time_aware_attention import (
    TimeAwareGatedAttention,
    TimeEncoding,
    calendar_features,
)
from sidrank.sequences.time_chunks import EqualChunker, TimeChunker
from sidrank.sequences.token_kv_cache import TokenKVCache, TokenStates, model_tag

__all__ = [
    "BFTSEncoder",
    "BottleneckPool",
    "CompressionTokens",
    "CondensedPrediction",
    "DualCrossAttention",
    "EqualChunker",
    "EvolutionarySparseAttention",
    "HyFormer",
    "HyFormerBlock",
    "HyFormerQueries",
    "InMemoryInstanceStore",
    "InstanceHistory",
    "InstanceSequence",
    "InstanceSpec",
    "InstanceStore",
    "InstanceTokenizer",
    "InstanceTokens",
    "InterestAlignment",
    "KeepingHyFormer",
    "MappedInstanceStore",
    "QueryBoosting",
    "QueryFormer",
    "RelTemporalBias",
    "SIDTierToken",
    "SQLiteInstanceStore",
    "SemanticHardSearch",
    "SparseCTREncoder",
    "TierHistogram",
    "TimeAwareGatedAttention",
    "TimeChunker",
    "TimeEncoding",
    "TokenKVCache",
    "TokenStates",
    "best_by_time",
    "bucket_means",
    "calendar_features",
    "earlier",
    "exclusive_rate",
    "instance_ids",
    "model_tag",
    "refuse_future_behaviours",
    "take",
    "user_order",
]
