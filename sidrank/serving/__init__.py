"""Online: candidates scored together, rankers exported, and versions swapped while they serve."""

from sidrank.serving.candidate_scorer import CandidateScorer, Ranks
from sidrank.serving.counted_ranker import CountedRanker
from sidrank.serving.delta import ChangedRows, Delta, apply_delta, delta_between
from sidrank.serving.delta_file import load_delta, save_delta
from sidrank.serving.export import export_ranker
from sidrank.serving.exported_ranker import ExportedRanker, load_ranker
from sidrank.serving.int8_tables import int8_tables
from sidrank.serving.probe_check import ProbeCheck
from sidrank.serving.ranker_version import RankerVersion
from sidrank.serving.versions import Versions

__all__ = [
    "CandidateScorer",
    "ChangedRows",
    "CountedRanker",
    "Delta",
    "ExportedRanker",
    "ProbeCheck",
    "RankerVersion",
    "Ranks",
    "Versions",
    "apply_delta",
    "delta_between",
    "export_ranker",
    "int8_tables",
    "load_delta",
    "load_ranker",
    "save_delta",
]
