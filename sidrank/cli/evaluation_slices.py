"""The figures of every slice: the rows are put in the order of their slices once, then cut.

Shapes: ``[n]`` rows, ``[m]`` slices.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidrank.cli.evaluation_columns import Columns
from sidrank.cli.evaluation_figures import Figures, Scales, figures
from sidrank.data import Text
from sidrank.metrics import benjamini_hochberg

__all__ = ["slice_figures"]


def slice_figures(columns: Columns, slices: Text, *, scales: Scales) -> Figures:
    """Compute every figure of every slice.

    Args:
        columns: The rows, shape ``[n]``.
        slices: Slice of each row, shape ``[n]``, by at most 32,767 names.
        scales: What the scores are.

    Returns:
        The tree of :func:`sidrank.cli.evaluation_figures.figures` by name of the slice, in the
        order of ``slices.names``; with comparisons, each with its ``adjusted_p_value``.
    """
    tree: Figures = {
        name: figures(part, scales=scales, notes=[], step=lambda _: None)
        for name, part in _parts(columns, slices)
    }
    compared = [each["compare"] for each in tree.values() if each["compare"] is not None]
    adjusted = benjamini_hochberg([each["p_value"] for each in compared]).tolist()
    for each, value in zip(compared, adjusted, strict=True):
        each["adjusted_p_value"] = None if each["p_value"] is None else value
    return tree


def _parts(columns: Columns, slices: Text) -> Iterator[tuple[str, Columns]]:
    # numpy sorts 16 bits by counting them
    order = np.argsort(slices.codes.astype(np.int16), kind="stable")
    labels, scores = columns.labels[order], columns.scores[order]
    compare, groups, weights = (
        None if column is None else column[order]
        for column in (columns.compare, columns.groups, columns.weights)
    )
    del order
    end = 0
    for name, rows in zip(slices.names, np.bincount(slices.codes).tolist(), strict=True):
        start, end = end, end + rows
        yield (
            name,
            Columns(
                labels=labels[start:end],
                scores=scores[start:end],
                compare=_cut(compare, start, end),
                groups=_cut(groups, start, end),
                slices=None,
                weights=_cut(weights, start, end),
            ),
        )


def _cut(column: NDArray[Any] | None, start: int, end: int) -> NDArray[Any] | None:
    return None if column is None else column[start:end]
