r"""What, when, where and how of a history, read from the request's situation.

The same user wants breakfast at eight in the office and a film at nine at home. A tower that reads
items alone mixes the two. Here each behaviour comes with a *situation* (what kind of behaviour, at
which hour, where, how long ago, ...) and so does the request:

1. each candidate drops behaviours that are noise to it (``SituationDenoising``),
2. the type of a behaviour changes the vectors of its situation (``TypeParameterization``),
3. situations explain each other in three directions (``SituationCorrelations``),
4. the candidate, with the situation of the request, reads the behaviours of each type
   (``TypedTargetAttention``).

Source: DSAIN, arXiv 2604.12298 (RecSys 2023), of which only summaries were at hand: all equations
are ``[derived]``, and each file names its own. ``[derived]`` here: the denoising reads situations
after step 2 and before step 3; its choice acts on what a candidate reads in step 4, while step 3
sees all that the request may know, once for all candidates; the query of step 4 is the candidate
and the fields of the request side by side, its keys are behaviour and fields side by side.

Differs from a user's clock: events not strictly earlier than the request are invisible, and so
are those whose time is not known, since nobody can say that they are earlier.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``E`` width of an item, ``F`` fields of a
behaviour, ``R`` of the request, ``D`` width of a field.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.sequences import selection
from sidrank.towers import situation_fields
from sidrank.towers.situation_aggregation import TypedTargetAttention
from sidrank.towers.situation_correlations import SituationCorrelations
from sidrank.towers.situation_denoising import SituationDenoising
from sidrank.towers.situation_fields import TypeParameterization

__all__ = ["SituationTower"]


class SituationTower(nn.Module):
    """Candidates and a history with situations in, one vector a candidate out.

    Args:
        denoise: Chooses what a candidate reads.
        parameterize: Changes fields by the type of the behaviour.
        correlate: Lets fields explain each other.
        aggregate: Reads; its queries have width ``E + R * D``, its keys ``E + F * D``.

    Raises:
        ValueError: If the widths of the parts do not fit.

    Example:
        >>> import torch
        >>> tower = SituationTower.of(
        ...     item_dim=8, dim=4, num_fields=3, num_request_fields=2, num_types=3)
        >>> answer, kept = tower(
        ...     torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 3, 4),
        ...     torch.randn(2, 2, 4), torch.randint(0, 3, (2, 7)), torch.ones(2, 7).bool(),
        ...     torch.arange(7).expand(2, 7), torch.tensor([7, 3]))
        >>> answer.shape, kept.shape, kept[1, :, 3:].any()  # the rest was not yet
        (torch.Size([2, 5, 24]), torch.Size([2, 5, 7]), tensor(False))
    """

    def __init__(
        self,
        *,
        denoise: SituationDenoising,
        parameterize: TypeParameterization,
        correlate: SituationCorrelations,
        aggregate: TypedTargetAttention,
    ) -> None:
        super().__init__()
        item, dim = denoise.item_dim, parameterize.dim
        if correlate.dim != dim:
            raise ValueError(f"correlate must have width {dim}, got {correlate.dim}")
        if denoise.situation_dim % dim:
            raise ValueError(
                f"denoise must have a situation_dim that is a multiple of {dim}, "
                f"got {denoise.situation_dim}"
            )
        if aggregate.key_dim != item + denoise.situation_dim:
            raise ValueError(
                f"aggregate must have the key_dim {item + denoise.situation_dim}, "
                f"got {aggregate.key_dim}"
            )
        if aggregate.query_dim <= item or (aggregate.query_dim - item) % dim:
            raise ValueError(
                f"aggregate must have a query_dim of {item} and a positive multiple of {dim}, "
                f"got {aggregate.query_dim}"
            )
        if aggregate.num_types != parameterize.num_types:
            raise ValueError(
                f"aggregate must have {parameterize.num_types} types, got {aggregate.num_types}"
            )
        self.item_dim = item
        self.dim = dim
        self.num_fields = denoise.situation_dim // dim
        self.num_request_fields = (aggregate.query_dim - item) // dim
        self.out_dim = aggregate.out_dim
        self.denoise = denoise
        self.parameterize = parameterize
        self.correlate = correlate
        self.aggregate = aggregate

    @classmethod
    def of(
        cls,
        *,
        item_dim: int,
        dim: int,
        num_fields: int,
        num_request_fields: int,
        num_types: int,
        out: int | None = None,
    ) -> "SituationTower":
        """A tower of parts with their defaults.

        Args:
            item_dim: Width ``E``.
            dim: Width ``D``.
            num_fields: Number ``F``.
            num_request_fields: Number ``R``.
            num_types: Types, 0 for one that is not known included.
            out: Width of the answer of one type; None is ``E``.

        Returns:
            The tower.
        """
        return cls(
            denoise=SituationDenoising(item_dim=item_dim, situation_dim=num_fields * dim),
            parameterize=TypeParameterization(num_types=num_types, dim=dim),
            correlate=SituationCorrelations(dim=dim),
            aggregate=TypedTargetAttention(
                query_dim=item_dim + num_request_fields * dim,
                key_dim=item_dim + num_fields * dim,
                dim=item_dim if out is None else out,
                num_types=num_types,
            ),
        )

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        situation: Tensor,
        request: Tensor,
        types: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Read the history.

        Args:
            target: Candidates, shape ``[B, C, E]``.
            history: Behaviours, shape ``[B, L, E]``; padding may hold anything.
            situation: Fields of the behaviours, shape ``[B, L, F, D]``; padding may hold anything.
            request: Fields of the request, shape ``[B, R, D]``; those that behaviours have too
                first, in their order, are matched from the start.
            types: Type of each behaviour, shape ``[B, L]``, int64 or int32; one out of range is
                type 0.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``; the smallest number
                of the dtype (``NaT``) is not known, and that behaviour invisible.
            now: When the request came, same unit, shape ``[B]``.

        Returns:
            Answers, exactly zero where nothing is visible or kept, shape ``[B, C, out_dim]``, and
            the keep weights, zero where nothing is visible, shape ``[B, C, L]``;
            :func:`~sidrank.layers.gumbel_keep.keep_share` makes a budget of them.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.item_dim])
        rows, candidates = target.shape[0], target.shape[1]
        history = _check.shape(history, "history", [rows, -1, self.item_dim])
        length = history.shape[1]
        dims = [rows, length, self.num_fields, self.dim]
        situation = _check.shape(situation, "situation", dims)
        request = _check.shape(request, "request", [rows, self.num_request_fields, self.dim])
        types = _check.integer(_check.shape(types, "types", [rows, length]), "types")
        real = _padding.boolean(mask, "mask", [rows, length])
        known = selection.earlier(real, times, now) & situation_fields.known_times(times)
        types = types.masked_fill(~known, 0)
        history = _padding.zeroed(history, known)
        each = known.unsqueeze(2).expand(-1, -1, self.num_fields)
        fields = self.parameterize(_padding.zeroed(situation, each), types)
        kept = self.denoise(target, history, fields.flatten(2), known)
        explained = self.correlate(fields, request, known)
        query = torch.cat([target, request.flatten(1).unsqueeze(1).expand(-1, candidates, -1)], 2)
        keys = torch.cat([history, explained.flatten(2)], dim=2)
        return self.aggregate(query, keys, types, kept), kept
