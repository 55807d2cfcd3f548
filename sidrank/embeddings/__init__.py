"""Semantic IDs in front of stock TorchRec collections: batches in, pooled embeddings out."""

from sidrank.embeddings.alignment_stage import alignment_stage
from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.embeddings.content_vectors import ContentSource, ContentVectors
from sidrank.embeddings.feature_reconstruction import (
    FeatureReconstruction,
    RequestBatch,
    stored_once,
)
from sidrank.embeddings.host_checkpoint import host_names, load_host_checkpoint
from sidrank.embeddings.hybrid import HybridEmbeddingBagCollection
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.embeddings.memorization import GeneralizationBranch, MemorizationBranch, WideAndDeep
from sidrank.embeddings.ranking_requests import RankingRequests
from sidrank.embeddings.row_features import features_of
from sidrank.embeddings.sid_expander import SIDExpander, check_coverage
from sidrank.embeddings.sid_replacement import SIDReplacement
from sidrank.embeddings.sid_sources import CodeFeatureSource, RawIDSource
from sidrank.embeddings.surgery import replace_embeddings

__all__ = [
    "CodeFeatureSource",
    "ContentSource",
    "ContentSummaryHash",
    "ContentVectors",
    "FeatureReconstruction",
    "GeneralizationBranch",
    "HybridEmbeddingBagCollection",
    "KeywordBag",
    "MemorizationBranch",
    "RankingRequests",
    "RawIDSource",
    "RequestBatch",
    "SIDExpander",
    "SIDReplacement",
    "WideAndDeep",
    "alignment_stage",
    "check_coverage",
    "features_of",
    "host_names",
    "load_host_checkpoint",
    "replace_embeddings",
    "stored_once",
]
