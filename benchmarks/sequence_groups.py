"""Several requests of a user read with one history: training at a fraction of the cost.

A row is joined by the rows of its user that follow it. They read the history as it was at the
first one, so none sees what it could not have seen, and the later ones see a little less than they
might. Judging stays row by row.

Shapes: ``B`` rows, ``G`` requests of each, ``F`` static fields, ``D`` width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows

__all__ = ["Groups", "loss_of_groups"]


class Groups:
    """Finds the training rows that follow a row.

    Args:
        rows: The log.
        size: Requests of a group, ``G``.
    """

    def __init__(self, rows: SequenceRows, size: int) -> None:
        self.rows = rows
        self.size = size
        self.learns = torch.zeros(len(rows), dtype=torch.bool)
        self.learns[rows.parts["train"]] = True

    def requests(self, batch: SequenceBatch) -> tuple[SequenceBatch, Tensor]:
        """The groups of a batch's rows.

        Args:
            batch: Of ``B`` rows to learn from.

        Returns:
            Requests of all groups side by side, ``B G`` of them, almost without a history; and
            which are of the user and to learn from, shape ``[B, G]``, bool.
        """
        at = batch.row.unsqueeze(1) + torch.arange(self.size)
        inside = at < len(self.rows)
        at = at.clamp(max=len(self.rows) - 1)
        real = inside & self.learns[at] & (self.rows.user[at] == batch.user.unsqueeze(1))
        return self.rows.batch(at.flatten(), Cut(length=1)), real


def loss_of_groups(logits: Tensor, label: Tensor, real: Tensor) -> Tensor:
    """Mean binary cross-entropy of what is real."""
    each = F.binary_cross_entropy_with_logits(logits, label.view_as(logits), reduction="none")
    return (each * real).sum() / real.sum().clamp(min=1)
