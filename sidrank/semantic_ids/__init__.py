"""What an item's semantic ID is: its shape, its table, its lookup, its bundle, its quality.

And the life of a table after day one: collisions, drift, codes that change with time, the trie.
"""

from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.bpe_file import load_bpe, save_bpe
from sidrank.semantic_ids.bundle import SIDBundle, load_bundle, save_bundle
from sidrank.semantic_ids.cohesion import preference_discrimination, semantic_cohesion
from sidrank.semantic_ids.collisions import (
    CollisionPolicy,
    Collisions,
    Keep,
    NextNearest,
    Resolution,
    SuffixLevel,
    collisions,
)
from sidrank.semantic_ids.decoded_distances import decoded_distances
from sidrank.semantic_ids.drift import DriftFigure, Quantiser, SIDDrift, drift, usage_drift
from sidrank.semantic_ids.dynamic_table import DynamicSIDTable
from sidrank.semantic_ids.lookup import SIDLookup
from sidrank.semantic_ids.neighbours import neighbour_recall, query_recalls
from sidrank.semantic_ids.purity import SIDPurity, prefix_purity, v_measure
from sidrank.semantic_ids.quality import SIDQuality, quality
from sidrank.semantic_ids.sid_embedding import SIDEmbedding
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable, SIDVersionError
from sidrank.semantic_ids.tokenizer import FittedTokenizer
from sidrank.semantic_ids.trie import Ragged, SIDTrie
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder
from sidrank.semantic_ids.unit_usage import UnitUsage, unit_usage

__all__ = [
    "SIDBPE",
    "CollisionPolicy",
    "Collisions",
    "DriftFigure",
    "DynamicSIDTable",
    "FittedTokenizer",
    "Keep",
    "NextNearest",
    "Quantiser",
    "Ragged",
    "Resolution",
    "SIDBundle",
    "SIDDrift",
    "SIDEmbedding",
    "SIDLookup",
    "SIDPurity",
    "SIDQuality",
    "SIDSpec",
    "SIDTable",
    "SIDTrie",
    "SIDUnitEncoder",
    "SIDVersionError",
    "SuffixLevel",
    "UnitUsage",
    "collisions",
    "decoded_distances",
    "drift",
    "load_bpe",
    "load_bundle",
    "neighbour_recall",
    "preference_discrimination",
    "prefix_purity",
    "quality",
    "query_recalls",
    "save_bpe",
    "save_bundle",
    "semantic_cohesion",
    "unit_usage",
    "usage_drift",
    "v_measure",
]
