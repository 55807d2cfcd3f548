"""Item vectors from another surface's log, with the item's own words beside them.

Four parts, each of unit mean square and then weighted: what the other surface's users liked
together (truncated SVD of the positive mutual information of co-likes), how much more an item
is liked than its viewers' habits explain (smoothed), how often it was shown there (log), and
what it says about itself (TF-IDF of character 3- to 5-grams of title, year and genres, then SVD).

The log that makes a vector holds no row that the ranker trains or is tested on, so that a vector
cannot carry a label (``sidrank.demo.protocols``).

Shapes: ``V`` items, ``D`` vector dimensions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sidrank.data import MovieLens
from sidrank.data.text_vectors import svd_vectors, text_vectors

__all__ = ["ItemVectors", "make_item_vectors"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """Vectors of all items, in the order of ``MovieLens.item_ids``.

    Attributes:
        vectors: All four parts side by side, weighted, shape ``[V, D]``.
        scalars: Like residual and log count alone, standardised, shape ``[V, 2]``.
    """

    vectors: NDArray[np.float32]
    scalars: NDArray[np.float32]


def make_item_vectors(
    data: MovieLens,
    rows: NDArray[np.int64],
    *,
    like_dim: int = 32,
    text_dim: int = 32,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 0.5, 0.5),
    seed: int = 0,
) -> ItemVectors:
    """Make item vectors from the rows of another log.

    Args:
        data: The data set the rows belong to.
        rows: Rows of the other log.
        like_dim: Dimensions of the co-like part.
        text_dim: Dimensions of the text part.
        weights: Root mean square of each part: co-likes, like residual, log count, text.
        seed: Seed of the SVD.

    Returns:
        The vectors and the two scalars.
    """
    user, item = data.user_index[rows], data.item_index[rows]
    label = data.label[rows].astype(np.float64)
    users, items = len(data.user_ids), len(data.item_ids)
    shown = np.bincount(item, minlength=items)
    habit = (np.bincount(user, weights=label, minlength=users) + 5 * label.mean()) / (
        np.bincount(user, minlength=users) + 5
    )
    residual = np.bincount(item, weights=label - habit[user], minlength=items) / (shown + 5)
    count = np.log1p(shown)
    liked = label == 1
    likes = csr_matrix((label[liked], (item[liked], user[liked])), shape=(items, users))
    parts = [
        _co_likes(likes, like_dim, seed),
        residual[:, None],
        count[:, None],
        _text(data, text_dim, seed),
    ]
    scaled = [_unit(part) * weight for part, weight in zip(parts, weights, strict=True)]
    return ItemVectors(
        vectors=np.concatenate(scaled, axis=1).astype(np.float32),
        scalars=np.concatenate([_unit(parts[1]), _unit(parts[2])], axis=1).astype(np.float32),
    )


def _co_likes(likes: csr_matrix, dim: int, seed: int) -> Floats:
    together = (likes @ likes.T).tocoo()
    total = np.asarray(likes.sum(axis=1)).ravel()
    everything = max(total.sum(), 1.0)
    # Smoothing both margins by one like keeps rare pairs from looking like strong ones.
    information = np.log(
        together.data
        * everything
        / ((total[together.row] + 1) * (total[together.col] + 1))
        * together.data
        / (together.data + 2)
    )
    keep = (information > 0) & (together.row != together.col)
    matrix = csr_matrix(
        (information[keep], (together.row[keep], together.col[keep])), shape=together.shape
    )
    return svd_vectors(matrix, dim, seed)


def _text(data: MovieLens, dim: int, seed: int) -> Floats:
    words = [
        f"{title} {year} {' '.join(genres)}"
        for title, year, genres in zip(data.titles, data.years, data.genres, strict=True)
    ]
    return text_vectors(words, dim=dim, seed=seed)


def _unit(part: Floats) -> Floats:
    """Centre each column and scale the part to a mean squared length of one."""
    centred = part - part.mean(axis=0)
    return centred / max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-9)
