"""Labels with predicted probabilities, checked once and read in blocks.

A column of 100 million float32 probabilities is 0.4 GB and its float64 copy 0.8 GB more. The
probabilistic metrics only add rows up, so they widen one block at a time, and the sums of the
blocks are added exactly (``math.fsum``).

Shapes: ``[n]`` rows, ``[b]`` rows of a block.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column, label_column, score_column, weight_column
from sidrank.metrics._words import row_blocks

__all__ = ["Block", "Forecasts", "forecasts"]


class Block(NamedTuple):
    """Consecutive rows."""

    positive: npt.NDArray[np.bool_]
    """Labels, shape ``[b]``."""
    probability: npt.NDArray[np.float64]
    """Probabilities, shape ``[b]``."""
    weight: npt.NDArray[np.float64] | None
    """Weights, shape ``[b]``; None means one per row."""

    def total(self, values: npt.NDArray[Any]) -> float:
        """Weighted sum of one value per row.

        Args:
            values: Numbers or booleans, shape ``[b]``.

        Returns:
            The sum over the rows of the block.
        """
        if self.weight is not None:
            values = values * self.weight
        # without weights booleans are counted, and their sum is exact
        return float(values.sum())


class Forecasts(NamedTuple):
    """All rows, in the dtype that the caller gave them."""

    positive: npt.NDArray[np.bool_]
    """Labels, shape ``[n]``."""
    probability: npt.NDArray[Any]
    """Numbers in [0, 1] of any numeric dtype, shape ``[n]``."""
    weight: npt.NDArray[np.float64] | None
    """Weights relative to the largest, shape ``[n]``; None means one per row."""

    def blocks(self) -> Iterator[Block]:
        """Read the rows block by block.

        Yields:
            Consecutive blocks, probabilities widened to float64.
        """
        for rows in row_blocks(len(self.positive)):
            yield Block(
                self.positive[rows],
                self.probability[rows].astype(np.float64, copy=False),
                None if self.weight is None else self.weight[rows],
            )


def forecasts(
    labels: Column, probabilities: Column, weights: Column | None, name: str = "probabilities"
) -> Forecasts:
    """Check the three columns of a probabilistic metric.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        probabilities: Numbers in [0, 1], shape ``[n]``.
        weights: Finite and not negative, shape ``[n]``; None means one per row.
        name: Argument name of the probabilities for the message.

    Returns:
        The columns as numpy arrays; float32 probabilities stay float32.

    Raises:
        ValueError: If a column breaks its rule, or the lengths differ.
    """
    positive = label_column(labels)
    probability = score_column(probabilities, len(positive), name)
    for rows in row_blocks(len(positive)):
        block = probability[rows]
        good = (block >= 0) & (block <= 1)
        if not good.all():
            place = int(np.argmin(good))
            value, row = block[place].item(), rows.start + place
            raise ValueError(f"{name} must be in [0, 1], got {value} in row {row}")
    return Forecasts(positive, probability, weight_column(weights, len(positive)))
