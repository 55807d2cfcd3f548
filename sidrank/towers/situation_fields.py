r"""The situation of a behaviour as vectors: one a field, changed by what kind of behaviour it is.

What somebody did says little without when, where and how it was done. Each such field becomes a
vector: a category through a table, a number (how long ago, how long it took) through soft
discretisation. The same evening means one thing for a view and another for a purchase, so a map of
low rank, one a behaviour type, then changes the vectors.

Source: DSAIN, arXiv 2604.12298, situational feature encoder. ``[derived]``: a table a category,
``SoftDiscretization`` (AutoDis, arXiv 2012.08986) a number, and
:math:`e'_f = (I + U_{type} V_{type}^\top)\, e_f`. ``[derived]`` too: ``U`` is zero at birth, and
the first row of each table, for a value nobody has seen.

What is wrapped for FX is called through this module (``situation_fields.elapsed(...)``), see
``sidrank._check``.

Shapes: ``F`` fields, of which ``F_c`` are categories and ``F_n`` numbers, ``D`` width, ``K`` types.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import SoftDiscretization

__all__ = ["SituationFields", "TypeParameterization", "elapsed"]

_LARGEST = 1e6  # a number beyond it would overflow in the soft discretisation


class SituationFields(nn.Module):
    """Embed categories and numbers, one vector a field.

    Nothing a field holds is an error: a category beyond its table, or below 1, reads row 0, and a
    number that is NaN or infinite reads a row of its own. Both rows are zero at birth and learn.

    Args:
        dim: Width ``D`` of a vector.
        categories: For each category how many values it has, row 0 included.
        numbers: How many numbers there are, ``F_n``.
        bins: Soft bins of a number.

    Raises:
        ValueError: If there is no field, or a size is out of range.

    Example:
        >>> embed = SituationFields(dim=8, categories=[5, 3], numbers=1)
        >>> hour_and_place, gap = [[4, 1], [9, -1]], [[2.5], [torch.nan]]
        >>> fields = embed(torch.tensor(hour_and_place), torch.tensor(gap))
        >>> fields.shape, fields[1].any()  # nothing of the second is known
        (torch.Size([2, 3, 8]), tensor(False))
    """

    def __init__(
        self, *, dim: int, categories: Sequence[int] = (), numbers: int = 0, bins: int = 16
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if numbers < 0:
            raise ValueError(f"numbers must be at least 0, got {numbers}")
        if any(size < 1 for size in categories):
            raise ValueError(f"categories must be at least 1 each, got {list(categories)}")
        if not categories and not numbers:
            raise ValueError("categories and numbers must be one field at least, got none")
        self.dim = dim
        self.num_fields = len(categories) + numbers
        self.sizes: list[int] = list(categories)
        self.numbers = nn.ModuleList(SoftDiscretization(dim=dim, bins=bins) for _ in range(numbers))
        self.table = nn.Parameter(torch.empty(sum(categories), dim)) if categories else None
        self.unknown = nn.Parameter(torch.empty(numbers, dim)) if numbers else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the tables anew, with zeros for what is not known; the soft bins have their own."""
        if self.table is not None:
            nn.init.normal_(self.table, std=self.dim**-0.5)
            with torch.no_grad():
                self.table[_starts(self.sizes)] = 0.0
        if self.unknown is not None:
            nn.init.zeros_(self.unknown)

    def forward(self, categories: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Embed.

        Args:
            categories: Shape ``[..., F_c]``, int64 or int32; None if there are none.
            numbers: Of the order of one, as logarithms are; shape ``[..., F_n]``; None if there
                are none.

        Returns:
            Vectors, categories before numbers, shape ``[..., F, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        parts: list[Tensor] = []
        if self.table is not None:
            rows = _rows(_given(categories, "categories", len(self.sizes)), self.sizes)
            parts.append(functional.embedding(rows, self.table))
        if self.unknown is not None:
            values, known = _finite(_given(numbers, "numbers", len(self.numbers)))
            soft = [embed(values[..., f]) for f, embed in enumerate(self.numbers)]
            parts.append(torch.where(known.unsqueeze(-1), torch.stack(soft, dim=-2), self.unknown))
        return torch.cat(parts, dim=-2)


class TypeParameterization(nn.Module):
    r"""Change the vectors of a behaviour's fields by its type.

    .. math::  e'_f = (I + U_{type} V_{type}^\top)\, e_f, \qquad U = 0 \text{ at birth}

    Args:
        num_types: Number ``K`` of types, 0 for one that is not known included.
        dim: Width ``D`` of a field.
        rank: Columns of ``U`` and of ``V``.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> change, fields = TypeParameterization(num_types=3, dim=8), torch.randn(2, 5, 4, 8)
        >>> torch.equal(change(fields, torch.ones(2, 5).long()), fields)
        True
    """

    def __init__(self, *, num_types: int, dim: int, rank: int = 4) -> None:
        super().__init__()
        for name, size in {"num_types": num_types, "dim": dim, "rank": rank}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.num_types = num_types
        self.dim = dim
        self.rank = rank
        self.u = nn.Parameter(torch.empty(num_types, rank, dim))
        self.v = nn.Parameter(torch.empty(num_types, rank, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No change at birth."""
        nn.init.zeros_(self.u)
        nn.init.normal_(self.v, std=self.dim**-0.5)

    def forward(self, fields: Tensor, types: Tensor) -> Tensor:
        """Change the vectors.

        Args:
            fields: Shape ``[B, L, F, D]``.
            types: Type of each behaviour, shape ``[B, L]``, int64 or int32; one beyond ``K`` or
                below 0 is type 0.

        Returns:
            Shape ``[B, L, F, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        fields = _check.shape(fields, "fields", [-1, -1, -1, self.dim])
        types = _check.shape(types, "types", [fields.shape[0], fields.shape[1]])
        own = one_hot_types(_check.integer(types, "types"), self.num_types)
        # through the lanes of all types, all but those of its own put to zero: two plain products
        # and no matrix a behaviour
        lanes = functional.linear(fields, self.v.flatten(0, 1))
        chosen = own.repeat_interleave(self.rank, dim=2).unsqueeze(2)
        return fields + (lanes * chosen.to(lanes.dtype)) @ self.u.flatten(0, 1)


@torch.fx.wrap
def one_hot_types(types: Tensor, num_types: int) -> Tensor:
    """Which type each behaviour has; what is out of range is type 0.

    Args:
        types: Shape ``[B, L]``, integers.
        num_types: Number ``K`` of types.

    Returns:
        Shape ``[B, L, K]``, bool.

    Example:
        >>> one_hot_types(torch.tensor([[1, 7]]), 2).tolist()
        [[[False, True], [True, False]]]
    """
    known = torch.where((types >= 0) & (types < num_types), types, torch.zeros_like(types))
    return known.unsqueeze(2) == torch.arange(num_types, device=types.device)


@torch.fx.wrap
def elapsed(times: Tensor, now: Tensor) -> Tensor:
    """How long ago, as ``log(1 + gap)``: a number for :class:`SituationFields`.

    Args:
        times: When behaviours happened, shape ``[B, L]``, integers; the smallest number of their
            dtype, which is also what ``NaT`` is, means not known.
        now: When the request came, same unit, shape ``[B]``.

    Returns:
        Shape ``[B, L]``, float32; NaN where a time is not known or the gap is negative: it is no
        gap of zero.

    Raises:
        ValueError: If the shapes or dtypes do not fit.

    Example:
        >>> elapsed(torch.tensor([[0, 9, 12]]), torch.tensor([9]))
        tensor([[2.3026, 0.0000,    nan]])
    """
    times = _check.integer(_check.shape(times, "times", [-1, -1]), "times")
    now = _check.integer(_check.shape(now, "now", [times.shape[0]]), "now").unsqueeze(1)
    fine = known_times(times) & known_times(now) & (times <= now)
    # what is not fine must not overflow either
    gap = torch.where(fine, now.double() - times.double(), 0.0)
    return torch.where(fine, torch.log1p(gap), torch.nan).float()


@torch.fx.wrap
def known_times(times: Tensor) -> Tensor:
    """Which times are known: all but the smallest number of their dtype.

    Args:
        times: Integers of any shape.

    Returns:
        Same shape, bool.

    Example:
        >>> known_times(torch.tensor([3, torch.iinfo(torch.int64).min]))
        tensor([ True, False])
    """
    return times != torch.iinfo(times.dtype).min


@torch.fx.wrap
def _given(values: Tensor | None, name: str, fields: int) -> Tensor:
    shape = None if values is None else list(values.shape)
    if values is None or not shape or shape[-1] != fields:
        raise ValueError(f"{name} must have shape [..., {fields}], got {shape}")
    return values


@torch.fx.wrap
def _rows(ids: Tensor, sizes: list[int]) -> Tensor:
    """Rows of one table that holds those of all fields, one after the other."""
    ids = _check.integer(ids, "categories").long()
    size = torch.tensor(sizes, device=ids.device)
    start = torch.tensor(_starts(sizes), device=ids.device)
    return torch.where((ids >= 0) & (ids < size), ids, 0) + start


@torch.fx.wrap
def _finite(values: Tensor) -> tuple[Tensor, Tensor]:
    known = torch.isfinite(values)
    return torch.where(known, values, 0.0).float().clamp(-_LARGEST, _LARGEST), known


def _starts(sizes: list[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]
