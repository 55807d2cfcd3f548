"""Arrow arrays as numpy matrices: lists of numbers, and cells of a CSV that hold several.

Shapes: ``[n]`` rows of one batch, ``D`` width of a vector.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidrank.data.arrow_columns import refuse_nulls
from sidrank.data.columns import Numbers, column_error

__all__ = ["as_vectors", "is_vector", "parse_vectors"]

_BETWEEN = r"[\[\],;\s]+"


def is_vector(kind: Any) -> bool:
    """Whether an Arrow type can be read as vectors.

    Args:
        kind: The type.

    Returns:
        True for lists of integers or floats, of fixed size or not.
    """
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)):
        return False
    return pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)


def as_vectors(array: Any, path: Path, column: str, start: int) -> Numbers:
    """Give an array of lists as a matrix.

    Args:
        array: An Arrow array for which :func:`is_vector` holds, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Returns:
        Vectors in the type they have, shape ``[n, D]``.

    Raises:
        ValueError: If a vector or a number is missing, or widths differ.
    """
    refuse_nulls(array, path, column, start)
    numbers = array.flatten()
    if pa.types.is_fixed_size_list(array.type):
        widths = np.full(len(array), array.type.list_size)
    else:
        widths = _widths(array)
    _one_width(widths, path, column, start)
    if numbers.null_count:
        at = pc.index(numbers.is_null(), pa.scalar(True)).as_py()
        rule = "must not hold missing numbers"
        raise column_error(path, column, rule, "null", start + at // int(widths[0]))
    return numbers.to_numpy(zero_copy_only=False).reshape(len(array), -1)


def parse_vectors(array: Any, path: Path, column: str, start: int) -> Numbers:
    """Read vectors that are written as text: ``0.5 -1 2e-3`` or ``[0.5, -1, 2e-3]``.

    Args:
        array: An Arrow array of strings, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Returns:
        float64, shape ``[n, D]``.

    Raises:
        ValueError: If a value is missing or is no vector, or widths differ.
    """
    refuse_nulls(array, path, column, start)
    lists = _split(array)
    try:
        numbers = lists.flatten().cast(pa.float64())
    except pa.ArrowInvalid:
        row = next(row for row in range(len(array)) if not _parses(lists[row : row + 1]))
        rule = "must hold vectors of numbers"
        raise column_error(path, column, rule, repr(array[row].as_py()), start + row) from None
    _one_width(_widths(lists), path, column, start)
    return numbers.to_numpy(zero_copy_only=False).reshape(len(array), -1)


def _split(array: Any) -> Any:
    options = pc.ReplaceSubstringOptions(_BETWEEN, " ")
    spaced = pc.call_function("replace_substring_regex", [array], options)
    trimmed = pc.call_function("utf8_trim_whitespace", [spaced])
    return pc.call_function("split_pattern", [trimmed], pc.SplitPatternOptions(" "))


def _parses(lists: Any) -> bool:
    try:
        lists.flatten().cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _widths(lists: Any) -> NDArray[Any]:
    return pc.call_function("list_value_length", [lists]).to_numpy(zero_copy_only=False)


def _one_width(widths: NDArray[Any], path: Path, column: str, start: int) -> None:
    if widths[0] == 0:
        raise column_error(path, column, "must hold vectors", "an empty one", start)
    other = np.flatnonzero(widths != widths[0])
    if len(other):
        rule = f"must hold vectors of one width ({widths[0]})"
        raise column_error(path, column, rule, widths[other[0]], start + int(other[0]))
