"""Rows of every request from the best score to the worst, ties kept together.

Rows of equal score have no order of their own. A metric of one page is then a random number;
its expected value over all orders of the tied rows is what the metrics of this room report, and
:func:`expected_reciprocal` and :func:`chance_of_hit` give it without drawing an order: in a tied
block of ``m`` rows, ``r`` of them relevant, the place of the first relevant one is negative
hypergeometric.

Source: McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in
the Presence of Tied Scores, ECIR 2008, section 3.
Differs from the source: nothing; running products instead of binomial coefficients, which
overflow.

Shapes: ``[n]`` rows, ``[Q]`` requests, ``[t]`` runs of rows with one request and one score.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._groups import GroupNumbers
from sidrank.metrics._keys import score_keys
from sidrank.metrics._words import ranks, row_blocks, stable_order

__all__ = ["FirstRelevant", "RequestRanks", "chance_of_hit", "expected_reciprocal"]

_CELLS = 1 << 20  # entries of one matrix of running products
_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


class RequestRanks(NamedTuple):
    """Rows by request, then by descending score, then by descending gain."""

    gain: _Floats
    """Gain of each row in that order, shape ``[n]``."""
    ideal: _Floats
    """Gains by request, then descending, shape ``[n]``."""
    starts: _Counts
    """First place of each request, shape ``[Q]``."""
    runs: _Counts
    """First place of each run of equal scores, shape ``[t]``."""
    requests: npt.NDArray[Any]
    """The caller's id of each request, shape ``[Q]``."""

    @classmethod
    def of(
        cls, gain: _Floats, scores: npt.NDArray[Any], requests: npt.NDArray[Any]
    ) -> "RequestRanks":
        """Sort rows.

        Args:
            gain: Not negative, shape ``[n]``, ``n >= 1``.
            scores: Numbers without NaN, shape ``[n]``.
            requests: Integers or strings, shape ``[n]``.

        Returns:
            The rows in an order that does not depend on the caller's.
        """
        numbers = GroupNumbers.of(requests)
        keys = score_keys(scores)
        if keys.dtype == np.uint64:
            keys = ranks(keys)[0]
        words = np.empty(len(gain), np.int64)
        for block in row_blocks(len(gain)):
            word = numbers.numbers(block) << np.uint64(32)
            words[block] = (word | ~keys[block]).view(np.int64)
        # Sums of tied gains come out the same to the last bit whatever order the rows came in.
        by_gain = stable_order(-(gain + 0.0).view(np.int64))
        words, gain = words[by_gain], gain[by_gain]
        ideal = gain[stable_order(words >> 32)]
        order = stable_order(words)
        words, gain = words[order], gain[order]
        runs = np.flatnonzero(np.append(True, words[1:] != words[:-1]))
        request = words[runs] >> 32
        starts = runs[np.append(True, request[1:] != request[:-1])]
        ids = numbers.ids((words[starts] >> 32).view(np.uint64))
        return cls(gain, ideal, starts, runs, ids)

    def first_relevant(self) -> "FirstRelevant":
        """Find the tied block of each request that holds its first row with a gain."""
        relevant = np.add.reduceat(self.gain > 0, self.runs, dtype=np.int64)
        hits = np.flatnonzero(relevant)
        request = np.searchsorted(self.starts, self.runs[hits], side="right") - 1
        first = np.append(True, request[1:] != request[:-1])[: len(hits)]
        hits, request = hits[first], request[first]
        ends = np.append(self.runs[1:], len(self.gain))
        return FirstRelevant(
            request,
            self.runs[hits] - self.starts[request],
            ends[hits] - self.runs[hits],
            relevant[hits],
        )


class FirstRelevant(NamedTuple):
    """First tied block with a relevant row, of each request that has one; shape ``[q]`` each."""

    request: _Counts
    """Which request."""
    above: _Counts
    """Rows with a better score than the block's."""
    rows: _Counts
    """Rows of the block."""
    relevant: _Counts
    """Relevant rows of the block, at least one."""


def expected_reciprocal(first: FirstRelevant, depth: int) -> _Floats:
    """Expected reciprocal rank of the first relevant row; ranks past ``depth`` count 0.

    Args:
        first: Blocks, shape ``[q]``.
        depth: Ranks that count, at least 1.

    Returns:
        Values in [0, 1], shape ``[q]``.
    """
    values = np.zeros(len(first.rows))
    # Past this many rows of the block one was relevant for certain, or none can count.
    widths = np.minimum(first.rows - first.relevant + 1, depth - first.above)
    for chosen, columns, left, relevant, alive in _draws(first, widths):
        place = first.above[chosen, None] + columns + 1
        values[chosen] += np.sum(
            alive * (relevant / left) / place * (columns < widths[chosen, None]), axis=1
        )
    return values


def chance_of_hit(first: FirstRelevant, depth: int) -> _Floats:
    """Probability that a relevant row is among the first ``depth``.

    Args:
        first: Blocks, shape ``[q]``.
        depth: Ranks that count, at least 1.

    Returns:
        Values in [0, 1], shape ``[q]``.
    """
    drawn = np.clip(depth - first.above, 0, first.rows)
    certain = drawn > first.rows - first.relevant
    values = certain.astype(np.float64)
    # Which ``drawn`` rows come first and which are relevant may change places: take fewer draws.
    fewer = first._replace(relevant=np.maximum(drawn, first.relevant))
    draws = np.where(certain, 0, np.minimum(drawn, first.relevant))
    for chosen, columns, left, relevant, alive in _draws(fewer, draws):
        last = columns == draws[chosen, None] - 1
        missed = np.sum(alive * ((left - relevant) / left) * last, axis=1)
        values[chosen] += np.any(last, axis=1) * (1.0 - missed)
    return values


def _draws(
    first: FirstRelevant, widths: _Counts
) -> Iterator[tuple[_Counts, _Counts, _Counts, _Counts, _Floats]]:
    """Draw rows of each block one by one, without a loop over blocks.

    Args:
        first: Blocks, shape ``[q]``.
        widths: How many rows to draw from each, shape ``[q]``.

    Yields:
        Blocks of similar width ``[c]``; numbers of the draws ``[w]``; rows left before each draw
        and relevant ones among them while none was drawn, ``[c, w]`` and ``[c, 1]``; and the
        probability that none was drawn before, ``[c, w]``. Entries past a block's width are to
        be left out.
    """
    exponents = np.frexp(widths - 0.5)[1]  # one matrix for widths from 2**(e - 1) + 1 to 2**e
    exponents[widths < 1] = -1
    for exponent in range(int(exponents.max(initial=-1)) + 1):
        members = np.flatnonzero(exponents == exponent)
        width = min(1 << exponent, _CELLS)
        for start in range(0, len(members), _CELLS // width):
            chosen = members[start : start + _CELLS // width]
            relevant = first.relevant[chosen, None]
            alive = np.ones((len(chosen), 1))
            for column in range(0, int(widths[chosen].max()), width):
                columns = np.arange(column, column + width)
                left = np.maximum(first.rows[chosen, None] - columns, relevant)
                after = np.cumprod((left - relevant) / left, axis=1) * alive
                before = np.concatenate([alive, after[:, :-1]], axis=1)
                yield chosen, columns, left, relevant, before
                alive = after[:, -1:]
