"""What an item's semantic ID is: its shape, its table, its lookup, its bundle, its quality."""

from sidrank.semantic_ids.bundle import SIDBundle, load_bundle, save_bundle
from sidrank.semantic_ids.lookup import SIDLookup
from sidrank.semantic_ids.quality import SIDQuality, quality
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable, SIDVersionError
from sidrank.semantic_ids.tokenizer import FittedTokenizer

__all__ = [
    "FittedTokenizer",
    "SIDBundle",
    "SIDLookup",
    "SIDQuality",
    "SIDSpec",
    "SIDTable",
    "SIDVersionError",
    "load_bundle",
    "quality",
    "save_bundle",
]
