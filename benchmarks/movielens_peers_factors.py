"""Item vectors of the MovieLens study, fitted to what other users thought of the items.

The rows that a ranker learns from say of each user what he thinks of an item beyond what all do.
``sidrank.data.factor_vectors`` finds the space in which least squares carries that to other items.
A user is read in the vectors that were fitted without him: users are dealt to folds by a hash, and
each fold has vectors of the other folds' rows to learn from and of the other surface's log. So no
row's own label is in what is read of it, and a row to be judged on is in no vector.

Shapes: ``K`` folds, ``V`` items, ``D`` width, ``R`` rows of the whole log.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.data import MovieLens, factor_vectors
from sidrank.demo.item_vectors import ItemVectors
from sidrank.demo.protocols import Split, stable_hash

__all__ = ["FOLDS", "Tastes", "fit_tastes", "fold_of"]

FOLDS = 5
_PRIOR = 5.0  # ratings of an item that its mean is worth beforehand

Ints = NDArray[np.int64]


class Tastes(NamedTuple):
    """One space a fold.

    Attributes:
        vectors: Of the items, row 0 zero, shape ``[K, V + 1, D]``.
        noise: Variance of an answer around them, shape ``[K]``.
    """

    vectors: Tensor
    noise: Tensor


def fold_of(users: Ints) -> Ints:
    """Fold of each user id; his rows are in no vector of it."""
    return (stable_hash(users, salt=7) % np.uint64(FOLDS)).astype(np.int64)


def fit_tastes(
    data: MovieLens,
    split: Split,
    learn: Ints,
    *,
    vectors: ItemVectors,
    dim: int,
    shrinkage: float,
) -> Tastes:
    """Fit the vectors of each fold.

    Args:
        data: The log.
        split: Its cut.
        learn: Rows that rankers learn from.
        vectors: The other surface's, which say what is expected of an item, beside its genres.
        dim: Width ``D``.
        shrinkage: How much they do.

    Returns:
        The spaces.
    """
    features = _features(data, vectors)
    found: list[tuple[NDArray[np.float64], float]] = []
    for fold in range(FOLDS):
        rows = np.concatenate([split.vector_rows, learn[fold_of(data.user[learn]) != fold]])
        item, stars = data.item_index[rows], data.rating[rows].astype(np.float64)
        shown = np.bincount(item, minlength=len(features))
        mean = np.bincount(item, weights=stars, minlength=len(features)) + _PRIOR * stars.mean()
        above = stars - (mean / (shown + _PRIOR))[item]
        user = data.user_index[rows]
        found.append(
            factor_vectors(user, item, above, features=features, dim=dim, shrinkage=shrinkage)
        )
    padded = [np.pad(fitted, ((1, 0), (0, 0))) for fitted, _ in found]
    return Tastes(
        torch.from_numpy(np.stack(padded)).float(),
        torch.tensor([noise for _, noise in found]),
    )


def _features(data: MovieLens, vectors: ItemVectors) -> NDArray[np.float64]:
    names = sorted({name for some in data.genres for name in some})
    genres = np.zeros((len(data.genres), len(names)))
    for row, some in zip(genres, data.genres, strict=True):
        row[[names.index(name) for name in some]] = max(len(some), 1) ** -0.5
    wide = vectors.vectors.astype(np.float64)
    wide *= 3 / np.sqrt((wide**2).sum(axis=1).mean())
    return np.concatenate([np.ones((len(genres), 1)), genres, wide], axis=1)
