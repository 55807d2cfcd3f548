"""Semantic IDs in front of stock TorchRec collections: batches in, pooled embeddings out."""

from sidrank.embeddings.host_checkpoint import host_names, load_host_checkpoint
from sidrank.embeddings.hybrid import HybridEmbeddingBagCollection
from sidrank.embeddings.memorization import GeneralizationBranch, MemorizationBranch, WideAndDeep
from sidrank.embeddings.sid_expander import SIDExpander, check_coverage
from sidrank.embeddings.sid_sources import CodeFeatureSource, RawIDSource
from sidrank.embeddings.surgery import replace_embeddings

__all__ = [
    "CodeFeatureSource",
    "GeneralizationBranch",
    "HybridEmbeddingBagCollection",
    "MemorizationBranch",
    "RawIDSource",
    "SIDExpander",
    "WideAndDeep",
    "check_coverage",
    "host_names",
    "load_host_checkpoint",
    "replace_embeddings",
]
