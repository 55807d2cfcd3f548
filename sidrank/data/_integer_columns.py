"""Integer columns that a caller hands over, checked: ids, times, counts, durations.

Times and durations are bounded so that a sum of three stays inside 64 bits.

Shapes: ``[n]`` rows.
"""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Ints", "at_least", "every_row", "integers", "time_of", "times"]

Ints = npt.NDArray[np.int64]
_FAR = 1 << 61


def integers(
    column: npt.ArrayLike, name: str, rows: int | None = None, *, booleans: bool = False
) -> Ints:
    """Read a column of integers.

    Args:
        column: Integers that fit into int64, shape ``[n]``.
        name: Argument name for messages.
        rows: How many there must be.
        booleans: Whether booleans will do.

    Returns:
        The column as int64.

    Raises:
        ValueError: If it has another shape, type or length, or an integer is too large.
    """
    array = np.asarray(column)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int64)  # an empty list is of floats to numpy
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [n], got {list(array.shape)}")
    if array.dtype.kind not in ("biu" if booleans else "iu"):
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} must have {rows} rows, got {len(array)}")
    if array.dtype == np.uint64:
        every_row(array < 2**63, array, f"{name} must fit into int64")
    return array.astype(np.int64, copy=False)


def times(column: npt.ArrayLike, name: str, rows: int | None = None) -> Ints:
    """Read a column of times; as :func:`integers`, within ±2⁶¹.

    Args:
        column: Integers, shape ``[n]``.
        name: Argument name for messages.
        rows: How many there must be.

    Returns:
        The column as int64.

    Raises:
        ValueError: If it is not as described.
    """
    array = integers(column, name, rows)
    every_row((array >= -_FAR) & (array <= _FAR), array, f"{name} must be within ±2⁶¹")
    return array


def time_of(value: int, name: str) -> int:
    """Read one time.

    Args:
        value: An integer within ±2⁶¹.
        name: Argument name for messages.

    Returns:
        The time.

    Raises:
        ValueError: If it is not as described.
    """
    return int(times([value], name)[0])


def at_least(least: int, value: int, name: str) -> int:
    """Read a duration.

    Args:
        least: Smallest allowed value.
        value: An integer, at most 2⁵⁹.
        name: Argument name for messages.

    Returns:
        The duration.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is out of range.
    """
    try:
        duration = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error
    if not least <= duration <= _FAR // 4:
        raise ValueError(f"{name} must be at least {least} and at most 2⁵⁹, got {duration}")
    return duration


def every_row(good: npt.NDArray[np.bool_], array: npt.NDArray[Any], rule: str) -> None:
    """Refuse the first row that breaks a rule.

    Args:
        good: Which rows keep it, shape ``[n]``.
        array: The column, shape ``[n]``.
        rule: Argument name and rule, for the message.

    Raises:
        ValueError: If a row is not good.
    """
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{rule}, got {array[row]} in row {row}")
