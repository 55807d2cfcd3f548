"""MovieLens-100K, read from files that are already on the machine.

The package index has no MovieLens distribution, but the ``recbole`` wheel carries the
data set as an example. ``find_recbole_files`` finds those files without importing (or
needing the dependencies of) recbole; ``read_movielens`` reads them, or a user's own copy of the
original GroupLens files. Nothing is downloaded and nothing is copied: the data may be
used for research and not redistributed.

Source: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context",
ACM TiiS 5(4), 2015; https://grouplens.org/datasets/movielens/100k/.

Rows are ordered by ``(timestamp, user, item)``. A user's ratings of one second share their
timestamp, and the tie order by item id carries no information about the order in which they
were given: whatever counts "earlier" rows must therefore ask for a *strictly* earlier
timestamp (``sidrank.data.as_of``).

Shapes: ``R`` rows, ``V`` items, ``U`` users.
"""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MovieLens", "find_recbole_files", "read_movielens"]

Row = TypeVar("Row")
_RECBOLE_FOLDER = Path("dataset_example") / "ml-100k"
_RECBOLE_NAMES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_ORIGINAL_NAMES = ("u.data", "u.item", "u.user")
_ORIGINAL_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_HEADERS = {
    "ml-100k.inter": ("user_id", "item_id", "rating", "timestamp"),
    "ml-100k.item": ("item_id", "movie_title", "release_year", "class"),
    "ml-100k.user": ("user_id", "age", "gender", "occupation", "zip_code"),
}


@dataclass(frozen=True, slots=True)
class MovieLens:
    """Ratings of movies by users, with what is known of both.

    Attributes:
        user: User of each row, shape ``[R]``, a value of ``user_ids``.
        item: Item of each row, shape ``[R]``, a value of ``item_ids``.
        rating: Stars 1 to 5, shape ``[R]``.
        timestamp: Unix seconds, shape ``[R]``, not decreasing.
        item_ids: Sorted item ids, shape ``[V]``.
        titles: Title of each item.
        years: Release year of each item, 0 where unknown, shape ``[V]``.
        genres: Genre names of each item.
        user_ids: Sorted user ids, shape ``[U]``.
        ages: Age in years, shape ``[U]``.
        genders: One letter for each user.
        occupations: One word for each user.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float64]
    timestamp: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    titles: tuple[str, ...]
    years: NDArray[np.int64]
    genres: tuple[tuple[str, ...], ...]
    user_ids: NDArray[np.int64]
    ages: NDArray[np.int64]
    genders: tuple[str, ...]
    occupations: tuple[str, ...]

    @property
    def label(self) -> NDArray[np.int64]:
        """1 where the rating is at least 4 stars ("a like"), else 0, shape ``[R]``."""
        return (self.rating >= 4).astype(np.int64)

    @property
    def item_index(self) -> NDArray[np.int64]:
        """Position of each row's item in ``item_ids``, shape ``[R]``."""
        return np.searchsorted(self.item_ids, self.item)

    @property
    def user_index(self) -> NDArray[np.int64]:
        """Position of each row's user in ``user_ids``, shape ``[R]``."""
        return np.searchsorted(self.user_ids, self.user)


def find_recbole_files() -> Path:
    """Folder of the MovieLens-100K files inside an installed recbole wheel.

    The wheel is located, never imported: ``pip install --no-deps recbole==1.2.1`` is enough.

    Returns:
        The folder that holds ``ml-100k.inter``, ``.item`` and ``.user``.

    Raises:
        FileNotFoundError: If recbole is not installed or ships no such folder.
    """
    spec = importlib.util.find_spec("recbole")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    for place in places:
        folder = Path(place) / _RECBOLE_FOLDER
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "data must name a folder with the MovieLens-100K files, or recbole must be installed "
        "(pip install --no-deps recbole==1.2.1); got neither"
    )


def read_movielens(data: Path | str | None = None) -> MovieLens:
    """Read MovieLens-100K, ordered by ``(timestamp, user, item)``.

    Args:
        data: Folder with the original ``u.data``, ``u.item``, ``u.user``, or with
            ``ml-100k.inter``, ``.item``, ``.user``. Without it, the recbole wheel's copy.

    Returns:
        The ratings and what is known of items and users.

    Raises:
        FileNotFoundError: If the folder or one of its three files is missing.
        ValueError: If a line cannot be read, an id occurs twice in the item or user file, a
            rating names an unknown item or user, or no rating is left.
    """
    folder = find_recbole_files() if data is None else Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"data must be a folder, got {folder}")
    original = (folder / _ORIGINAL_NAMES[0]).is_file()
    paths = [folder / name for name in (_ORIGINAL_NAMES if original else _RECBOLE_NAMES)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"data must hold u.data, u.item, u.user or {', '.join(_RECBOLE_NAMES)}, "
                f"got {folder} without {path.name}"
            )
    ratings = _parse(paths[0], _rating_of)
    items = _parse(paths[1], _original_item_of if original else _recbole_item_of)
    users = _parse(paths[2], _original_user_of if original else _recbole_user_of)
    items.sort(key=lambda row: row[0])
    users.sort(key=lambda row: row[0])
    item_ids = _unique_ids([row[0] for row in items], paths[1])
    user_ids = _unique_ids([row[0] for row in users], paths[2])
    if not ratings:
        raise ValueError(f"{paths[0]} must hold at least one rating, got none")
    user, item, rating, timestamp = (np.array(column) for column in zip(*ratings, strict=True))
    for name, values, known in (("item", item, item_ids), ("user", user, user_ids)):
        strange = values[~np.isin(values, known)]
        if len(strange):
            raise ValueError(
                f"{paths[0]} must rate only {name}s of the {name} file, got {name} {strange[0]}"
            )
    order = np.lexsort((item, user, timestamp))
    return MovieLens(
        user=user[order],
        item=item[order],
        rating=rating[order].astype(np.float64),
        timestamp=timestamp[order],
        item_ids=item_ids,
        titles=tuple(row[1] for row in items),
        years=np.array([row[2] for row in items], dtype=np.int64),
        genres=tuple(row[3] for row in items),
        user_ids=user_ids,
        ages=np.array([row[1] for row in users], dtype=np.int64),
        genders=tuple(row[2] for row in users),
        occupations=tuple(row[3] for row in users),
    )


def _parse(path: Path, row_of: Callable[[list[str]], Row]) -> list[Row]:
    header = _HEADERS.get(path.name)
    separator = "|" if path.name in ("u.item", "u.user") else "\t"
    encoding = "latin-1" if header is None else "utf-8"
    lines = path.read_bytes().decode(encoding, errors="replace").splitlines()
    if header is not None:
        found = tuple(name.split(":")[0] for name in lines[0].split("\t")) if lines else ()
        if found != header:
            raise ValueError(f"{path} must start with the columns {header}, got {found}")
        lines = lines[1:]
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1 if header is None else 2):
        if not line.strip():
            continue
        try:
            rows.append(row_of(line.split(separator)))
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path} line {number} must be a row of MovieLens-100K, got {line[:80]!r}"
            ) from error
    return rows


def _unique_ids(ids: list[int], path: Path) -> NDArray[np.int64]:
    array = np.array(ids, dtype=np.int64)
    twice = array[1:][array[1:] == array[:-1]]
    if len(twice):
        raise ValueError(f"{path} must name each id once, got {twice[0]} twice")
    return array


def _rating_of(cells: list[str]) -> tuple[int, int, float, int]:
    user, item, rating, timestamp = cells
    stars = float(rating)
    if not 1 <= stars <= 5:
        raise ValueError(rating)
    return int(user), int(item), stars, int(float(timestamp))


def _recbole_item_of(cells: list[str]) -> tuple[int, str, int, tuple[str, ...]]:
    item, title, year, genres = cells
    return int(item), title, int(year) if year.isdigit() else 0, tuple(genres.split())


def _original_item_of(cells: list[str]) -> tuple[int, str, int, tuple[str, ...]]:
    item, title, date = int(cells[0]), cells[1], cells[2]
    flags = [int(cell) for cell in cells[5:]]
    if len(flags) != len(_ORIGINAL_GENRES):
        raise ValueError(cells)
    genres = tuple(name for name, flag in zip(_ORIGINAL_GENRES, flags, strict=True) if flag)
    year = re.search(r"\d{4}$", date)
    return item, re.sub(r" \(\d{4}\)$", "", title), int(year[0]) if year else 0, genres


def _recbole_user_of(cells: list[str]) -> tuple[int, int, str, str]:
    user, age, gender, occupation, _zip = cells
    return int(user), int(age), gender, occupation


def _original_user_of(cells: list[str]) -> tuple[int, int, str, str]:
    return _recbole_user_of(cells)
