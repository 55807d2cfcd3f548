r"""Item vectors that explain what users answered, by factor analysis of a table with gaps.

A user's answers (stars above the item's mean, say) are ``r_i = v_i . x + noise`` with ``x`` of the
standard normal; the vectors that make a log's answers most likely are found by EM. They are the
space in which ``sidrank.towers.LeastSquaresRead`` with this noise gives the posterior mean: reading
a user is the E-step. An item with few answers keeps to what its features say of it,

.. math::  v_i \sim N(W^\top f_i, I / \lambda)

Directions and signs are arbitrary: vectors mean something beside each other only. A vector carries
its item's answers. For rows that a ranker learns from, fit on other users' answers (cross-fitting:
some folds of users, each user read in the vectors of the other folds), or a row's label reaches its
own feature.

Source: Tipping and Bishop, Probabilistic principal component analysis, 1999, appendix B, with gaps;
Agarwal and Chen, Regression-based latent factor models, 2009, for the prior. Differs from the
sources: the vectors' posterior is its mode.

Shapes: ``N`` answers, ``U`` users, ``V`` items, ``F`` features, ``D`` width.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["factor_vectors"]

ITERATIONS = 15
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def factor_vectors(
    users: Ints,
    items: Ints,
    answers: Floats,
    *,
    features: Floats,
    dim: int = 8,
    shrinkage: float = 200.0,
) -> tuple[Floats, float]:
    """Fit vectors to answers.

    Time and memory are linear in answers, users and items, and quadratic in ``dim`` (memory: of
    users and items).

    Args:
        users: User of each answer, any ids, shape ``[N]``.
        items: Item of each answer, 0 to ``V - 1``, shape ``[N]``.
        answers: Centred by item, finite, shape ``[N]``.
        features: What is known of each item, with a constant column, shape ``[V, F]``.
        dim: Width ``D``.
        shrinkage: ``lambda``, how strongly a vector keeps to what its features say. Where it is too
            small, vectors fit the answers of those users alone.

    Returns:
        Vectors, shape ``[V, D]``, and the variance of the noise, in squared units of an answer.

    Raises:
        ValueError: If shapes do not fit, there are no answers, a number is not finite, an item has
            no features, or a size is not positive.

    Example:
        >>> users, items = np.repeat(np.arange(50), 4), np.tile(np.arange(4), 50)
        >>> taste = np.random.default_rng(0).normal(size=50)
        >>> answers = taste[users] * np.array([1.0, 1.0, -1.0, 0.0])[items]
        >>> x, noise = factor_vectors(
        ...     users, items, answers, features=np.ones((4, 1)), dim=1, shrinkage=1e-3)
        >>> alike = x @ x[0] / (x[0] @ x[0])
        >>> bool(alike[1] > 0.9), bool(alike[2] < -0.9), bool(abs(alike[3]) < 0.1), noise < 0.05
        (True, True, True, True)
    """
    *_, found = _fits(users, items, answers, features=features, dim=dim, shrinkage=shrinkage)
    return found


def _fits(
    users: Ints, items: Ints, answers: Floats, *, features: Floats, dim: int, shrinkage: float
) -> Iterator[tuple[Floats, float]]:
    """Vectors and noise after each iteration."""
    _refuse(users, items, answers, features, dim, shrinkage)
    user = np.unique(users, return_inverse=True)[1]
    one, count = np.eye(dim), len(features)
    whole = features.T @ features + np.eye(features.shape[1])
    vectors: Floats = 0.1 * np.random.default_rng(0).normal(size=(count, dim))
    vectors[:, 0] += 0.5  # users differ most in their habit, which is alike for all items
    least = max(1e-6 * float(np.var(answers)), 1e-12)
    noise = max(float(np.var(answers)), least)
    for _ in range(ITERATIONS):
        # what is known of each user
        precise = _summed(_squared(vectors), items, user, user.max() + 1) / noise + one
        spread = np.linalg.inv(precise)
        pull = _added(vectors[items] * answers[:, None], user, len(spread)) / noise
        mean = np.einsum("uab,ub->ua", spread, pull)
        # the vectors, drawn to what features say of them
        said = features @ np.linalg.solve(whole, features.T @ vectors)
        precise = _summed(_squared(mean) + spread, user, items, count) / noise + shrinkage * one
        pull = _added(mean[user] * answers[:, None], items, count) / noise + shrinkage * said
        vectors = np.linalg.solve(precise, pull[:, :, None])[:, :, 0].astype(np.float64)
        # what they leave
        left = answers - np.einsum("na,na->n", vectors[items], mean[user])
        seen = _summed(_squared(vectors), items, user, len(mean))
        noise = max(float(left @ left + (seen * spread).sum()) / len(answers), least)
        yield vectors, noise


def _squared(x: Floats) -> Floats:
    return x[:, :, None] * x[:, None, :]


def _added(rows: Floats, owner: Ints, count: int) -> Floats:
    """Sum of each owner's rows, ``[N, D]`` to ``[count, D]``."""
    out = np.empty((count, rows.shape[1]))
    for a in range(rows.shape[1]):
        out[:, a] = np.bincount(owner, weights=rows[:, a], minlength=count)
    return out


def _summed(matrices: Floats, read: Ints, owner: Ints, count: int) -> Floats:
    """Sum of ``matrices[read]`` by owner, which are symmetric; entry by entry, for memory."""
    size = matrices.shape[1]
    out = np.empty((count, size, size))
    for a in range(size):
        for b in range(a + 1):
            entry = np.ascontiguousarray(matrices[:, a, b])[read]
            out[:, a, b] = out[:, b, a] = np.bincount(owner, weights=entry, minlength=count)
    return out


def _refuse(
    users: Ints, items: Ints, answers: Floats, features: Floats, dim: int, shrinkage: float
) -> None:
    if not len(users) == len(items) == len(answers):
        raise ValueError(
            "users, items and answers must be of one length, got"
            f" {len(users)}, {len(items)} and {len(answers)}"
        )
    if not len(answers):
        raise ValueError("answers must not be empty")
    if features.ndim != 2:
        raise ValueError(f"features must have the shape [V, F], got {list(features.shape)}")
    if items.min() < 0 or items.max() >= len(features):
        raise ValueError(
            f"items must be 0 to {len(features) - 1}, the rows of features, got"
            f" {items.min()} to {items.max()}"
        )
    for name, numbers in (("answers", answers), ("features", features)):
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if not (shrinkage > 0 and math.isfinite(shrinkage)):
        raise ValueError(f"shrinkage must be positive and finite, got {shrinkage}")
