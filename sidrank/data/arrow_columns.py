"""Arrow arrays as numpy columns, each fault with its row.

Shapes: ``[n]`` rows of one batch.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sidrank.data.columns import Keys, Numbers, Text, column_error

__all__ = ["as_keys", "as_numbers", "is_key", "is_number", "parse_numbers", "refuse_nulls"]

_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,  # what some writers make of text
    pa.types.is_large_binary,
    pa.types.is_temporal,
)


def is_number(kind: Any) -> bool:
    """Whether an Arrow type can be read as numbers.

    Args:
        kind: The type.

    Returns:
        True for integers, floats and booleans, also where a dictionary holds them.
    """
    kind = _plain(kind)
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_key(kind: Any) -> bool:
    """Whether an Arrow type can be read as keys.

    Args:
        kind: The type.

    Returns:
        True for integers, booleans, text and dates, also where a dictionary holds them.
    """
    kind = _plain(kind)
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)


def as_numbers(array: Any, path: Path, column: str, start: int) -> Numbers:
    """Give an array of numbers in the type it has.

    Args:
        array: An Arrow array for which :func:`is_number` holds, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Returns:
        Numbers, shape ``[n]``.

    Raises:
        ValueError: If a value is missing.
    """
    refuse_nulls(array, path, column, start)
    return array.cast(_plain(array.type)).to_numpy(zero_copy_only=False)


def as_keys(array: Any, path: Path, column: str, start: int) -> Keys:
    """Give an array of keys as integers or text.

    Args:
        array: An Arrow array for which :func:`is_key` holds, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Returns:
        Keys, shape ``[n]``.

    Raises:
        ValueError: If a value is missing or is not UTF-8.
    """
    refuse_nulls(array, path, column, start)
    plain = array.cast(_plain(array.type))
    if not _is_text(plain.type):
        return plain.to_numpy(zero_copy_only=False)
    distinct = plain.dictionary_encode()
    try:
        names = _strings(distinct.dictionary)
    except UnicodeDecodeError as error:
        row = next(row for row in range(len(plain)) if not _decodes(plain[row : row + 1]))
        raise column_error(path, column, "must be UTF-8", error.object, start + row) from None
    return Text(distinct.indices.to_numpy(zero_copy_only=False), names)


def parse_numbers(array: Any, path: Path, column: str, start: int) -> Numbers:
    """Read numbers that are written as text.

    Args:
        array: An Arrow array of strings, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Returns:
        float64, or booleans where ``true`` and ``false`` are written, shape ``[n]``.

    Raises:
        ValueError: If a value is missing or is no number.
    """
    refuse_nulls(array, path, column, start)
    parsed = _parse(array)
    if parsed is None:
        good, bad = 0, len(array)  # array[:good] parses, array[:bad] does not
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if _parse(array[:middle]) is None else (middle, bad)
        raise column_error(
            path, column, "must hold numbers", repr(array[good].as_py()), start + good
        )
    return parsed


def refuse_nulls(array: Any, path: Path, column: str, start: int) -> None:
    """Refuse a missing value.

    Args:
        array: An Arrow array, ``n`` long.
        path: Its file, for the message.
        column: Its column, for the message.
        start: Row of the file that its first value is, for the message.

    Raises:
        ValueError: If a value is missing.
    """
    if array.null_count:
        row = pc.index(array.is_null(), pa.scalar(True)).as_py()
        raise column_error(path, column, "must not be missing", "null", start + row)


def _parse(array: Any) -> Numbers | None:
    for kind in (pa.float64(), pa.bool_()):
        for text in (array, pc.call_function("utf8_trim_whitespace", [array])):
            try:
                return text.cast(kind).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:
                continue
    return None


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    return any(test(kind) for test in _TEXT)


def _strings(array: Any) -> list[str]:
    """Decode text strictly: Arrow believes whatever a file says is UTF-8."""
    if pa.types.is_temporal(array.type):
        return array.cast(pa.string()).to_pylist()
    values = array.to_pylist()
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def _decodes(array: Any) -> bool:
    try:
        _strings(array)
    except UnicodeDecodeError:
        return False
    return True
