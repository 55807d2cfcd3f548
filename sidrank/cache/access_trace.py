"""What traffic asks of a model's tables, observed batch by batch.

The trace sees the ids of every global batch and keeps, for each table, how often a cache of any
size would have missed: four bytes a row, no log of ids. It is exact, and cheap enough to stay on
in a training loop; for id spaces that have no end, a sample of the rows will do.

A global batch is what all ranks train on in one step, since a table's cache sees that much between
two lookups. A rank that sees only its own part must gather the others' (``group``), or it draws a
curve for traffic that no cache ever gets.

Source: ours, see :mod:`sidrank.cache.miss_ratio_curve`; Waldspurger et al., "Efficient MRC
construction with SHARDS", FAST 2015, for samples.
Differs from the source: accesses are the distinct rows of a batch, and how many there are is
counted and not estimated; what the sample has too many or too few of is set right by that.

Shapes: ids of any shape, each as often as a batch reads it.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.cache._curves import curve_of, joined, segment_batches
from sidrank.cache._global_batches import (
    JaggedFeatures,
    TableConfig,
    checked,
    features_of,
    gathered,
    table_ids,
)
from sidrank.cache._reuse import Reuse
from sidrank.cache._trace_file import Counted, Shard, read, write
from sidrank.cache.miss_ratio_curve import MissRatioCurve

__all__ = ["AccessTrace"]

_DRIFT = 0.05  # of the accesses: halves further apart are another traffic
_ERRORS = 3.0  # standard errors of a share that chance is granted

_Item = TypeVar("_Item")


class AccessTrace:
    """Counts, for tables and batches, what caches of every size would have missed.

    Args:
        rows: Rows of each table, by name.
        sampling: Share of the rows to follow, chosen by a hash of the id. 1 follows all and takes
            four bytes for each row of a table; less takes twelve for each that occurs and is
            followed.

    Raises:
        ValueError: If there is no table, a table has no row, or ``sampling`` is not in (0, 1].

    Example:
        >>> trace = AccessTrace({"item": 8})
        >>> for batch in ([0, 1, 1], [0, 2], [0, 3], [0, 1]):
        ...     trace.observe({"item": np.array(batch)})
        >>> curve = trace.curves()["item"]
        >>> curve.accesses, curve.cold, curve.misses_at([1, 2, 3, 4]).tolist()
        (8.0, 4.0, [6.5, 5.0, 5.0, 4.0])
    """

    def __init__(self, rows: Mapping[str, int], *, sampling: float = 1.0) -> None:
        if not rows:
            raise ValueError("rows must name at least one table, got none")
        for table, count in rows.items():
            if not 1 <= count < 2**63:
                raise ValueError(f"rows must be at least 1 for table {table}, got {count}")
        if not 0 < sampling <= 1:
            raise ValueError(f"sampling must lie in (0, 1], got {sampling}")
        self._sampling = float(sampling)
        self._following = {
            table: Reuse(int(count), self._sampling) for table, count in rows.items()
        }
        self._counted: dict[str, list[Shard]] = {}  # loaded or merged: closed
        self._batches = 0

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table; of a merged one, of all its shards."""
        return {
            table: sum(shard.rows for shard in shards) for table, shards in self._shards().items()
        }

    @property
    def batches(self) -> int:
        """Global batches observed."""
        return self._batches

    @property
    def sampling(self) -> float:
        """Share of the rows that is followed."""
        return self._sampling

    def observe(
        self, ids: Mapping[str, Tensor | NDArray[np.integer]], *, group: Any = None
    ) -> None:
        """Count one global batch.

        Args:
            ids: The ids that the batch reads, for every table of the trace and no other; integers
                of any shape, repeated as they may be. A table that is not read has none.
            group: A process group with a CPU backend (gloo) whose ranks each give their part of
                the batch, all in the same order; each rank then counts the whole. None if
                ``ids`` is the whole.

        Raises:
            ValueError: If the tables are not those of the trace, an id lies outside its table, or
                the trace was loaded or merged. Nothing is counted then.
        """
        if self._counted:
            raise ValueError(
                "trace must be a new one to observe a batch, got one that was loaded or merged"
            )
        if ids.keys() != self._following.keys():
            raise ValueError(
                f"ids must hold the tables {sorted(self._following)}, got {sorted(ids)}"
            )
        columns = {
            table: checked(ids[table], table, reuse.rows)
            for table, reuse in self._following.items()
        }
        if group is not None:
            columns = gathered(columns, group)
        for table, reuse in self._following.items():
            reuse.observe(columns[table])
        self._batches += 1

    def observe_features(
        self,
        features: JaggedFeatures,
        *,
        tables: Sequence[TableConfig] | Mapping[str, Sequence[str]],
        group: Any = None,
    ) -> None:
        """Count one global batch as a model gets it.

        Args:
            features: A ``KeyedJaggedTensor``. Ids that a module of the model makes, such as
                semantic IDs, are not in it: give what stands behind that module.
            tables: TorchRec's configs of the tables, or names of features by name of the table.
            group: See :meth:`observe`.

        Raises:
            ValueError: If a feature is not in the batch, or as :meth:`observe` does.
        """
        self.observe(table_ids(features, features_of(tables)), group=group)

    def watch(
        self,
        batches: Iterable[_Item],
        *,
        tables: Sequence[TableConfig] | Mapping[str, Sequence[str]],
        features: Callable[[_Item], JaggedFeatures] = attrgetter("sparse_features"),
        group: Any = None,
    ) -> Iterator[_Item]:
        """Hand batches on, each counted before: put it around the loader of a training loop.

        ``pipeline.progress(...)`` of a TorchRec pipeline takes the iterator as it is.

        Args:
            batches: A data loader, or any batches.
            tables: See :meth:`observe_features`.
            features: Finds the ``KeyedJaggedTensor`` in a batch.
            group: See :meth:`observe`.

        Yields:
            The batches, as they are.

        Raises:
            ValueError: As :meth:`observe_features` does.
        """
        names = features_of(tables)
        for batch in batches:
            self.observe_features(features(batch), tables=names, group=group)
            yield batch

    def curves(self) -> dict[str, MissRatioCurve]:
        """The curve of each table, over all that was observed.

        Returns:
            Curves by name of the table.

        Raises:
            ValueError: If nothing was observed, or a sample holds none of the rows that occur.
        """
        return {table: self._curve(shards) for table, shards in self._observed().items()}

    def recent(self) -> dict[str, MissRatioCurve]:
        """The curve of each table at the end of the trace, for a cache that ran all the while.

        That is what a run that goes on will miss. :meth:`curves` tells the same for a run that
        begins; the shorter the trace, the more of its accesses are first ones.

        Returns:
            Curves by name of the table, over the last eighth of the batches or somewhat more.

        Raises:
            ValueError: As :meth:`curves` does.
        """
        shards = self._observed()
        counts = segment_batches(next(iter(shards.values()))[0].sums)
        start = len(counts) - 1
        while 8 * sum(counts[start:]) < self._batches:
            start -= 1
        return {table: self._curve(each, start, running=True) for table, each in shards.items()}

    def halves(self) -> dict[str, tuple[MissRatioCurve, MissRatioCurve]]:
        """The curves of an earlier and a later part of the trace, equally long.

        Each is that of a cache which is empty when its part begins, so the two of them agree where
        traffic has stayed the same. They are halves up to 8 batches; of a longer trace, batches in
        the middle or at the end may be left out, at most a third.

        Returns:
            Both curves by name of the table.

        Raises:
            ValueError: If fewer than two batches were observed.
        """
        shards = self._observed()
        if self._batches < 2:
            raise ValueError(f"trace must hold at least 2 batches, got {self._batches}")
        sums = next(iter(shards.values()))[0].sums
        whole = sum(count == sums.length for count in segment_batches(sums))
        half = whole // 2
        return {
            table: (self._curve(each, 0, half), self._curve(each, whole - half, whole))
            for table, each in shards.items()
        }

    def drift(self) -> dict[str, float]:
        """How far the curves of both halves are apart; warns where a size would not last.

        A hot set that wanders is no drift in this sense, as long as a cache of some size keeps
        missing as much; one that grows or flattens is.

        Returns:
            The largest difference of the shares of misses, at any size, by name of the table.

        Raises:
            ValueError: If fewer than two batches were observed.
        """
        gaps: dict[str, float] = {}
        moved: list[str] = []
        for table, (early, late) in self.halves().items():
            slots = np.union1d(early.slots, late.slots)
            rates = [curve.misses_at(slots) / max(curve.accesses, 1.0) for curve in (early, late)]
            gap = float(np.abs(rates[0] - rates[1]).max())
            gaps[table] = gap
            chance = np.sqrt(0.25 / max(early.accesses, 1) + 0.25 / max(late.accesses, 1))
            if gap > _DRIFT + _ERRORS * chance / np.sqrt(self._sampling):
                moved.append(f"{table} ({gap:.3f})")
        if moved:
            warnings.warn(
                f"traffic drifts: the miss rates of both halves of the trace differ by more than"
                f" {_DRIFT} for {', '.join(moved)}; sizes from it will not hold, trace again",
                stacklevel=2,
            )
        return gaps

    def merge(self, others: Iterable["AccessTrace"]) -> None:
        """Add what other ranks observed of the same batches.

        Tables of other names are added as they are. A table of the same name is another shard of
        it: a row-wise sharded table has a cache on each rank, of rows of its own, and its ``rows``
        here are those of the shard. The curve of all is the sum of the shards' misses at one load
        factor, which is exact. Parts of a batch cannot be put together afterwards: give
        :meth:`observe` a ``group`` instead.

        Args:
            others: Their traces, which stay as they are.

        Raises:
            ValueError: If another trace has seen another number of batches or another share of the
                rows, or is this one. Nothing is merged then.
        """
        others = list(others)
        for other in others:
            if other is self:
                raise ValueError("others must not hold the trace itself, got it")
            if (other.batches, other.sampling) != (self.batches, self.sampling):
                raise ValueError(
                    f"others must have observed the same batches, {self.batches} at sampling"
                    f" {self.sampling}, got {other.batches} at {other.sampling}"
                )
        shards = self._shards()
        for other in others:
            for table, more in other._shards().items():
                shards[table] = [*shards.get(table, []), *more]
        self._counted, self._following = shards, {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was counted: a few hundred kilobytes a table, however large it is.

        The file is whole or not there. What was loaded can be merged, not observed further.

        Args:
            path: The file; an old one is replaced. Its folder must exist.

        Raises:
            ValueError: If nothing was observed.
            OSError: If the disk refuses.
        """
        write(Path(path), Counted(self._sampling, self._batches, self._observed()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "AccessTrace":
        """Read a trace that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The trace.

        Raises:
            ValueError: If the file is not a whole trace.
            OSError: If it cannot be read.
        """
        counted = read(Path(path))
        trace = cls.__new__(cls)
        trace._sampling, trace._batches = counted.sampling, counted.batches
        trace._counted, trace._following = counted.tables, {}
        return trace

    def _shards(self) -> dict[str, list[Shard]]:
        return dict(self._counted) or {
            table: [Shard(reuse.rows, reuse.sums())] for table, reuse in self._following.items()
        }

    def _observed(self) -> dict[str, list[Shard]]:
        if not self._batches:
            raise ValueError("trace must hold at least 1 batch, got none")
        return self._shards()

    def _curve(
        self,
        shards: Sequence[Shard],
        start: int = 0,
        stop: int | None = None,
        *,
        running: bool = False,
    ) -> MissRatioCurve:
        return joined(
            [
                curve_of(
                    shard.sums,
                    rows=shard.rows,
                    sampling=self._sampling,
                    start=start,
                    stop=stop,
                    running=running,
                )
                for shard in shards
            ]
        )
