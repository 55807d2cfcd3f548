"""What an exact streaming AUC remembers: how often each score occurred in each class.

Weighted rows are kept one by one beside the counts: floats do not add up alike in every order,
rows do.

Shapes: ``[d]`` distinct scores of a class, ``[n]`` weighted rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sidrank.metrics._batches import Batch
from sidrank.metrics._row_store import RowStore, scores_of
from sidrank.metrics._tallies import Run, Tally, same_width, twice_wins
from sidrank.metrics._wire import read_columns, signed, unsigned
from sidrank.metrics.auc import auc

__all__ = ["ExactState"]

_BITS = (torch.int32, torch.int64)
_DTYPES = {
    "positive_keys": _BITS,
    "positive_counts": (torch.uint8, *_BITS),
    "negative_keys": _BITS,
    "negative_counts": (torch.uint8, *_BITS),
    "row_keys": _BITS,
    "row_labels": (torch.bool,),
    "row_weights": (torch.float64,),
}


class ExactState:
    """Two tallies and a store of weighted rows."""

    kind = "exact AUC"

    def __init__(self) -> None:
        self._positives = Tally()
        self._negatives = Tally()
        self._weighted = RowStore()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._positives.total + self._negatives.total + self._weighted.total

    @property
    def positives(self) -> int:
        """Number of positive rows."""
        return self._positives.total + self._weighted.positives

    def add(self, batch: Batch) -> None:
        """Take in rows.

        Args:
            batch: Checked rows.
        """
        if batch.weights is not None:
            self._weighted.add(batch)
            return
        self._positives.add(batch.keys[batch.positive])
        self._negatives.add(batch.keys[~batch.positive])

    def merge(self, other: "ExactState") -> None:
        """Take in what another state has.

        Args:
            other: Stays as it is.
        """
        self._positives.merge(other._positives)
        self._negatives.merge(other._negatives)
        self._weighted.merge(other._weighted)

    def ends(self) -> tuple[float, float, float]:
        """Give the AUC as lower end, middle and upper end.

        Returns:
            Three times the same.
        """
        value = self._weigh() if self._weighted.total else self._count()
        return value, value, value

    def tensors(self) -> dict[str, Tensor]:
        """Write the state.

        Returns:
            Vectors by name; they share memory with the state.
        """
        positives, negatives = same_width([self._positives.run(), self._negatives.run()])
        columns = {
            "positive_keys": signed(positives.keys),
            "positive_counts": positives.counts,
            "negative_keys": signed(negatives.keys),
            "negative_counts": negatives.counts,
            "row_keys": np.empty(0, np.int32),
            "row_labels": np.empty(0, np.bool_),
            "row_weights": np.empty(0),
        }
        if self._weighted.total:
            rows = self._weighted.rows()
            columns["row_keys"], columns["row_labels"] = signed(rows.keys), rows.positive
            columns["row_weights"] = np.ones(0) if rows.weights is None else rows.weights
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "ExactState":
        """Read a state.

        Args:
            tensors: What :meth:`tensors` wrote.

        Returns:
            A state with memory of its own.

        Raises:
            ValueError: If it is not such a state.
        """
        columns = read_columns(tensors, _DTYPES)
        state = cls()
        for name in ("positive", "negative"):
            keys, counts = unsigned(columns[f"{name}_keys"]), columns[f"{name}_counts"]
            ascending = bool((keys[1:] > keys[:-1]).all())
            if len(keys) != len(counts) or not ascending or not (counts > 0).all():
                raise ValueError(
                    f"state must count each of its {name}_keys once, in ascending order, "
                    f"got {len(keys)} keys with {len(counts)} counts"
                )
            setattr(state, f"_{name}s", Tally(Run(keys, counts)))
        keys, labels = unsigned(columns["row_keys"]), columns["row_labels"]
        weights = columns["row_weights"]
        if len({len(keys), len(labels), len(weights)}) > 1:
            raise ValueError(
                "state must have as many row_keys as row_labels and row_weights, "
                f"got {len(keys)}, {len(labels)} and {len(weights)}"
            )
        if len(keys):
            state._weighted.add(Batch(labels, keys, weights, None))
        return state

    def _count(self) -> float:
        pairs = self._positives.total * self._negatives.total
        return twice_wins(self._positives.run(), self._negatives.run()) / (2 * pairs)

    def _weigh(self) -> float:
        """Hand all rows to the one-shot metric, which does not mind their order."""
        rows = self._weighted.rows()
        labels, scores = [rows.positive], [scores_of(rows.keys)]
        weights = [] if rows.weights is None else [rows.weights]
        for positive, tally in ((True, self._positives), (False, self._negatives)):
            keys, counts = tally.run()
            labels.append(np.full(tally.total, positive))
            scores.append(np.repeat(scores_of(keys), counts))
            weights.append(np.ones(tally.total))
        return auc(np.concatenate(labels), np.concatenate(scores), np.concatenate(weights))
