"""How many rows went between a table and its cache."""

from dataclasses import dataclass

__all__ = ["Traffic"]


@dataclass
class Traffic:
    """What went between a table and its cache.

    Attributes:
        lookups: Distinct rows that the batches asked for, summed over batches.
        misses: Those that had to be fetched.
        evictions: Rows that had to leave.
        written: Rows written back.

    Example:
        >>> Traffic(lookups=8, misses=2).miss_rate
        0.25
    """

    lookups: int = 0
    misses: int = 0
    evictions: int = 0
    written: int = 0

    @property
    def miss_rate(self) -> float:
        """Misses per lookup; 0 before the first."""
        return self.misses / self.lookups if self.lookups else 0.0
