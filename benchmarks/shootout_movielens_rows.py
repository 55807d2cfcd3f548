"""MovieLens-100K in the shoot-out's form: the demo's folds, features and settings, for every arm.

The demo makes the rows (``sidrank.demo``): its three protocols, item vectors from the other
surface's log, statistics of strictly earlier rows, a cold twin of each row. Added here are what
the shoot-out's arms read beyond it: positions in place of raw ids, fifty likes, the counts of
another row for the gate's control, slices by training rows and by age.

Shapes: ``R`` rows, their cold twins after them; ``V`` items; ``L`` history length.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec import KeyedJaggedTensor

from benchmarks.shootout_rows import LONG, SHORT, Size, World
from sidrank.data import AsOfLog, MovieLens
from sidrank.demo.evaluation import BUCKETS
from sidrank.demo.features import GATE_STATISTICS
from sidrank.demo.preparation import Fold, prepare
from sidrank.demo.settings import Recipe, Settings
from sidrank.semantic_ids import SIDTable

__all__ = ["DemoPlan", "TwinWorld", "demo_plan", "movielens_world"]

AGES = {"0-6": 0, "7-29": 7, "30-89": 30, "90+": 90}
UNITS = 512
DEMO_ARMS = {  # arms that the demo's settings name; every other arm has the hybrid's
    "hid": "host",
    "wide": "host",
    "vector": "host_vector",
    "two_scalars": "host_scalars",
}
COUNTS = ("impressions", "likes")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DemoPlan:
    """The demo's recipe as a plan of the shoot-out."""

    recipe: Recipe

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @property
    def batch(self) -> int:
        return self.recipe.batch

    @property
    def cold(self) -> float:
        return self.recipe.cold_share

    def steps(self) -> dict[str, tuple[float, float]]:
        """As in the demo's ``make_optimizer``."""
        own = self.recipe
        return {
            "item": (own.item_lr, own.table_decay),
            "sid": (own.branch_lr, own.branch_decay),
            "tables": (own.table_lr, own.table_decay),
            "gate": (own.gate_lr, 0.0),
            "dense": (own.lr, own.decay),
        }


def demo_plan(settings: Settings, protocol: str, arm: str) -> DemoPlan:
    """The committed settings of an arm: chosen on validation rows, for the demo."""
    return DemoPlan(settings.recipe(protocol, DEMO_ARMS.get(arm, "hybrid")))


@dataclass(kw_only=True)
class TwinWorld(World):
    """A world whose rows made cold are rows of their own, ``R`` places on."""

    def cut(
        self, rows: Tensor, keys: tuple[str, ...], made_cold: Tensor | None = None
    ) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
        """As in ``World``."""
        if made_cold is not None:
            rows = torch.where(made_cold, rows + len(self.label) // 2, rows)
        return super().cut(rows, keys)


def movielens_world(data: MovieLens, protocol: str, settings: Settings, *, seed: int) -> TwinWorld:
    """Rows of a protocol.

    Args:
        data: The log.
        protocol: One of the demo's.
        settings: The demo's.
        seed: In ``cold_items`` it chooses the fold.
    """
    fold = prepare(data, protocol, seed, settings.vectors[protocol])
    features, rows = fold.features, fold.features.rows
    item = data.item_index[rows]
    seen = np.bincount(item[fold.learn], minlength=len(data.item_ids))
    past = liked_before(data, fold, LONG)
    history = np.where(past >= 0, np.where(seen[past] > 0, past + 1, 0), -1)
    order = np.random.default_rng(seed).permutation(len(rows))
    counts = {name: features.single[old] for name, old in zip(COUNTS, GATE_STATISTICS, strict=True)}
    hosted = {name: ids for name, ids in features.single.items() if name in features.sizes}
    single = {
        **hosted,
        "item_raw": np.tile(item, 2),
        **counts,
        **{f"shuffled_{name}": np.tile(of[: len(rows)][order], 2) for name, of in counts.items()},
    }
    multi = {
        "genres": features.multi["genres"],
        "history": np.tile(history[:, :SHORT], (2, 1)),
        "history_raw": np.tile(past[:, :SHORT], (2, 1)),
        "long": np.tile(history, (2, 1)),
        "long_raw": np.tile(past, (2, 1)),
    }
    recipe = settings.recipe(protocol, "hybrid")
    vectors = fold.vectors.vectors
    return TwinWorld(
        keys=(*features.sizes, "history"),
        table=SIDTable(np.arange(len(vectors)), fold.table.codes, spec=fold.table.spec),
        vectors=torch.from_numpy(np.pad(vectors, ((0, 1), (0, 0)))),
        single={name: torch.from_numpy(ids) for name, ids in single.items()},
        multi={name: torch.from_numpy(np.ascontiguousarray(ids)) for name, ids in multi.items()},
        dense=torch.from_numpy(features.dense),
        cold=torch.full((features.dense.shape[1],), torch.nan),
        label=torch.from_numpy(features.label).float(),
        users=np.tile(data.user[rows], 2),
        parts={"train": fold.learn, "test": fold.judge},
        slices=slices(data, fold),
        sizes=features.sizes,
        frequency=seen,
        scalars=torch.from_numpy(fold.vectors.scalars),
        size=Size(width=recipe.width, hidden=recipe.hidden, init=recipe.init, units=UNITS),
    )


def liked_before(data: MovieLens, fold: Fold, count: int) -> Ints:
    """Positions of the newest items that the user liked strictly before each row, −1 for none."""
    events = np.flatnonzero(fold.split.counted & (data.label == 1))
    log = AsOfLog(keys=data.user_index[events], timestamps=data.timestamp[events])
    rows = fold.features.rows
    newest = log.newest(count, keys=data.user_index[rows], timestamps=data.timestamp[rows])
    return np.where(newest >= 0, data.item_index[events[newest]], -1)


def slices(data: MovieLens, fold: Fold) -> dict[str, NDArray[np.bool_]]:
    """Masks of the judged rows; head is the demo's: the fifth of the items most often trained."""
    judged = fold.features.rows[fold.judge]
    first = np.full(len(data.item_ids), np.iinfo(np.int64).max)
    np.minimum.at(first, data.item_index, data.timestamp)
    days = (data.timestamp[judged] - first[data.item_index[judged]]) // 86_400
    new = fold.frequency == 0
    found = {
        "all": np.ones(len(judged), dtype=bool),
        "new": new,
        "tail": ~new & ~fold.head,
        "new_tail": ~fold.head,
        "head": fold.head,
    }
    for low, high in BUCKETS:
        name = f"{low}" if low == high else f"{low}-{high}" if high < 10**9 else f"{low}+"
        found[f"rows {name}"] = (fold.frequency >= low) & (fold.frequency <= high)
    ends = [*AGES.values(), np.inf]
    for name, start, end in zip(AGES, ends, ends[1:], strict=False):
        found[f"age {name}"] = (days >= start) & (days < end)
    return found
