r"""Cut a history where the user was away for longest.

Behaviours come in sessions: within one they belong together, between two lies a gap. The largest
gaps of a history cut it into chunks, as many as one wants and each as long as it happens to be.
Chunks of one length are the control: they cut through sessions.

Source: SparseCTR, arXiv 2601.17836, time chunking.
Differs from the source: of equal gaps the latest is cut, so that recent behaviours keep the finer
chunks [derived]; behaviours may come in any order.

Where the cuts lie depends on the whole history, so on what came after a behaviour too. That is
no leak for a request, which is later than all of it; a loss on each behaviour would see it.

Shapes: ``B`` rows, ``L`` behaviours, ``P`` chunks.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.sequences import _time_order

__all__ = ["EqualChunker", "TimeChunker"]


class _Chunker(nn.Module):
    """Puts behaviours into the order of time and tells each its chunk."""

    def __init__(self, *, num_chunks: int) -> None:
        super().__init__()
        if num_chunks < 1:
            raise ValueError(f"num_chunks must be at least 1, got {num_chunks}")
        self.num_chunks = num_chunks

    def forward(self, mask: Tensor, times: Tensor) -> Tensor:
        """Tell each behaviour its chunk.

        Args:
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``, int64 or int32;
                in any order. Of one instant the behaviour further left is the older.

        Returns:
            Numbers of chunks from 0, the oldest, without gaps, shape ``[B, L]``, int64; -1 at
            padding. A history of fewer than ``num_chunks`` behaviours has one chunk for each.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        real = _padding.boolean(mask, "mask", [-1, -1])
        times = _check.shape(times, "times", [real.shape[0], real.shape[1]])
        when = _check.integer(times, "times").long().masked_fill(~real, 0)
        order = _time_order.by_time(real, when)
        chunks = self.of_ordered(real.gather(1, order), when.gather(1, order))
        return chunks.gather(1, _time_order.back(order))

    def of_ordered(self, real: Tensor, times: Tensor) -> Tensor:
        """The same for behaviours that are in the order of time already, padding last.

        Args:
            real: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, shape ``[B, L]``, int64.

        Returns:
            Numbers of chunks, shape ``[B, L]``; -1 at padding.
        """
        raise NotImplementedError


class TimeChunker(_Chunker):
    r"""Chunks between the largest gaps of time.

    .. math::  \Delta_i = t_{i+1} - t_i, \qquad
        \text{cut after the } |P| - 1 \text{ behaviours with the largest } \Delta_i

    Args:
        num_chunks: Number ``P`` of chunks.

    Raises:
        ValueError: If ``num_chunks`` is less than one.

    Example:
        >>> chunks = TimeChunker(num_chunks=3)
        >>> chunks(torch.ones(1, 6).bool(), torch.tensor([[1, 2, 50, 51, 52, 90]]))
        tensor([[0, 0, 1, 1, 1, 2]])
    """

    def of_ordered(self, real: Tensor, times: Tensor) -> Tensor:
        """The same for behaviours that are in the order of time already, padding last.

        Args:
            real: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, shape ``[B, L]``, int64.

        Returns:
            Numbers of chunks, shape ``[B, L]``; -1 at padding.
        """
        within = real[:, 1:]  # a gap ends at a behaviour
        gaps = (times[:, 1:] - times[:, :-1]).masked_fill(~within, -1)
        # flipped, a stable sort puts the latest of equal gaps first
        largest = torch.argsort(gaps.flip(1), dim=1, descending=True, stable=True)
        rank = _time_order.back(largest).flip(1)
        cuts = (rank < self.num_chunks - 1) & within
        chunks = torch.cat([torch.zeros_like(real[:, :1]), cuts], dim=1).long().cumsum(dim=1)
        return chunks.masked_fill(~real, -1)


class EqualChunker(_Chunker):
    """Chunks of as many behaviours each, give or take one: the control of :class:`TimeChunker`.

    Args:
        num_chunks: Number ``P`` of chunks.

    Raises:
        ValueError: If ``num_chunks`` is less than one.

    Example:
        >>> chunks = EqualChunker(num_chunks=3)
        >>> chunks(torch.ones(1, 6).bool(), torch.tensor([[1, 2, 50, 51, 52, 90]]))
        tensor([[0, 0, 1, 1, 2, 2]])
    """

    def of_ordered(self, real: Tensor, times: Tensor) -> Tensor:
        """The same for behaviours that are in the order of time already, padding last.

        Args:
            real: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, shape ``[B, L]``, int64; not read.

        Returns:
            Numbers of chunks, shape ``[B, L]``; -1 at padding.
        """
        rank = torch.ones_like(times).cumsum(dim=1) - 1
        count = real.sum(dim=1, keepdim=True).clamp(min=self.num_chunks)
        return (rank * self.num_chunks // count).masked_fill(~real, -1)
