"""TorchRec's planner and pipelines: told the truth, and checked. Nothing is left out in silence."""

from sidrank.sharding.cache_statistics import TraceCacheStatistics, offload_stats
from sidrank.sharding.cached_tables import cached_tables, table_shapes
from sidrank.sharding.constraints import constraints_for
from sidrank.sharding.errors import PlanError, UpstreamHazardWarning
from sidrank.sharding.estimators import estimators_for
from sidrank.sharding.fitting import Shortage, cache_sharders, cuda_topology
from sidrank.sharding.load_factors import CacheGroup, cache_groups
from sidrank.sharding.plan_file import load_constraints
from sidrank.sharding.planning import CachePlan, RankBytes, TablePlan, plan_caches
from sidrank.sharding.proposers import BoundedProposer
from sidrank.sharding.remedies import Cluster, Remedy, plan_specs, remedies
from sidrank.sharding.table_specs import TableSpec
from sidrank.sharding.training_checkpoints import TrainingCheckpoints
from sidrank.sharding.verification import verify_pipeline, verify_plan

__all__ = [
    "BoundedProposer",
    "CacheGroup",
    "CachePlan",
    "Cluster",
    "PlanError",
    "RankBytes",
    "Remedy",
    "Shortage",
    "TablePlan",
    "TableSpec",
    "TraceCacheStatistics",
    "TrainingCheckpoints",
    "UpstreamHazardWarning",
    "cache_groups",
    "cache_sharders",
    "cached_tables",
    "constraints_for",
    "cuda_topology",
    "estimators_for",
    "load_constraints",
    "offload_stats",
    "plan_caches",
    "plan_specs",
    "remedies",
    "table_shapes",
    "verify_pipeline",
    "verify_plan",
]
