"""Vectors of what items say about themselves: TF-IDF of letters, then a truncated SVD.

The terms are character 3- to 5-grams within words, which take a misspelling or another ending
for nearly the same word and need no tokenizer of a language. Needs scikit-learn.

Shapes: ``V`` items, ``D`` width of a vector, ``F`` terms.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["svd_vectors", "text_vectors"]

Floats = NDArray[np.float64]


def text_vectors(words: Sequence[str], *, dim: int, seed: int = 0) -> Floats:
    """Turn texts into vectors of length one; texts of no word become zero.

    The vectors mean something beside each other only: another call learns other terms and
    other directions.

    Args:
        words: What each of ``V`` items says.
        dim: Width; fewer if there are not as many items or terms.
        seed: Seed of the SVD.

    Returns:
        The vectors, shape ``[V, D]``.

    Raises:
        ValueError: If no text has a word.

    Example:
        >>> x = text_vectors(["red shoes", "red shoe", "coffee mug"], dim=2)
        >>> bool(x[0] @ x[1] > 0.9), bool(abs(x[0] @ x[2]) < 0.1)
        (True, True)
    """
    tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    try:
        terms = tfidf.fit_transform(words)
    except ValueError:  # scikit-learn speaks of stop words, which are not at issue here
        raise ValueError(f"words must hold a word, got {len(words)} texts without any") from None
    return svd_vectors(csr_matrix(terms), dim, seed)


def svd_vectors(matrix: csr_matrix, dim: int, seed: int) -> Floats:
    """Reduce sparse rows to vectors of length one; zero rows stay zero.

    Args:
        matrix: Rows, shape ``[V, F]``.
        dim: Width; at most one less than ``V`` and ``F``, but at least 1.
        seed: Seed of the SVD.

    Returns:
        The vectors, shape ``[V, D]``.
    """
    rows, columns = matrix.get_shape()
    dim = max(1, min(dim, rows - 1, columns - 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # a share of no variance, unused here
        vectors = TruncatedSVD(dim, random_state=seed).fit_transform(matrix)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)
