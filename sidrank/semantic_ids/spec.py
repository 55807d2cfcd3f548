"""The shape of a semantic ID: how many levels, and how many codes each level has.

A semantic ID (SID) is one code per level, ``(c_1, ..., c_N)`` with ``0 <= c_l < K_l``. The
codebook sizes are all that a ranker must know about the tokenizer that made the codes.
"""

from dataclasses import dataclass

__all__ = ["SIDSpec"]

_LARGEST_CODEBOOK = 2**31  # codes are stored as int32


@dataclass(frozen=True, slots=True)
class SIDSpec:
    """Codebook sizes of a semantic ID, from the first (coarsest) level to the last.

    Args:
        codebook_sizes: ``K_1, ..., K_N``, the number of codes of each level.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If there is no level, or a size is not within ``[1, 2**31]``.

    Example:
        >>> SIDSpec((256, 256, 64)).num_levels
        3
    """

    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = tuple(self.codebook_sizes)
        if not sizes:
            raise ValueError("codebook_sizes must have at least one level, got ()")
        for size in sizes:
            if type(size) is not int:
                raise TypeError(f"codebook_sizes must be integers, got {size!r}")
            if not 1 <= size <= _LARGEST_CODEBOOK:
                raise ValueError(f"codebook_sizes must be within [1, 2**31], got {size}")
        object.__setattr__(self, "codebook_sizes", sizes)

    @property
    def num_levels(self) -> int:
        """Number of levels ``N``."""
        return len(self.codebook_sizes)
