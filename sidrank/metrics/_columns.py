"""Turn the columns a caller hands to a metric into checked one-dimensional numpy arrays.

A metric that meets a NaN, a label of 2 or a column that is one row short must stop: each of
them gives a plausible number otherwise. Every check names the argument, the rule and the
first row that breaks it.

Low-precision floats (float16, bfloat16, float8) are widened to float32, which keeps their
order and their ties exactly; float32, float64 and integers keep their dtype.

Shapes: ``[n]`` rows throughout.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "Column",
    "group_column",
    "label_column",
    "probability_column",
    "score_column",
    "weight_column",
]

Column: TypeAlias = npt.ArrayLike | Tensor
Array: TypeAlias = npt.NDArray[Any]


def label_column(labels: Column, name: str = "labels") -> npt.NDArray[np.bool_]:
    """Read binary labels.

    Args:
        labels: Booleans, integers or floats in {0, 1}, shape ``[n]``.
        name: Argument name for the message.

    Returns:
        Booleans, shape ``[n]``, ``n >= 1``.

    Raises:
        ValueError: If there is no row, or a label is neither 0 nor 1 (NaN included).
    """
    array = _vector(labels, name)
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got 0 rows")
    if array.dtype == np.bool_:
        return array
    positive = array == 1
    if np.count_nonzero(positive) + np.count_nonzero(array == 0) != len(array):
        _every_row(positive | (array == 0), array, f"{name} must be 0 or 1")
    return positive


def score_column(scores: Column, rows: int, name: str = "scores") -> Array:
    """Read scores: any order, any scale, infinities allowed, NaN refused.

    Args:
        scores: Integers or floats, shape ``[rows]``.
        rows: Number of labels.
        name: Argument name for the message.

    Returns:
        Scores in a dtype that sorts fast and keeps every tie, shape ``[rows]``.

    Raises:
        ValueError: If the shape differs from the labels', or a score is NaN.
    """
    array = _same_rows(_vector(scores, name), rows, name)
    if array.dtype.kind == "f" and np.isnan(array.max()):  # the largest of a NaN is a NaN
        _every_row(~np.isnan(array), array, f"{name} must not be NaN")
    return array


def probability_column(probabilities: Column, rows: int) -> npt.NDArray[np.float64]:
    """Read probabilities.

    Args:
        probabilities: Floats in [0, 1], shape ``[rows]``.
        rows: Number of labels.

    Returns:
        Probabilities as float64, shape ``[rows]``.

    Raises:
        ValueError: If the shape differs from the labels', or a value is NaN or outside [0, 1].
    """
    array = score_column(probabilities, rows, "probabilities").astype(np.float64, copy=False)
    _every_row((array >= 0) & (array <= 1), array, "probabilities must be in [0, 1]")
    return array


def weight_column(weights: Column | None, rows: int) -> npt.NDArray[np.float64] | None:
    """Read row weights.

    Args:
        weights: Finite and not negative, shape ``[rows]``; None means one per row.
        rows: Number of labels.

    Returns:
        Weights divided by a power of two that brings the largest into [0.5, 1), so that no sum
        of them overflows and no digit is lost, shape ``[rows]``; or None.

    Raises:
        ValueError: If the shape differs from the labels', a weight is negative or not finite,
            or all are zero.
    """
    if weights is None:
        return None
    array = _same_rows(_vector(weights, "weights"), rows, "weights").astype(np.float64, copy=False)
    _every_row(np.isfinite(array) & (array >= 0), array, "weights must be finite and not negative")
    largest = array.max()
    if largest == 0.0:
        raise ValueError(f"weights must not all be zero, got {rows} zeros")
    return np.ldexp(array, -int(np.frexp(largest)[1]))


def group_column(groups: Column, rows: int, name: str = "groups") -> Array:
    """Read group ids: integers of any width, booleans or strings.

    Args:
        groups: Group of each row, shape ``[rows]``.
        rows: Number of labels.
        name: Argument name for the message.

    Returns:
        Integers in their own dtype (booleans as uint8), strings as a numpy string array, shape
        ``[rows]``.

    Raises:
        ValueError: If the shape differs from the labels', or the ids are neither integers nor
            strings.
    """
    array = _numpy(groups)
    if array.dtype == object and all(isinstance(group, str) for group in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind not in "biuUS":
        raise ValueError(f"{name} must be integers or strings, got {array.dtype}")
    array = _same_rows(_one_dimensional(array, name), rows, name)
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def _numpy(column: Column) -> Array:
    """Give a tensor or an array-like as a numpy array without changing a value."""
    if isinstance(column, Tensor):
        tensor = column.detach().cpu()
        if tensor.is_floating_point() and tensor.dtype is not torch.float64:
            tensor = tensor.float()
        return tensor.numpy()
    return np.asarray(column)


def _vector(column: Column, name: str) -> Array:
    """Give a numeric column as a one-dimensional array, low-precision floats widened."""
    array = _numpy(column)
    if array.size == 0 and array.ndim == 1:
        return array
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got {array.dtype}")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return _one_dimensional(array, name)


def _one_dimensional(array: Array, name: str) -> Array:
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [n], got {list(array.shape)}")
    return array


def _same_rows(array: Array, rows: int, name: str) -> Array:
    if array.shape[0] != rows:
        raise ValueError(f"{name} must have one row per label ({rows}), got {array.shape[0]}")
    return array


def _every_row(good: Array, array: Array, rule: str) -> None:
    """Raise with the first row that breaks the rule."""
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{rule}, got {array[row].item()} in row {row}")
