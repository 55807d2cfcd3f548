"""The items of `sidrank tokenize`: ids, vectors and what else is told of them, in order of id.

The file is read twice: first the small columns, then the vectors. So it is known how many there
are and where each belongs before the first vector is read, and they go straight to their places
in one array: nothing of the size of the input is copied, and what comes out depends on the items
alone and not on the order of a file.

Shapes: ``V`` items, ``D`` width of a vector, ``[n]`` rows of one batch.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidrank.data import Batch, RowFile, Text, TextIndex
from sidrank.data.columns import Keys, column_error
from sidrank.tokenizers.protocol import Progress

__all__ = ["ItemColumns", "Items", "read_items"]

_ROWS = 1 << 14  # vectors in a batch: 64 MiB of 1024 numbers each
_LARGEST = 1e37  # what tokenizers compute with
_TEXT_DIM = 64
_INT64 = (-(2**63), 2**63 - 1)

Floats = NDArray[np.float32]


class ItemColumns(NamedTuple):
    """Columns of the file, as the user named them."""

    id: str
    embedding: str | None = None
    """A column of vectors, or ``prefix*`` for one column a number."""
    text: Sequence[str] = ()
    weight: str | None = None
    category: str | None = None


class Items(NamedTuple):
    """What was read, sorted by id."""

    ids: NDArray[np.int64]
    """Distinct ids, shape ``[V]``."""
    vectors: Floats
    """Shape ``[V, D]``, finite."""
    weights: NDArray[np.float64] | None
    """Exposures, shape ``[V]``, not negative."""
    categories: NDArray[np.int64] | None
    """The number of each item's category, shape ``[V]``."""
    words: list[str] | None
    """What each item says about itself."""


class _Small(NamedTuple):
    """The small columns in the order of the file."""

    ids: NDArray[np.int64]
    places: list[tuple[Path, int, int]]  # a file, a row of it, and how many rows were before it
    weights: NDArray[np.float64] | None
    categories: NDArray[np.int64] | None
    words: list[str] | None

    def place(self, row: int) -> tuple[Path, int]:
        path, start, before = next(each for each in reversed(self.places) if each[2] <= row)
        return path, start + row - before


def read_items(rows: RowFile, names: ItemColumns, *, seed: int, progress: Progress) -> Items:
    """Read and check every item.

    Args:
        rows: The file.
        names: Its columns; either ``embedding`` or ``text``.
        seed: Seed of the vectors that are made of text.
        progress: Told of every batch.

    Returns:
        The items.

    Raises:
        ValueError: If a column is not as it must be: the message names file, column, row and,
            where it is known, the item.
    """
    if (names.embedding is None) == (not names.text):
        got = "neither" if names.embedding is None else "both"
        raise ValueError(f"embedding or text must be given, got {got}")
    small = _read_small(rows, names, progress)
    order = np.argsort(small.ids, kind="stable")
    _check_distinct(small, order, names.id)
    words = None if small.words is None else [small.words[row] for row in order.tolist()]
    if words is None:
        vectors = _read_vectors(rows, names, small.ids, order, progress)
    else:
        from sidrank.data.text_vectors import text_vectors

        progress("vectors of text", 0, 1)
        vectors = text_vectors(words, dim=_TEXT_DIM, seed=seed).astype(np.float32)
        progress("vectors of text", 1, 1)
    return Items(
        ids=small.ids[order],
        vectors=vectors,
        weights=None if small.weights is None else small.weights[order],
        categories=None if small.categories is None else small.categories[order],
        words=words,
    )


def _read_small(rows: RowFile, names: ItemColumns, progress: Progress) -> _Small:
    keys = [names.id, *names.text, *([] if names.category is None else [names.category])]
    numbers = [] if names.weight is None else [names.weight]
    ids: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    categories: list[NDArray[np.int64]] = []
    words: list[str] = []
    places: list[tuple[Path, int, int]] = []
    index = TextIndex()
    done = 0
    for batch in rows.batches(numbers=numbers, keys=list(dict.fromkeys(keys))):
        ids.append(_ids(batch, names.id))
        places.append((batch.path, batch.start, done))
        if names.weight is not None:
            weights.append(_exposures(batch, names.weight, ids[-1]))
        if names.category is not None:
            categories.append(_categories(batch.keys[names.category], index))
        if names.text:
            columns = [_strings(batch.keys[name]) for name in names.text]
            words += [" ".join(each) for each in zip(*columns, strict=True)]
        done += len(ids[-1])
        progress("reading ids", done, rows.num_rows or 0)
    if not done:
        raise ValueError(f"{rows.path} must hold rows, got 0")
    exposures = np.concatenate(weights) if weights else None
    if exposures is not None and not exposures.any():
        rule = "must not be zero for every item"
        raise column_error(rows.path, names.weight or "", rule, f"{done:,} zeros")
    return _Small(
        ids=np.concatenate(ids),
        places=places,
        weights=exposures,
        categories=np.concatenate(categories) if categories else None,
        words=words if names.text else None,
    )


def _ids(batch: Batch, column: str) -> NDArray[np.int64]:
    rule = "must hold 64-bit integers"
    keys = batch.keys[column]
    if isinstance(keys, Text):
        parsed = [_integer(name) for name in keys.names]
        if None in parsed:
            wrong = [code for code, value in enumerate(parsed) if value is None]
            row = int(np.argmax(np.isin(keys.codes, wrong)))
            name = keys.names[keys.codes[row]]
            raise column_error(batch.path, column, rule, repr(name), batch.start + row)
        return np.array(parsed, dtype=np.int64)[keys.codes]
    if keys.dtype.kind == "b":
        raise column_error(batch.path, column, rule, "booleans")
    if keys.dtype == np.uint64 and int(keys.max()) > _INT64[1]:
        row = int(np.argmax(keys > np.uint64(_INT64[1])))
        raise column_error(batch.path, column, rule, keys[row], batch.start + row)
    return keys.astype(np.int64)


def _integer(name: str) -> int | None:
    name = name.strip()
    if not re.fullmatch(r"[+-]?\d{1,19}", name, re.ASCII):
        return None
    value = int(name)
    return value if _INT64[0] <= value <= _INT64[1] else None


def _exposures(batch: Batch, column: str, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    weights = batch.numbers[column].astype(np.float64)
    bad = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if len(bad):
        row = int(bad[0])
        rule = "must be finite and not negative"
        got = f"{weights[row]} for item {ids[row]}"
        raise column_error(batch.path, column, rule, got, batch.start + row)
    return weights


def _categories(keys: Keys, index: TextIndex) -> NDArray[np.int64]:
    return (index.codes(keys) if isinstance(keys, Text) else keys).astype(np.int64)


def _strings(keys: Keys) -> list[str]:
    if isinstance(keys, Text):
        codes: list[int] = keys.codes.tolist()
        return [keys.names[code] for code in codes]
    return [str(value) for value in keys.tolist()]


def _check_distinct(small: _Small, order: NDArray[np.intp], column: str) -> None:
    ids = small.ids[order]
    again = np.flatnonzero(ids[1:] == ids[:-1])
    if len(again) == 0:
        return
    at = int(again[np.argmin(order[again + 1])])
    (first, first_row), (path, row) = small.place(int(order[at])), small.place(int(order[at + 1]))
    where = f"row {first_row}" if first == path else f"row {first_row} of {first}"
    got = f"{ids[at]}, which is in {where} already,"
    raise column_error(path, column, "must hold distinct ids", got, row)


def _read_vectors(
    rows: RowFile,
    names: ItemColumns,
    ids: NDArray[np.int64],
    order: NDArray[np.intp],
    progress: Progress,
) -> Floats:
    """Read vectors into their places; ``ids`` are in the order of the file."""
    place = np.empty(len(ids), dtype=np.int64)
    place[order] = np.arange(len(ids))
    column = names.embedding or ""
    vectors: Floats | None = None
    done = 0
    for batch, block in _vector_batches(rows, column):
        if vectors is None:
            vectors = np.empty((len(ids), block.shape[1]), dtype=np.float32)
        if block.shape[1] != vectors.shape[1]:
            rule = f"must hold vectors of one width ({vectors.shape[1]})"
            raise column_error(batch.path, column, rule, block.shape[1], batch.start)
        if done + len(block) > len(ids):
            break
        mine = slice(done, done + len(block))
        vectors[place[mine]] = _finite(block, batch, column, ids[mine])
        done += len(block)
        progress("reading vectors", done, len(ids))
    if vectors is None or done != len(ids):
        raise ValueError(f"{rows.path} must not change while it is read, got other rows")
    return vectors


def _vector_batches(rows: RowFile, column: str) -> Iterator[tuple[Batch, NDArray[Any]]]:
    if not column.endswith("*"):
        for batch in rows.batches(vectors=[column], batch_rows=_ROWS):
            yield batch, batch.vectors[column]
        return
    found = [re.fullmatch(re.escape(column[:-1]) + r"(\d+)", name) for name in rows.columns]
    wide = [each[0] for each in sorted(filter(None, found), key=lambda each: int(each[1]))]
    if not wide:
        raise ValueError(
            f"{rows.path}: columns {column!r} must exist, got none of that name and a number"
        )
    for batch in rows.batches(numbers=wide, batch_rows=_ROWS):
        yield batch, np.stack([batch.numbers[name] for name in wide], axis=1)


def _finite(block: NDArray[Any], batch: Batch, column: str, ids: NDArray[np.int64]) -> NDArray[Any]:
    if block.dtype == np.float16:  # in which the limit is infinite
        block = block.astype(np.float32)
    # comparisons with nan are false
    within = ((block <= _LARGEST) & (block >= -_LARGEST)).all(axis=1)
    if not within.all():
        row = int(np.argmin(within))
        value = next(each for each in block[row].tolist() if not abs(each) <= _LARGEST)
        got = f"{value} for item {ids[row]}"
        raise column_error(
            batch.path, column, "must be finite and within ±1e37", got, batch.start + row
        )
    return block
