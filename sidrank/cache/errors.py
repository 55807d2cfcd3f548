"""The one error of this room that is not about an argument."""

__all__ = ["CacheError"]


class CacheError(RuntimeError):
    """A cache cannot do what was asked: too small, or failed by its disk."""
