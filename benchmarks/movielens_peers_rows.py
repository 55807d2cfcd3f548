"""One set of features for every ranker of the MovieLens study: what is known strictly before a row.

Rows, splits and item vectors are the demo's (``sidrank.demo``), and so are ids, clock, genres and
nine statistics; added are statistics of stars, of days and sittings and of the user in the
semantic IDs of the item, the other surface's vector of the item as numbers, and the newest hundred
items that the user rated, each with its stars and its age. A statistic or a history reads strictly
earlier seconds only; the label of a row, and those of the same second, are in none.

Numbers are standardised by the rows to learn from, and every statistic comes as a bucket, too.
Row 0 of a table is padding, row 1 an id that no row to learn from has.

Shapes: ``R`` rows, ``F`` numbers, ``G`` genres, ``L`` past ratings, ``V`` items, ``D`` vector.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.movielens_peers_factors import Tastes, fit_tastes, fold_of
from sidrank.data import AsOfLog, MovieLens
from sidrank.demo.features import make_features
from sidrank.demo.item_vectors import ItemVectors, make_item_vectors
from sidrank.demo.preparation import make_table
from sidrank.demo.protocols import Split, make_split
from sidrank.demo.settings import VectorRecipe

__all__ = ["PAST", "UNSEEN", "Batch", "PeerRows", "make_rows", "requests_of"]

PAST = 100
UNSEEN = 1
SITTING = 1800  # seconds without a rating end a sitting
LONGEST = 20  # rows of a request: a sitting is cut into runs of so many
SPACES = ((8, 200.0), (16, 500.0))  # widths and shrinkages, chosen on validation rows
_BUCKETS = 12
_GAPS = np.array([60, 600, 1800, 86400, 7 * 86400, 30 * 86400])
_ABOVE = np.array([-2.0, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25])
_PASSED = ("item_raw", "item_impressions", "item_likes")  # the demo's, not for a table

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PeerRows:
    """All rows of one split, as tensors.

    Attributes:
        ids: One id a row by field, each of shape ``[R]``.
        sizes: Rows of each field's table, and of ``genres``.
        genres: Genres of the item, 0 where fewer, shape ``[R, G]``.
        numbers: Standardised, shape ``[R, F]``.
        names: Of the numbers.
        past_item: Items that the user rated before, newest first, 0 where fewer, ``[R, L]``.
        past_stars: Their stars, 1 to 5, shape ``[R, L]``.
        past_gap: Bucket of the time since, from 1, shape ``[R, L]``.
        past_above: Stars above the item's mean as it was then, shape ``[R, L]``.
        past_above_bucket: The same from 1, 0 where fewer, shape ``[R, L]``.
        past_raw: Place of the item in ``vectors``, shape ``[R, L]``.
        raw: Place of the row's item in ``vectors``, shape ``[R]``.
        vectors: The other surface's item vectors, row 0 zero, shape ``[V + 1, D]``.
        codes: Semantic ID of each item, a prefix a level, row 0 zero, shape ``[V + 1, 3]``.
        item_genres: Genres of each item, row 0 zero, shape ``[V + 1, G]``.
        tastes: Item vectors fitted to what other users thought of the items, by width.
        fold: Which of their folds leaves the row's user out, shape ``[R]``.
        label: 1 for a like, shape ``[R]``.
        user: User id, shape ``[R]``.
        request: Request group, shape ``[R]``.
        parts: Positions of ``learn`` and ``judge``.
    """

    ids: dict[str, Tensor]
    sizes: dict[str, int]
    genres: Tensor
    numbers: Tensor
    names: tuple[str, ...]
    past_item: Tensor
    past_stars: Tensor
    past_gap: Tensor
    past_above: Tensor
    past_above_bucket: Tensor
    past_raw: Tensor
    raw: Tensor
    vectors: Tensor
    codes: Tensor
    item_genres: Tensor
    tastes: tuple[Tastes, ...]
    fold: Tensor
    label: Tensor
    user: Ints
    request: Ints
    parts: dict[str, Tensor]

    def cut(self, place: Tensor) -> "Batch":
        """The named rows.

        Args:
            place: Positions, shape ``[B]``.

        Returns:
            What a ranker reads of them.
        """
        held = {
            name: getattr(self, name)[place]
            for name in Batch._fields
            if name not in ("place", "ids")
        }
        return Batch(place=place, ids={n: x[place] for n, x in self.ids.items()}, **held)


class Batch(NamedTuple):
    """Rows of one step; see ``PeerRows``."""

    place: Tensor
    ids: dict[str, Tensor]
    genres: Tensor
    numbers: Tensor
    past_item: Tensor
    past_stars: Tensor
    past_gap: Tensor
    past_above: Tensor
    past_above_bucket: Tensor
    past_raw: Tensor
    raw: Tensor


def make_rows(
    data: MovieLens, protocol: str, recipe: VectorRecipe, *, validate: bool, past: int = PAST
) -> PeerRows:
    """Build the rows of one split.

    Args:
        data: The log.
        protocol: ``per_user`` or ``global_time``.
        recipe: The demo's, of item vectors and codes.
        validate: Learn from the train rows and judge on those of validation, for choosing
            settings; otherwise learn from both and judge on the test rows.
        past: Length ``L`` of a history.

    Returns:
        The rows.
    """
    split = make_split(data, protocol)
    learn = split.train if validate else np.sort(np.concatenate([split.train, split.validation]))
    judge = split.validation if validate else split.test
    base = make_features(data, split, learn)
    rows, size = base.rows, len(base.rows)
    learning = np.isin(rows, learn)
    vectors = make_item_vectors(data, split.vector_rows, weights=recipe.weights)
    codes = _prefixes(data, vectors, recipe)

    item = data.item_index[rows]
    events = np.flatnonzero(split.counted)
    above = _above_item(data, events)
    more = _statistics(data, split, rows, codes)
    buckets = {f"{name}_bucket": _bucketed(value, learning) for name, value in more.items()}
    numbers = [base.dense[:size], *(value[:, None] for value in more.values())]
    numbers += [vectors.scalars[item], vectors.vectors[item]]
    wide = np.concatenate(numbers, axis=1).astype(np.float64)
    wide = (wide - wide[learning].mean(0)) / (wide[learning].std(0) + 1e-6)
    names = (*base.numbers, *more, "other_residual", "other_count")
    names += tuple(f"vector_{place}" for place in range(vectors.vectors.shape[1]))

    single = {
        name: ids[:size] + 1 for name, ids in base.single.items() if name not in _PASSED
    }  # 0 in the demo is what no row learnt from has: 1 here
    single |= {f"code_{level}": codes[item + 1, level] for level in range(codes.shape[1])}
    single |= {name: ids + 1 for name, ids in buckets.items()}
    sizes = {name: int(size) + 1 for name, size in base.sizes.items()}
    for name in (*buckets, *(f"code_{level}" for level in range(codes.shape[1]))):
        sizes[name] = int(single[name].max()) + 1
    for level in range(codes.shape[1]):
        sizes[f"code_{level}"] = int(codes[:, level].max()) + 1

    known = np.bincount(data.item_index[learn], minlength=len(data.item_ids)) > 0
    log = AsOfLog(keys=data.user_index[events], timestamps=data.timestamp[events])
    newest = log.newest(past, keys=data.user_index[rows], timestamps=data.timestamp[rows])
    real, newest = newest >= 0, np.maximum(newest, 0)
    seen = events[newest]
    higher = np.where(real, above[newest], 0.0)
    thing, stars = data.item_index[seen], data.rating[seen].astype(np.int64)
    gap = np.where(real, data.timestamp[rows][:, None] - data.timestamp[seen], 0)
    genres = _item_genres(data)
    return PeerRows(
        ids={name: torch.from_numpy(np.ascontiguousarray(ids)) for name, ids in single.items()},
        sizes=sizes | {"genres": int(genres.max()) + 1},
        genres=torch.from_numpy(genres[item + 1]),
        numbers=torch.from_numpy(wide.astype(np.float32)),
        names=names,
        past_item=torch.from_numpy(np.where(real, np.where(known[thing], thing + 2, UNSEEN), 0)),
        past_stars=torch.from_numpy(np.where(real, stars, 0)),
        past_gap=torch.from_numpy(np.where(real, np.searchsorted(_GAPS, gap) + 1, 0)),
        past_above=torch.from_numpy(higher.astype(np.float32)),
        past_above_bucket=torch.from_numpy(np.where(real, np.searchsorted(_ABOVE, higher) + 1, 0)),
        past_raw=torch.from_numpy(np.where(real, thing + 1, 0)),
        raw=torch.from_numpy(item + 1),
        vectors=torch.from_numpy(np.pad(vectors.vectors, ((1, 0), (0, 0))).astype(np.float32)),
        codes=torch.from_numpy(codes),
        item_genres=torch.from_numpy(genres),
        tastes=tuple(
            fit_tastes(data, split, learn, vectors=vectors, dim=dim, shrinkage=shrinkage)
            for dim, shrinkage in SPACES
        ),
        fold=torch.from_numpy(fold_of(data.user[rows])),
        label=torch.from_numpy(data.label[rows]).float(),
        user=data.user[rows],
        request=requests_of(data.user_index[rows], data.timestamp[rows], learning),
        parts={
            "learn": torch.from_numpy(np.searchsorted(rows, learn)),
            "judge": torch.from_numpy(np.searchsorted(rows, judge)),
        },
    )


def requests_of(user: Ints, time: Ints, learning: NDArray[np.bool_] | None = None) -> Ints:
    """Request of each row: what a user rated in one sitting, in runs of at most ``LONGEST``.

    Args:
        user: Of each row, shape ``[R]``.
        time: Of each row, shape ``[R]``.
        learning: Rows of two kinds are never in one request, bool, shape ``[R]``.

    Returns:
        Numbers of the requests, shape ``[R]``.
    """
    kind = np.zeros(len(user), np.int64) if learning is None else learning.astype(np.int64)
    order = np.lexsort((np.arange(len(user)), time, kind, user))
    u, k, t = user[order], kind[order], time[order]
    fresh = np.ones(len(user), dtype=bool)
    fresh[1:] = (u[1:] != u[:-1]) | (k[1:] != k[:-1]) | (np.diff(t) > SITTING)
    first = np.flatnonzero(fresh)
    place = np.arange(len(user)) - np.repeat(first, np.diff(first, append=len(user)))
    numbers = np.empty(len(user), np.int64)
    numbers[order] = np.cumsum(place % LONGEST == 0) - 1
    return numbers


def _prefixes(data: MovieLens, vectors: ItemVectors, recipe: VectorRecipe) -> Ints:
    """Ids of the code prefixes of each item, from 1; row 0 is padding."""
    tokenizer, _ = make_table(data, vectors, recipe)
    codes = np.asarray(tokenizer.encode(vectors.vectors)).astype(np.int64)
    found = np.zeros((len(codes) + 1, codes.shape[1]), np.int64)
    prefix = np.zeros(len(codes), np.int64)
    for level, width in enumerate(recipe.levels):
        prefix = prefix * width + codes[:, level]
        found[1:, level] = np.unique(prefix, return_inverse=True)[1] + 1
    return found


def _item_genres(data: MovieLens) -> Ints:
    names = sorted({name for some in data.genres for name in some})
    width = max(1, max(len(some) for some in data.genres))
    ids = np.zeros((len(data.item_ids) + 1, width), np.int64)
    for place, some in enumerate(data.genres, start=1):
        ids[place, : len(some)] = [names.index(name) + 1 for name in some]
    return ids


def _means(log: AsOfLog, stars: Floats, keys: Ints, t: Ints, prior: Floats) -> Floats:
    shown = log.totals(np.ones(len(stars)), keys=keys, timestamps=t)
    return (log.totals(stars, keys=keys, timestamps=t) + 5 * prior) / (shown + 5)


def _prior(data: MovieLens, events: Ints, t: Ints) -> Floats:
    """Mean of all stars before a time."""
    everyone = AsOfLog(keys=np.zeros(len(events), np.int64), timestamps=data.timestamp[events])
    zeros = np.zeros(len(t), np.int64)
    shown = everyone.totals(np.ones(len(events)), keys=zeros, timestamps=t)
    return (everyone.totals(data.rating[events], keys=zeros, timestamps=t) + 35) / (shown + 10)


def _above_item(data: MovieLens, events: Ints) -> Floats:
    """What each rating says beyond its item, as that was known then."""
    item, when, stars = data.item_index[events], data.timestamp[events], data.rating[events]
    log = AsOfLog(keys=item, timestamps=when)
    return stars - _means(log, stars, item, when, _prior(data, events, when))


def _statistics(data: MovieLens, split: Split, rows: Ints, codes: Ints) -> dict[str, Floats]:
    """What the demo's statistics leave out, as of each row."""
    events = np.flatnonzero(split.counted)
    when, at = data.timestamp[events], data.timestamp[rows]
    stars = data.rating[events]
    user, item = data.user_index[rows], data.item_index[rows]
    of_user, of_item = data.user_index[events], data.item_index[events]
    by_user, by_item = (AsOfLog(keys=keys, timestamps=when) for keys in (of_user, of_item))
    ones, prior = np.ones(len(events)), _prior(data, events, at)
    user_stars = _means(by_user, stars, user, at, prior)
    item_stars = _means(by_item, stars, item, at, prior)
    # what a rating says beyond its user, and beyond its item, as both were known then
    above_user = stars - _means(by_user, stars, of_user, when, _prior(data, events, when))
    above_item = _above_item(data, events)
    shown_user = by_user.totals(ones, keys=user, timestamps=at)
    shown_item = by_item.totals(ones, keys=item, timestamps=at)
    squares = by_user.totals(above_user**2, keys=user, timestamps=at)
    item_squares = by_item.totals(above_user**2, keys=item, timestamps=at)
    month = by_item.totals(ones, keys=item, timestamps=at, since=at - 30 * 86400)
    newest = by_user.newest(5, keys=user, timestamps=at)
    last = np.where(newest[:, 0] >= 0, at - when[newest[:, 0]], 365 * 86400)
    found = {
        "user_stars": user_stars,
        "user_spread": np.sqrt((squares + 5) / (shown_user + 5)),
        "user_five": np.where(newest >= 0, above_item[newest], 0).sum(1) / 5,
        "user_gap": np.log1p(last / 60),
        "user_sitting": np.log1p(
            by_user.totals(ones, keys=user, timestamps=at, since=at - SITTING)
        ),
        "item_stars": item_stars - prior,
        "item_above": by_item.totals(above_user, keys=item, timestamps=at) / (shown_item + 5),
        "item_spread": np.sqrt((item_squares + 5) / (shown_item + 5)),
        "item_month": np.log1p(month),
        "item_trend": np.log((month + 1) / (shown_item + 2)),
    }
    for level in range(2):
        size = int(codes.max()) + 1
        log = AsOfLog(keys=of_user * size + codes[of_item + 1, level], timestamps=when)
        keys = user * size + codes[item + 1, level]
        shown = log.totals(ones, keys=keys, timestamps=at)
        found[f"code_{level}_above"] = log.totals(above_item, keys=keys, timestamps=at) / (
            shown + 3
        )
        found[f"code_{level}_count"] = np.log1p(shown)
    return found


def _bucketed(values: Floats, learning: NDArray[np.bool_]) -> Ints:
    edges = np.quantile(values[learning], np.linspace(0, 1, _BUCKETS + 1)[1:-1])
    return np.searchsorted(np.unique(edges), values, side="right").astype(np.int64)
