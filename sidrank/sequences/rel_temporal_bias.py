r"""What two moments say about how much one behaviour has to tell another, for each head.

Three things: how long ago it was, on a scale of doublings; whether it was the same time of day;
whether both were at a weekend.

Source: SparseCTR, arXiv 2601.17836, relative temporal bias.
Differs from the source: buckets are doublings of seconds [derived]; hours differ on a circle, in
whole hours [derived]; at birth the heads forget at the slopes of ALiBi (arXiv 2108.12409), and
hours and weekends play no part [derived].

Shapes: ``B`` rows, ``Q`` queries, ``T`` keys, ``H`` heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check

__all__ = ["RelTemporalBias"]

HOUR, DAY = 3600, 86400
MONDAY = 3  # days from a Monday to 1 January 1970


class RelTemporalBias(nn.Module):
    r"""A number for each head and pair of moments, to be added to attention logits.

    .. math::  B_h(i, j) = -a_h \lfloor \log_2 (1 + |\Delta t_{ij}|) \rfloor
        + b_h \cos\!\Big(\tfrac{2\pi}{24} (\mathrm{hour}_i - \mathrm{hour}_j)\Big)
        + c_h\, \mathrm{weekend}_{ij}, \qquad a_h = \mathrm{softplus}(\alpha_h) \ge 0

    ``weekend`` is 0 if both moments fall on a weekend and -1 if not. ``\Delta t`` is in whole
    seconds: less than one is bucket 0, one to three bucket 1, an hour 11, a day 16, a year 24.

    Args:
        num_heads: Number ``H`` of heads.
        per_second: How many units of time make a second; 1000 for milliseconds.
        utc_offset: Seconds to add to UTC for the clock that users live by.

    Raises:
        ValueError: If ``num_heads`` or ``per_second`` is less than one.

    Example:
        >>> bias = RelTemporalBias(num_heads=2)
        >>> now, before = torch.tensor([[100_000]]), torch.tensor([[100_000, 99_999, 10_000]])
        >>> (bias(now, before)[0, 1, 0] * 256).round().tolist()  # the slope is 1/256 here
        [0.0, -1.0, -16.0]
    """

    def __init__(self, *, num_heads: int, per_second: int = 1, utc_offset: int = 0) -> None:
        super().__init__()
        for name, size in {"num_heads": num_heads, "per_second": per_second}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.num_heads = num_heads
        self.per_second = per_second
        self.utc_offset = utc_offset
        self.recency = nn.Parameter(torch.empty(num_heads))
        self.hour = nn.Parameter(torch.empty(num_heads))
        self.weekend = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads forget at slopes from near 1 to 1/256 a doubling; no hours, no weekends."""
        slopes = [2.0 ** (-8.0 * (head + 1) / self.num_heads) for head in range(self.num_heads)]
        with torch.no_grad():
            # softplus of it is the slope
            self.recency.copy_(torch.tensor([math.log(math.expm1(slope)) for slope in slopes]))
            self.hour.zero_()
            self.weekend.zero_()

    def forward(self, query_times: Tensor, key_times: Tensor) -> Tensor:
        """The bias of each query for each key.

        Args:
            query_times: Moments of the queries since 1 January 1970, shape ``[..., Q]``, int64
                or int32.
            key_times: Moments of the keys, shape ``[..., T]``, same unit.

        Returns:
            Shape ``[..., H, Q, T]``, of the dtype of the parameters.

        Raises:
            ValueError: If the dtypes do not fit.
        """
        query = _check.integer(query_times, "query_times").long()
        key = _check.integer(key_times, "key_times").long()
        # integers until here, so a shift of all moments changes no difference by rounding
        ago = ((query.unsqueeze(-1) - key.unsqueeze(-2)).abs() // self.per_second) + 1
        doublings = torch.frexp(ago.double())[1] - 1
        query_hour, query_weekend = self._clock(query)
        key_hour, key_weekend = self._clock(key)
        hour = torch.cos(query_hour.unsqueeze(-1) - key_hour.unsqueeze(-2))
        weekend = query_weekend.unsqueeze(-1) * key_weekend.unsqueeze(-2) - 1.0
        features = torch.stack([-doublings.to(hour.dtype), hour, weekend], dim=-3)
        weights = torch.stack([functional.softplus(self.recency), self.hour, self.weekend], dim=1)
        return torch.einsum("hf,...fqk->...hqk", weights, features)

    def _clock(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Hour of the day as an angle, and 1 at weekends."""
        seconds = torch.div(times, self.per_second, rounding_mode="floor") + self.utc_offset
        hour = torch.div(torch.remainder(seconds, DAY), HOUR, rounding_mode="floor")
        days = torch.div(seconds, DAY, rounding_mode="floor")
        weekend = torch.remainder(days + MONDAY, 7) >= 5
        return hour.to(self.hour.dtype) * (2.0 * math.pi / 24.0), weekend.to(self.hour.dtype)
