r"""Three ways in which situations explain each other.

A behaviour's situation is several vectors, one a field. *Across fields*: this hour together with
this place. *Across behaviours*: this place among the user's places, field by field. *With the
request*: this hour as seen from the hour of the request. Each is an attention along one axis and
along that axis alone; gates decide lane by lane how much of each is added.

Source: DSAIN, arXiv 2604.12298, tri-directional correlation fusion. ``[derived]``: that each
direction is a multi-head attention, on which axis, and the gated sum
:math:`x + \sum_d \sigma(W_d \hat x + b_d) \odot O_d` with :math:`\hat x` the RMS-normed vectors.
``[derived]`` too: every behaviour is before the request, so they read each other both ways; the
third direction reads the situation of the request, which all candidates share, and the candidate
itself has its say in the denoising and in the aggregation, so that the work is once a row.

Shapes: ``B`` rows, ``L`` behaviours, ``F`` fields of each, ``R`` fields of the request, ``D``
width, ``H`` heads, ``d`` width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding, windowed_attention

__all__ = ["AcrossBehaviours", "AcrossFields", "SituationCorrelations", "WithRequest"]


class _Direction(nn.Module):
    """Projections of one attention."""

    def __init__(self, *, dim: int, num_heads: int = 1) -> None:
        super().__init__()
        for name, size in {"dim": dim, "num_heads": num_heads}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"num_heads must divide the width {dim}, got {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _weight(self, part: int) -> Tensor:
        return self.query_key_value.weight.narrow(0, part * self.dim, self.dim)

    def _fields(self, fields: Tensor) -> Tensor:
        return _check.shape(fields, "fields", [-1, -1, -1, self.dim])


class AcrossFields(_Direction):
    """Fields of one behaviour read each other.

    Args:
        dim: Width ``D``.
        num_heads: Attention heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``num_heads`` is no divisor of ``dim``.

    Example:
        >>> AcrossFields(dim=8)(torch.randn(2, 5, 3, 8)).shape
        torch.Size([2, 5, 3, 8])
    """

    def forward(self, fields: Tensor) -> Tensor:
        """Attend along the fields.

        Args:
            fields: Shape ``[B, L, F, D]``.

        Returns:
            Shape ``[B, L, F, D]``.

        Raises:
            ValueError: If the shape does not fit.
        """
        fields = self._fields(fields)
        query, key, value = self.query_key_value(fields.flatten(0, 1)).chunk(3, dim=2)
        context = _few(self._heads(query), self._heads(key), self._heads(value))
        return self.out(context.transpose(1, 2).flatten(2)).view_as(fields)


class AcrossBehaviours(_Direction):
    """One field of a behaviour reads the same field of the others, both ways.

    Args:
        dim: Width ``D``.
        num_heads: Attention heads, a divisor of ``dim``.
        window: A behaviour sees those less than so many real behaviours away; None is all, which
            costs ``L`` squared.

    Raises:
        ValueError: If a size is less than one or ``num_heads`` is no divisor of ``dim``.

    Example:
        >>> AcrossBehaviours(dim=8)(torch.randn(2, 5, 3, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 3, 8])
    """

    def __init__(self, *, dim: int, num_heads: int = 1, window: int | None = None) -> None:
        super().__init__(dim=dim, num_heads=num_heads)
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = window

    def forward(self, fields: Tensor, mask: Tensor) -> Tensor:
        """Attend along the behaviours.

        Args:
            fields: Finite at padding too, shape ``[B, L, F, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.

        Returns:
            Shape ``[B, L, F, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        fields = self._fields(fields)
        real = _padding.boolean(mask, "mask", [fields.shape[0], fields.shape[1]])
        if self.window is None:
            return self._read(fields, real)
        # real ones side by side: padding between them must not take places of the window
        order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)
        place = torch.argsort(order, dim=1)
        packed = self._read(_moved(fields, order), real.gather(1, order))
        return _moved(packed, place)

    def _read(self, fields: Tensor, real: Tensor) -> Tensor:
        rows, length, number = fields.shape[0], fields.shape[1], fields.shape[2]
        x = fields.transpose(1, 2).flatten(0, 1)
        query, key, value = self.query_key_value(x).chunk(3, dim=2)
        context = _both_ways(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            real.repeat_interleave(number, dim=0),
            self.window,
        )
        read = self.out(context.transpose(1, 2).flatten(2))
        return read.view(rows, number, length, self.dim).transpose(1, 2)


class WithRequest(_Direction):
    """Each field of each behaviour reads the situation of the request.

    Args:
        dim: Width ``D``.
        num_heads: Attention heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``num_heads`` is no divisor of ``dim``.

    Example:
        >>> WithRequest(dim=8)(torch.randn(2, 5, 3, 8), torch.randn(2, 4, 8)).shape
        torch.Size([2, 5, 3, 8])
    """

    def forward(self, fields: Tensor, request: Tensor) -> Tensor:
        """Attend to the request.

        Args:
            fields: Shape ``[B, L, F, D]``.
            request: Fields of the request, at least one, shape ``[B, R, D]``.

        Returns:
            Shape ``[B, L, F, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        fields = self._fields(fields)
        request = _check.shape(request, "request", [fields.shape[0], -1, self.dim])
        query = functional.linear(fields.flatten(1, 2), self._weight(0))
        key, value = (functional.linear(request, self._weight(part)) for part in (1, 2))
        context = _few(self._heads(query), self._heads(key), self._heads(value))
        return self.out(context.transpose(1, 2).flatten(2)).view_as(fields)


class SituationCorrelations(nn.Module):
    r"""All three directions, and a gated sum of them.

    .. math::  x + \sum_d \sigma(W_d \hat x + b_d) \odot O_d(\hat x), \qquad
        \hat x = \mathrm{RMSNorm}(x)

    Args:
        dim: Width ``D``.
        num_heads: Attention heads of each direction.
        window: Of the direction across behaviours; None is all of them.

    Raises:
        ValueError: If a size is less than one or ``num_heads`` is no divisor of ``dim``.

    Example:
        >>> correlate, fields = SituationCorrelations(dim=8, num_heads=2), torch.randn(2, 5, 3, 8)
        >>> correlate(fields, torch.randn(2, 4, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 3, 8])
    """

    def __init__(self, *, dim: int, num_heads: int = 1, window: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.fields = AcrossFields(dim=dim, num_heads=num_heads)
        self.behaviours = AcrossBehaviours(dim=dim, num_heads=num_heads, window=window)
        self.request = WithRequest(dim=dim, num_heads=num_heads)
        # one norm for both: their vectors come from the same tables
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.gates = nn.Linear(dim, 3 * dim)

    def forward(self, fields: Tensor, request: Tensor, mask: Tensor) -> Tensor:
        """Let situations explain each other.

        Args:
            fields: Of the behaviours, shape ``[B, L, F, D]``; padding may hold anything.
            request: Of the request, at least one, shape ``[B, R, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.

        Returns:
            Zero at padding, shape ``[B, L, F, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        fields = _check.shape(fields, "fields", [-1, -1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [fields.shape[0], fields.shape[1]])
        each = real.unsqueeze(2).expand(-1, -1, fields.shape[2])
        fields = _padding.zeroed(fields, each)
        x = self.norm(fields)
        first, second, third = torch.sigmoid(self.gates(x)).chunk(3, dim=3)
        read = first * self.fields(x)
        read = read + second * self.behaviours(x, real)
        read = read + third * self.request(x, self.norm(request))
        return _padding.zeroed(fields + read, each)


def _few(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention among a handful: plain products, for which a fused kernel is no help."""
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    return torch.softmax(scores.float(), dim=3).to(value.dtype) @ value


@torch.fx.wrap
def _both_ways(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, window: int | None
) -> Tensor:
    return windowed_attention(query, key, value, window=window, mask=mask, causal=False)


def _moved(fields: Tensor, order: Tensor) -> Tensor:
    return fields.gather(1, order.unsqueeze(2).unsqueeze(3).expand_as(fields))
