"""The floor: logistic regression on one-hot ids and the same as-of statistics as the host.

Shapes: ``R`` rows, ``F`` columns.
"""

import time

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from sidrank.demo.features import Features

__all__ = ["fit_regression"]

Ints = NDArray[np.int64]


def fit_regression(
    features: Features, learn: Ints, judge: Ints, *, inverse_penalty: float
) -> tuple[NDArray[np.float64], int, float]:
    """Fit on some rows and score others.

    Every id, bucket and number that the host reads is a column; the history is left out, which
    a linear model cannot use without the item it is compared with.

    Args:
        features: Of all rows.
        learn: Rows to fit on.
        judge: Rows to score.
        inverse_penalty: scikit-learn's ``C``.

    Returns:
        Logits of the judged rows, number of weights, seconds.
    """
    start = time.perf_counter()
    model = LogisticRegression(C=inverse_penalty, max_iter=300)
    model.fit(_columns(features, learn), features.label[learn])
    scores = np.asarray(model.decision_function(_columns(features, judge)), dtype=np.float64)
    return scores, int(model.coef_.size) + 1, time.perf_counter() - start


def _columns(features: Features, rows: Ints) -> csr_matrix:
    blocks = [csr_matrix(features.dense[rows])]
    for name, size in features.sizes.items():
        ids = features.single[name][rows, None] if name in features.single else None
        ids = features.multi[name][rows] if ids is None else ids
        row, slot = np.nonzero(ids >= 0)
        ones = np.ones(len(row))
        blocks.append(csr_matrix((ones, (row, ids[row, slot])), shape=(len(rows), size)))
    return csr_matrix(hstack(blocks))
