"""Borders that cut probabilities into bins of equal mass, as values.

A tied block of equal probabilities is never split: it goes whole into the bin in which the
middle of its mass lies. Bins therefore do not depend on the order of the rows, distinct
probabilities get bins of equally many rows, and a constant prediction gets one bin.

No sort of all rows: a histogram over the leading bits finds the few short ranges of values in
which a border can lie, and only their rows are sorted. Masses are integers, so that their sums
are exact: weights are rounded to a fixed point of at most ``2**53`` in total (25 bits for 100
million rows), which moves a border by less than anything could show.

Shapes: ``[n]`` rows, ``[c]`` rows in candidate ranges.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sidrank.metrics._forecasts import Forecasts
from sidrank.metrics._words import row_blocks

__all__ = ["mass_borders"]

_LEADING = 17  # the sign bit, which is zero, and 16 bits to count by
_RANGES = 1 << (_LEADING - 1)
_Bits = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
_Masses = npt.NDArray[np.float64]


def mass_borders(rows: Forecasts, bins: int) -> npt.NDArray[np.float64]:
    """Smallest probability of every bin but the first.

    Args:
        rows: Checked columns, ``n >= 1``.
        bins: Number of bins, at least 1.

    Returns:
        Distinct ascending values, at most ``bins - 1`` of them. A probability belongs to the bin
        whose number is the count of borders at most as large as itself.
    """
    counts = np.zeros(_RANGES)
    for bits, mass in _keyed_blocks(rows):
        shift = bits.dtype.itemsize * 8 - _LEADING
        counts += np.bincount((bits >> shift).astype(np.intp), mass, _RANGES)
    until = np.cumsum(counts).astype(np.int64)
    total = int(until[-1])
    ranks = [total * number // bins for number in range(1, bins)]
    ranges = np.searchsorted(until, ranks, side="right")
    candidates = _Candidates(rows, np.unique(ranges))
    borders = set[int]()
    for number, (rank, leading) in enumerate(zip(ranks, ranges.tolist(), strict=True), start=1):
        skipped = int(until[leading - 1]) if leading else 0
        key, below, tied = candidates.at(rank - skipped, leading)
        # Whole numbers on both sides: is the middle of the block at or past the border?
        inside = bins * (2 * (below + skipped) + tied) >= 2 * total * number
        borders.add(key if inside else key + 1)
    keys = np.array(sorted(borders), candidates.keys.dtype)
    floating = np.float32 if keys.dtype == np.uint32 else np.float64
    return keys.view(floating).astype(np.float64)


class _Candidates:
    """Rows whose probability lies in one of a few ranges, sorted."""

    def __init__(self, rows: Forecasts, ranges: npt.NDArray[np.intp]) -> None:
        wanted = np.zeros(_RANGES, np.bool_)
        wanted[ranges] = True
        keys: list[_Bits] = []
        masses: list[_Masses] = []
        for bits, mass in _keyed_blocks(rows):
            shift = bits.dtype.itemsize * 8 - _LEADING
            chosen = wanted[bits >> shift]
            keys.append(bits[chosen])
            if mass is not None:
                masses.append(mass[chosen])
        self.keys = np.concatenate(keys)
        self._until: npt.NDArray[np.int64] | None = None
        if masses:
            order = np.argsort(self.keys)
            self.keys = self.keys[order]
            # sums of whole numbers below 2**53: exact
            self._until = np.append(0, np.cumsum(np.concatenate(masses)[order])).astype(np.int64)
        else:
            self.keys.sort()
        self._shift = self.keys.dtype.itemsize * 8 - _LEADING

    def at(self, rank: int, leading: int) -> tuple[int, int, int]:
        """Find a value by its rank.

        Args:
            rank: Mass of the rows before it, counted from the start of the range.
            leading: The range, one of those given.

        Returns:
            Its key, the mass of the range's rows below it and the mass of the rows equal to it.
        """
        first = self._place(leading << self._shift, "left")
        start = self._mass(first)
        if self._until is None:
            place = first + rank
        else:
            place = int(np.searchsorted(self._until, start + rank, side="right")) - 1
        key = int(self.keys[place])
        low, high = self._mass(self._place(key, "left")), self._mass(self._place(key, "right"))
        return key, low - start, high - low

    def _place(self, key: int, side: str) -> int:
        typed = self.keys.dtype.type(key)
        return int(np.searchsorted(self.keys, typed, side="left" if side == "left" else "right"))

    def _mass(self, place: int) -> int:
        return place if self._until is None else int(self._until[place])


def _keyed_blocks(rows: Forecasts) -> Iterator[tuple[_Bits, _Masses | None]]:
    """Read probabilities as their bits, which order as they do, with the mass of each row."""
    single = rows.probability.dtype == np.float32
    scale = 52 - len(rows.positive).bit_length()  # weights are below 1
    for block in row_blocks(len(rows.positive)):
        value = rows.probability[block]
        value = value if single else value.astype(np.float64, copy=False)
        value = value + 0.0  # no -0.0
        bits: _Bits = value.view(np.uint32) if single else value.view(np.uint64)
        mass = None if rows.weight is None else np.rint(np.ldexp(rows.weight[block], scale))
        yield bits, mass
