"""Tables larger than memory: what traffic asks for, how large a cache must be, and the cache."""

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.commit import Cache, TieredCheckpoint
from sidrank.cache.errors import CacheError
from sidrank.cache.flight import Flight
from sidrank.cache.journal import JournaledTier
from sidrank.cache.look_ahead import Window, simulate, simulate_set_associative
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cache.row_optimizer import RowOptimizer, new_rows, weight_rows
from sidrank.cache.row_wise import RowWiseTieredCollection, row_range, row_wise_tables
from sidrank.cache.sizes import CacheSizes, TableCache, TableShape, cache_sizes
from sidrank.cache.slot_map import NEVER, Placement, SlotMap
from sidrank.cache.slow_tier import FileTier, MemoryTier, SlowTier
from sidrank.cache.table_files import export_tables, exported_rows
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from sidrank.cache.traffic import Traffic

__all__ = [
    "NEVER",
    "AccessTrace",
    "Cache",
    "CacheError",
    "CacheSizes",
    "FileTier",
    "Flight",
    "JournaledTier",
    "LookAheadLoader",
    "MemoryTier",
    "MissRatioCurve",
    "Placement",
    "RowOptimizer",
    "RowWiseTieredCollection",
    "SlotMap",
    "SlowTier",
    "TableCache",
    "TableShape",
    "TieredCheckpoint",
    "TieredEmbeddingBagCollection",
    "Traffic",
    "Window",
    "cache_sizes",
    "export_tables",
    "exported_rows",
    "new_rows",
    "row_range",
    "row_wise_tables",
    "simulate",
    "simulate_set_associative",
    "weight_rows",
]
