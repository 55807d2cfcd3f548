"""TorchRec's planner and pipelines: told the truth, and checked. Nothing is left out in silence."""

from sidrank.sharding.constraints import constraints_for
from sidrank.sharding.verification import PlanError, verify_pipeline, verify_plan

__all__ = ["PlanError", "constraints_for", "verify_pipeline", "verify_plan"]
