"""What a batch of rows holds, and how a fault in one of its cells is told.

Numbers are numpy arrays in the type that the file stores. Keys (users, countries, anything that
is only compared) are integers, or text as small codes into a list of names: 100 million rows of
user names cost 4 bytes a row and the distinct names, once.

Shapes: ``[n]`` rows of one batch, ``[m]`` distinct names, ``D`` width of a vector.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Keys", "Numbers", "Text", "TextIndex", "column_error"]

Numbers: TypeAlias = NDArray[Any]


class Text(NamedTuple):
    """A column of text: the name of row ``i`` is ``names[codes[i]]``."""

    codes: NDArray[np.int32]
    """Place of each row's name in ``names``, shape ``[n]``."""
    names: Sequence[str]
    """Distinct names, shape ``[m]``."""


Keys: TypeAlias = NDArray[Any] | Text


class Batch(NamedTuple):
    """Some consecutive rows of a file."""

    path: Path
    """The file that holds them; of a folder, the part."""
    start: int
    """Rows of that file before this batch."""
    numbers: dict[str, Numbers]
    """Columns asked for as numbers (integers, floats or booleans), shape ``[n]`` each."""
    keys: dict[str, Keys]
    """Columns asked for as keys (integers, booleans or text), shape ``[n]`` each."""
    vectors: dict[str, Numbers]
    """Columns asked for as vectors (integers or floats), shape ``[n, D]`` each."""


class TextIndex:
    """Codes that stay the same from batch to batch, in the order in which names first appear.

    Example:
        >>> index = TextIndex()
        >>> index.codes(Text(np.array([0, 1, 0], np.int32), ["de", "us"])).tolist()
        [0, 1, 0]
        >>> index.codes(Text(np.array([1, 0], np.int32), ["us", "fr"])).tolist()
        [2, 1]
        >>> index.names
        ['de', 'us', 'fr']
    """

    def __init__(self) -> None:
        self._code: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._code)

    @property
    def names(self) -> list[str]:
        """The name of each code, shape ``[m]``."""
        return list(self._code)

    def codes(self, text: Text) -> NDArray[np.int32]:
        """Give a batch's rows in codes of this index; new names get the next ones.

        Args:
            text: The batch's column, shape ``[n]``.

        Returns:
            The codes, shape ``[n]``.
        """
        known = self._code
        ours = (known.setdefault(name, len(known)) for name in text.names)
        return np.fromiter(ours, np.int32, count=len(text.names))[text.codes]


def column_error(
    path: os.PathLike[str] | str, column: str, rule: str, got: object, row: int | None = None
) -> ValueError:
    """The error for a column that breaks a rule, to be raised by the caller.

    Args:
        path: The file.
        column: Name of the column.
        rule: What the column must do: ``"must hold numbers"``.
        got: What it does instead.
        row: The first row that breaks the rule, counted from 0 in that file, without a header.

    Returns:
        The error, not raised.

    Example:
        >>> column_error("log.csv", "score", "must not be NaN", "nan", 7)
        ValueError("log.csv: column 'score' must not be NaN, got nan in row 7")
    """
    where = "" if row is None else f" in row {row}"
    return ValueError(f"{os.fspath(path)}: column {column!r} {rule}, got {got}{where}")
