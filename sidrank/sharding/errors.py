"""What goes wrong between a model, its traffic and its devices."""

__all__ = ["PlanError", "UpstreamHazardWarning"]


class PlanError(RuntimeError):
    """A plan, a pipeline or a set of caches is not what the model needs, or does not fit."""


class UpstreamHazardWarning(UserWarning):
    """TorchRec or FBGEMM has an open fault on the way that was chosen."""
