"""Ranking metrics of one request's list: NDCG, mean reciprocal rank and hit rate.

What a user sees is one list, so each request gets a value and the values are averaged, every
request counting once. Rows with equal scores have no order; each metric is its expected value
over all orders of the tied rows, so it neither depends on the order of the file nor rewards a
model that gives every row one score.

Source: Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, ACM TOIS 20,
2002 (NDCG); Burges et al., Learning to Rank Using Gradient Descent, ICML 2005 (exponential
gain); Voorhees, The TREC-8 Question Answering Track Report, 1999 (reciprocal rank); ties:
McSherry and Najork, ECIR 2008.
Differs from the source: the discount of rank ``i`` is ``1 / log2(i + 1)`` from the first rank
on, as all tools since Burges et al. have it.

Shapes: ``[n]`` rows, ``[Q]`` requests.
"""

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column, group_column, label_column, score_column
from sidrank.metrics._request_ranks import (
    RequestRanks,
    chance_of_hit,
    expected_reciprocal,
)

__all__ = ["hit_rate", "mean_reciprocal_rank", "ndcg"]

_Floats = npt.NDArray[np.float64]
NoRelevant: TypeAlias = Literal["skip", "zero", "raise"]


def ndcg(
    labels: Column,
    scores: Column,
    requests: Column,
    *,
    k: int | None = None,
    gain: Literal["linear", "exponential"] = "linear",
    no_relevant: NoRelevant = "skip",
) -> float:
    r"""Mean normalised discounted cumulative gain of the requests.

    .. math:: \frac{\sum_{i \le k} g_i / \log_2(i + 1)}{\sum_{i \le k} g^*_i / \log_2(i + 1)}

    where :math:`g_i` is the gain at rank :math:`i` and :math:`g^*` are the gains in descending
    order. A tied block gives each of its ranks the mean gain of the block.

    Args:
        labels: Relevance grades, finite and not negative (0 and 1 if binary), shape ``[n]``.
        scores: Any integer or float dtype, larger ranks higher, shape ``[n]``; NaN is refused.
        requests: Integers or strings, shape ``[n]``; a request's rows need not be adjacent.
        k: Ranks that count; None means all.
        gain: ``"linear"``: the grade itself; ``"exponential"``: ``2**grade - 1``. The same for
            binary labels.
        no_relevant: A request without a grade above zero is left out (``"skip"``), counts as 0
            (``"zero"``) or is refused (``"raise"``).

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If an option is unknown, ``k`` is less than one, a label is negative or not
            finite or its gain overflows, a score is NaN, a request is neither an integer nor a
            string, the columns differ in length, there is no row, no request counts, or one has
            no relevant row under ``"raise"``.

    Example:
        >>> round(ndcg([0, 2, 1], [0.9, 0.5, 0.5], [7, 7, 7]), 6)
        0.644789
        >>> ndcg([0, 2, 1], [0.1, 0.9, 0.5], ["ann"] * 3, k=2, gain="exponential")
        1.0
    """
    if gain not in ("linear", "exponential"):
        raise ValueError(f"gain must be 'linear' or 'exponential', got {gain!r}")
    depth = _depth(k)
    ranking = _rank(_gains(labels, gain), scores, requests)
    lengths = np.diff(ranking.starts, append=len(ranking.gain))
    rank = np.arange(len(ranking.gain)) - np.repeat(ranking.starts, lengths)
    longest = int(lengths.max())
    discounts = 1.0 / np.log2(np.arange(2, longest + 2))
    discounts[min(depth, longest) :] = 0.0
    discount = discounts[rank]
    ties = np.diff(ranking.runs, append=len(ranking.gain))
    gains = np.repeat(np.add.reduceat(ranking.gain, ranking.runs) / ties, ties)
    ideal = np.add.reduceat(ranking.ideal * discount, ranking.starts)
    found = np.add.reduceat(gains * discount, ranking.starts)
    relevant = np.flatnonzero(ideal)
    values = np.minimum(found[relevant] / ideal[relevant], 1.0)
    return _mean(values, relevant, ranking, no_relevant)


def mean_reciprocal_rank(
    labels: Column,
    scores: Column,
    requests: Column,
    *,
    k: int | None = None,
    no_relevant: NoRelevant = "skip",
) -> float:
    """Mean over requests of one over the rank of the first relevant row.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, larger ranks higher, shape ``[n]``; NaN is refused.
        requests: Integers or strings, shape ``[n]``; a request's rows need not be adjacent.
        k: A first relevant row past rank ``k`` counts 0; None means no such limit.
        no_relevant: As in :func:`ndcg`.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: As :func:`ndcg`, or if a label is neither 0 nor 1.

    Example:
        >>> mean_reciprocal_rank([0, 1, 1, 0], [0.9, 0.5, 0.3, 0.1], [7, 7, 8, 8])
        0.75
        >>> mean_reciprocal_rank([0, 1], [0.5, 0.5], [7, 7])
        0.75
    """
    ranking = _rank(label_column(labels), scores, requests)
    first = ranking.first_relevant()
    values = expected_reciprocal(first, _depth(k))
    return _mean(values, first.request, ranking, no_relevant)


def hit_rate(
    labels: Column,
    scores: Column,
    requests: Column,
    *,
    k: int,
    no_relevant: NoRelevant = "skip",
) -> float:
    """Share of requests with a relevant row among the first ``k`` (HR@k).

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, larger ranks higher, shape ``[n]``; NaN is refused.
        requests: Integers or strings, shape ``[n]``; a request's rows need not be adjacent.
        k: Ranks that count.
        no_relevant: As in :func:`ndcg`.

    Returns:
        A float in [0, 1]. A tied block across rank ``k`` counts with the probability that a
        relevant row of it lands inside.

    Raises:
        ValueError: As :func:`ndcg`, or if a label is neither 0 nor 1.

    Example:
        >>> hit_rate([0, 0, 1, 1, 0], [0.9, 0.5, 0.5, 0.3, 0.1], [7, 7, 7, 8, 8], k=2)
        0.75
    """
    ranking = _rank(label_column(labels), scores, requests)
    first = ranking.first_relevant()
    return _mean(chance_of_hit(first, _depth(k)), first.request, ranking, no_relevant)


def _gains(labels: Column, gain: str) -> _Floats:
    """Gain of each row, times a power of two that keeps every sum finite."""
    shape = np.shape(labels)  # pyright: ignore[reportArgumentType]
    if shape == (0,):
        raise ValueError("labels must not be empty, got 0 rows")
    grades = score_column(labels, shape[0] if shape else 0, "labels")
    gains = grades.astype(np.float64)
    if gain == "exponential":
        with np.errstate(over="ignore"):
            gains = np.exp2(gains) - 1.0
    good = (grades >= 0) & np.isfinite(gains)
    if not good.all():
        row = int(np.argmin(good))
        rule = "labels must not be negative and must have a finite gain"
        raise ValueError(f"{rule}, got {grades[row].item()} in row {row}")
    return np.ldexp(gains, -int(np.frexp(gains.max())[1]))


def _rank(gains: npt.NDArray[Any], scores: Column, requests: Column) -> RequestRanks:
    score = score_column(scores, len(gains))
    request = group_column(requests, len(gains), "requests")
    return RequestRanks.of(gains.astype(np.float64), score, request)


def _depth(k: int | None) -> int:
    if k is None:
        return np.iinfo(np.int64).max
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return int(k)


def _mean(
    values: _Floats, counted: npt.NDArray[np.int64], ranking: RequestRanks, no_relevant: str
) -> float:
    """Average the values of the requests that have a relevant row."""
    if no_relevant not in ("skip", "zero", "raise"):
        raise ValueError(f"no_relevant must be 'skip', 'zero' or 'raise', got {no_relevant!r}")
    requests = len(ranking.starts)
    if no_relevant == "raise" and len(values) < requests:
        empty = np.ones(requests, np.bool_)
        empty[counted] = False
        request = ranking.requests[np.argmax(empty)].item()
        raise ValueError(f"requests must each have a relevant row, got none in request {request!r}")
    count = requests if no_relevant == "zero" else len(values)
    if count == 0:
        raise ValueError(f"requests must include one with a relevant row, got {requests} without")
    return math.fsum(values) / count
