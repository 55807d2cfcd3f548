"""Many tests at once: p-values adjusted so that few of the findings are false (Benjamini-Hochberg).

Twenty slices tested at 5% give one finding where there is none. Comparing adjusted p-values with
5% instead bounds the expected *share* of false findings among all findings by 5%.

Source: Benjamini and Hochberg, Controlling the False Discovery Rate, Journal of the Royal
Statistical Society B 57(1), 1995, section 3.1; as adjusted p-values, Yekutieli and Benjamini,
Journal of Statistical Planning and Inference 82, 1999.
Differs from the source: slices without a test are passed through and not counted. The bound holds
for independent tests, such as disjoint slices, and for positively dependent ones (Benjamini and
Yekutieli, Annals of Statistics 29, 2001); slices that overlap in opposite directions lack it.

Shapes: ``[m]`` tests.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["benjamini_hochberg"]


def benjamini_hochberg(p_values: Iterable[float | None]) -> npt.NDArray[np.float64]:
    r"""Adjust p-values for the false discovery rate.

    .. math:: q_{(k)} = \min_{j \ge k} \min\left(1, \tfrac{m}{j}\, p_{(j)}\right)

    Args:
        p_values: One per test, in [0, 1], shape ``[m]``; None or NaN for a slice without a test.

    Returns:
        Adjusted p-values in the order given, each at least its p-value, shape ``[m]``; NaN where
        there was no test. Rejecting those of at most ``a`` keeps the false discovery rate at
        ``a``.

    Raises:
        ValueError: If a p-value is outside [0, 1].

    Example:
        >>> benjamini_hochberg([0.01, None, 0.04, 0.03]).tolist()
        [0.03, nan, 0.04, 0.04]
    """
    values = np.array([math.nan if p is None else float(p) for p in p_values], np.float64)
    outside = (values < 0.0) | (values > 1.0)
    if outside.any():
        test = int(np.argmax(outside))
        raise ValueError(f"p_values must be in [0, 1], got {values[test]} in place {test}")
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested])[::-1]]
    rank = np.arange(len(order), 0, -1)
    # m / rank is 1 for the last of m, and at least 1 for every other: no result falls below p.
    raised = values[order] * (len(order) / rank)
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum.accumulate(np.minimum(raised, 1.0))
    return adjusted
