"""TorchRec's planner and pipelines, checked: nothing is left out in silence."""

from sidrank.sharding.verification import PlanError, verify_pipeline, verify_plan

__all__ = ["PlanError", "verify_pipeline", "verify_plan"]
