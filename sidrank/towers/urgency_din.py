r"""Target attention that knows how long a candidate is still open and how long ago things happened.

What a user does about a round that locks in ten minutes is not what he does about one of next week:
the attention unit of DIN also reads the urgency of the candidate and the time between each
behaviour and the request.

Source: DFS Ranking, arXiv 2604.13796: urgency features :math:`u` (time to lock, its log and
buckets), positions by the time gap to the request :math:`p_i = PE(\log(1 + t_{req} - t_i))`, an
attention MLP over :math:`[e_i, e_c, e_i - e_c, e_i \odot e_c, p_i, u]`. Differs from the source:
the time to lock is told in units of the last bucket and stops there, the log goes on [derived];
buckets tell which boundaries are passed, of which one-hot buckets are differences [derived]; sines
and cosines of the log with periods of 1.6 to 100, a factor of five to any [derived].

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``D`` width, ``P`` width of a position,
``U`` urgency features.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.sequences import selection
from sidrank.towers import _activation_unit

__all__ = ["UrgencyDIN", "mask_expired"]

_FASTEST, _SLOWEST = 4.0, 1 / 16  # radians per unit of log time


class UrgencyDIN(nn.Module):
    r"""Behaviours summed with weights that depend on the deadline and on the time passed.

    .. math::  \sum_i a_i\, e_i, \qquad
        a_i = \mathrm{MLP}([e_i, e_c, e_i - e_c, e_i \odot e_c, p_i, u])

    Times are integers in any unit; ``unit`` says how many of them make one of the unit that
    ``buckets`` are told in, so seconds and milliseconds of the same log give the same answers.

    Args:
        dim: Width ``D`` of candidates and behaviours.
        hidden: Units of each hidden layer.
        position_dim: Width ``P`` of a position, even.
        unit: How many steps of the clock make one unit, such as 3600 for seconds and hours.
        buckets: Boundaries of the remaining time, in units, rising.
        softmax: Whether the weights of a history are made to sum to one.

    Raises:
        ValueError: If a size is less than one, ``position_dim`` is odd, ``unit`` is not positive
            and finite, or ``buckets`` do not rise from above zero.

    Example:
        >>> tower = UrgencyDIN(dim=8, hidden=[16], unit=3600)
        >>> times, now = torch.tensor([[0, 1800]]), torch.tensor([3600])
        >>> tower(torch.randn(1, 3, 8), torch.randn(1, 2, 8), torch.ones(1, 2).bool(), times, now,
        ...       locks=torch.tensor([[4000, 7200, 90000]])).shape
        torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden: Sequence[int] = (64, 16),
        position_dim: int = 16,
        unit: float = 1.0,
        buckets: Sequence[float] = (0.25, 1.0, 4.0, 12.0, 24.0, 72.0, 168.0),
        softmax: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if position_dim < 2 or position_dim % 2:
            raise ValueError(f"position_dim must be even and at least 2, got {position_dim}")
        if not (unit > 0 and math.isfinite(unit)):
            raise ValueError(f"unit must be positive and finite, got {unit}")
        steps = [0.0, *buckets]
        rising = all(low < high < math.inf for low, high in pairwise(steps))
        if not buckets or not rising:
            raise ValueError(f"buckets must rise from above zero, got {list(buckets)}")
        self.dim = dim
        self.position_dim = position_dim
        self.unit = unit
        self.buckets = [float(boundary) for boundary in buckets]
        self.softmax = softmax
        width = 4 * dim + position_dim + self.num_features
        self.mlp = _activation_unit.unit(width, hidden)

    @property
    def num_features(self) -> int:
        """Number ``U`` of urgency features."""
        return len(self.buckets) + 2

    def urgency(self, locks: Tensor, now: Tensor) -> Tensor:
        """How urgent candidates are; worth giving to the layers behind the tower, too.

        Args:
            locks: When each candidate locks, shape ``[B, C]``, int64 or int32.
            now: When the request came, same unit, shape ``[B]``.

        Returns:
            Time to the lock (up to the last bucket, as a share of it), its log and which
            boundaries it passes, shape ``[B, C, U]``; an expired candidate has zeros.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        locks = _check.integer(_check.shape(locks, "locks", [-1, -1]), "locks")
        now = _check.integer(_check.shape(now, "now", [locks.shape[0]]), "now")
        left = (locks - now.unsqueeze(1)).clamp(min=0).double() / self.unit
        passed = [(left >= boundary).double() for boundary in self.buckets]
        share = (left / self.buckets[-1]).clamp(max=1.0)
        return torch.stack([share, torch.log1p(left), *passed], dim=2).float()

    def positions(self, times: Tensor, now: Tensor) -> Tensor:
        """Where behaviours stand in the time before the request.

        Args:
            times: When they happened, shape ``[B, L]``, int64 or int32.
            now: When the request came, same unit, shape ``[B]``.

        Returns:
            Sines and cosines of ``log(1 + gap)``, shape ``[B, L, P]``; a gap below zero, which
            the attention does not read, counts as none.
        """
        gap = (now.unsqueeze(1) - times).clamp(min=0).double() / self.unit
        number = self.position_dim // 2
        steps = torch.arange(number, device=times.device, dtype=torch.float64) / max(1, number - 1)
        turns = _FASTEST * torch.exp(steps * math.log(_SLOWEST / _FASTEST))
        angles = torch.log1p(gap).unsqueeze(2) * turns
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=2).float()

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        locks: Tensor,
    ) -> Tensor:
        """Sum the behaviours.

        Args:
            target: Candidates, shape ``[B, C, D]``.
            history: Behaviours, shape ``[B, L, D]``; padding may hold anything.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, shape ``[B, L]``, int64 or int32.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours count.
            locks: When each candidate locks, same unit, shape ``[B, C]``. One that has locked
                already gets an answer too; :func:`mask_expired` takes it out of the ranking.

        Returns:
            Shape ``[B, C, D]``; exactly zero where no behaviour counts.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.dim])
        history = _check.shape(history, "history", [target.shape[0], -1, self.dim])
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [target.shape[0], history.shape[1]])
        locks = _check.shape(locks, "locks", [target.shape[0], target.shape[1]])
        first, dim = cast(nn.Linear, self.mlp[0]), self.dim
        widths = [dim, dim, dim, dim, self.position_dim, self.num_features]
        key, query, difference, product, place, urgent = first.weight.split(widths, dim=1)
        own = torch.cat([target, self.urgency(locks, now).to(target.dtype)], dim=2)
        offset = functional.linear(own, torch.cat([query - difference, urgent], dim=1), first.bias)
        return _activation_unit.pooled(
            offset,
            target,
            history,
            self.positions(times, now).to(history.dtype),
            known,
            torch.cat([key + difference, place], dim=1),
            product,
            _activation_unit.hidden_layers(self.mlp),
            self.softmax,
        )


def mask_expired(logits: Tensor, locks: Tensor, now: Tensor) -> Tensor:
    """Put candidates that have locked at the end of every ranking.

    Args:
        logits: Shape ``[B, C]``.
        locks: When each candidate locks, shape ``[B, C]``, int64 or int32.
        now: When the request came, same unit, shape ``[B]``. A candidate that locks at this
            very moment is still open.

    Returns:
        Logits with minus infinity where the lock is in the past, shape ``[B, C]``.

    Raises:
        ValueError: If the shapes or dtypes do not fit.

    Example:
        >>> mask_expired(torch.zeros(1, 3), torch.tensor([[4, 5, 6]]), torch.tensor([5]))
        tensor([[-inf, 0., 0.]])
    """
    logits = _check.shape(logits, "logits", [-1, -1])
    dims = [logits.shape[0], logits.shape[1]]
    locks = _check.integer(_check.shape(locks, "locks", dims), "locks")
    now = _check.integer(_check.shape(now, "now", [dims[0]]), "now")
    return logits.masked_fill(locks < now.unsqueeze(1), float("-inf"))
