r"""HyFormer: several behaviour sequences and the other features refine each other, layer by layer.

The usual ranker compresses each sequence to a vector and lets the vectors meet the other features
at the end. Here a few *queries* of each sequence read it (decoding) and then meet the queries of
the other sequences and the non-sequential (NS) tokens by token mixing (boosting); the next layer
reads the sequences again with what was learned. Sequences never see each other before that, so
each keeps its own length, width and encoder.

Source: HyFormer, arXiv 2601.12681: query generation, query decoding, query boosting
``U <- U + PerTokenFFN(TokenMix(U))`` with ``U = [Q_1; ...; Q_S; NS]``.
Differs from the source: the mean of the real behaviours stands for a sequence in the first
queries; boosted NS tokens go on to the next layer as the queries do; no norm besides that of the
modules passed in [derived].

The target rides in the NS tokens. Candidates of a request share the encoded sequences, and are
read as more queries of them: keys and values are made once a row.

Shapes: ``B`` rows, ``C`` candidates, ``S`` sequences, ``N`` queries of each, ``M`` NS tokens,
``T = S N + M`` tokens, ``L`` behaviours, ``D`` width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.rank_mixer import PerTokenLinear
from sidrank.layers.token_mixing import token_mixing

__all__ = ["HyFormer", "HyFormerBlock", "HyFormerQueries", "KeepingHyFormer", "QueryBoosting"]


class HyFormer(nn.Module):
    """First queries, then blocks.

    Args:
        queries: Makes the first queries: :class:`HyFormerQueries`.
        blocks: :class:`HyFormerBlock`, the first one first.

    Raises:
        ValueError: If there is no block.

    Example:
        >>> from sidrank.layers import CrossAttention
        >>> from sidrank.layers.rank_mixer import PerTokenFFN
        >>> def block():
        ...     ffn = PerTokenFFN(num_tokens=4, dim=8, hidden=16)  # 2 sequences, 1 query, 2 NS
        ...     decoders = [CrossAttention(dim=8, query_dim=8, key_dim=width) for width in (8, 5)]
        ...     boosting = QueryBoosting(num_tokens=4, dim=8, ffn=ffn)
        ...     return HyFormerBlock(decoders=decoders, boosting=boosting)
        >>> queries = HyFormerQueries(num_tokens=2, dim=8, sequence_dims=[8, 5], hidden=16)
        >>> model = HyFormer(queries=queries, blocks=[block(), block()])
        >>> clicks, searches = torch.randn(3, 20, 8), torch.randn(3, 6, 5)
        >>> masks = [torch.ones(3, 20).bool(), torch.zeros(3, 6).bool()]
        >>> model(torch.randn(3, 10, 2, 8), [clicks, searches], masks).shape  # 10 candidates
        torch.Size([3, 10, 4, 8])
    """

    def __init__(self, *, queries: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks must not be empty, got none")
        self.queries = queries
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Refine queries and NS tokens.

        Args:
            tokens: NS tokens of each candidate, the target among them, shape ``[B, C, M, D]``.
            sequences: Behaviours, each of shape ``[B, L, width]``; widths and lengths may differ.
            masks: Which behaviours are real, each of shape ``[B, L]``, bool.

        Returns:
            Queries, sequence by sequence, then NS tokens, shape ``[B, C, T, D]``.

        Raises:
            ValueError: If the shapes or their number do not fit.
        """
        queries = self.queries(tokens, sequences, masks)
        for block in self.blocks:
            queries, tokens, sequences = block(queries, tokens, sequences, masks)
        return torch.cat([queries.flatten(2, 3), tokens], dim=2)


class KeepingHyFormer(HyFormer):
    r"""A HyFormer that keeps what every round read.

    In the source a round's reading takes the place of its query: the next round looks for what is
    like that reading, and of earlier ones only what it passes on is left. Here readings add up,
    and the first queries are asked again with all of them:

    .. math::  A_l = A_{l-1} + Q'_l, \qquad Q_{l+1} = Q_1 + A_l, \qquad A_0 = 0

    The answer is the last ``A`` and the NS tokens; the first queries are no part of it. With one
    block this is :class:`HyFormer`. No parameter more, and nothing to compute but two sums
    [derived].

    Args:
        queries: Makes the first queries: :class:`HyFormerQueries`.
        blocks: :class:`HyFormerBlock`, the first one first.

    Raises:
        ValueError: If there is no block.

    Example:
        >>> from sidrank.layers import CrossAttention
        >>> attention = CrossAttention(dim=8, query_dim=8, key_dim=8)
        >>> block = HyFormerBlock(decoders=[attention], boosting=nn.Identity())
        >>> queries = HyFormerQueries(num_tokens=1, dim=8, sequence_dims=[8], hidden=4)
        >>> model = KeepingHyFormer(queries=queries, blocks=[block, block])
        >>> mask = torch.ones(3, 20).bool()
        >>> model(torch.randn(3, 10, 1, 8), [torch.randn(3, 20, 8)], [mask]).shape
        torch.Size([3, 10, 2, 8])
    """

    def forward(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Refine queries and NS tokens.

        Args:
            tokens: NS tokens of each candidate, the target among them, shape ``[B, C, M, D]``.
            sequences: Behaviours, each of shape ``[B, L, width]``; widths and lengths may differ.
            masks: Which behaviours are real, each of shape ``[B, L]``, bool.

        Returns:
            What was read, sequence by sequence, then NS tokens, shape ``[B, C, T, D]``.

        Raises:
            ValueError: If the shapes or their number do not fit.
        """
        first = self.queries(tokens, sequences, masks)
        read = torch.zeros_like(first)
        for block in self.blocks:
            answers, tokens, sequences = block(first + read, tokens, sequences, masks)
            read = read + answers
        return torch.cat([read.flatten(2, 3), tokens], dim=2)


class HyFormerBlock(nn.Module):
    r"""One round of decoding and boosting.

    .. math::  \tilde{Q}_s = \mathrm{Attention}_s(Q_s, E_s), \qquad
        [Q'_1; \dots; Q'_S; NS'] = \mathrm{Boost}([\tilde{Q}_1; \dots; \tilde{Q}_S; NS])

    A sequence without behaviours answers a constant (the bias of its attention), so that the NS
    tokens decide alone. With one sequence, one query and ``nn.Identity()`` for boosting this is
    target attention.

    Args:
        decoders: One attention a sequence, called with queries ``[B, Q, D]``, behaviours
            ``[B, L, width]`` and their mask: ``CrossAttention(dim=D, query_dim=D, key_dim=width)``.
        boosting: ``[B, T, D]`` to the same shape: :class:`QueryBoosting` or a ``RankMixerBlock``.
        encoders: One module a sequence, called with behaviours ``[B, L, width]`` and their mask,
            that answers ``[B, L, width']`` for the decoder and the next block to read. None reads
            the behaviours as they are.

    Raises:
        ValueError: If there is no decoder or not one encoder for each.

    Example:
        >>> from sidrank.layers import CrossAttention
        >>> attention = CrossAttention(dim=8, query_dim=8, key_dim=5)
        >>> block = HyFormerBlock(decoders=[attention], boosting=nn.Identity())
        >>> target, x, mask = torch.randn(2, 3, 8), torch.randn(2, 7, 5), torch.ones(2, 7).bool()
        >>> queries, _, _ = block(target[:, :, None, None], torch.zeros(2, 3, 0, 8), [x], [mask])
        >>> torch.equal(queries[:, :, 0, 0], attention(target, x, mask))
        True
    """

    def __init__(
        self,
        *,
        decoders: Sequence[nn.Module],
        boosting: nn.Module,
        encoders: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not decoders:
            raise ValueError("decoders must not be empty, got none")
        if encoders is not None and len(encoders) != len(decoders):
            raise ValueError(
                f"encoders must be one for each of {len(decoders)} decoders, got {len(encoders)}"
            )
        self.num_sequences = len(decoders)
        self.encoders = None if encoders is None else nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.boosting = boosting

    def forward(
        self, queries: Tensor, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Read the sequences, then mix.

        Args:
            queries: Shape ``[B, C, S, N, D]``.
            tokens: NS tokens, shape ``[B, C, M, D]``; ``M`` may be zero.
            sequences: Behaviours, each of shape ``[B, L, width]``.
            masks: Which are real, each of shape ``[B, L]``, bool.

        Returns:
            Queries and NS tokens in their shapes, and the encoded sequences, zero at padding,
            each of shape ``[B, L, width']``.

        Raises:
            ValueError: If the shapes or their number do not fit.
        """
        queries = _check.shape(queries, "queries", [-1, -1, self.num_sequences, -1, -1])
        rows, candidates, each = queries.shape[0], queries.shape[1], queries.shape[3]
        tokens = _check.shape(tokens, "tokens", [rows, candidates, -1, queries.shape[4]])
        sequences = _counted(sequences, "sequences", self.num_sequences)
        masks = _counted(masks, "masks", self.num_sequences)
        decoded: list[Tensor] = []
        encoded: list[Tensor] = []
        for s, decoder in enumerate(self.decoders):
            x, mask = _behaviours(sequences[s], masks[s], s, [rows, -1, -1])
            if self.encoders is not None:
                x = _padding.zeroed(self.encoders[s](x, mask), mask)
            encoded.append(x)
            answer = decoder(queries[:, :, s].flatten(1, 2), x, mask)
            decoded.append(answer.unflatten(1, (candidates, each)))
        read = self.num_sequences * each
        mixed = self.boosting(torch.cat([*decoded, tokens], dim=2).flatten(0, 1))
        mixed = mixed.unflatten(0, (rows, candidates))
        queries = mixed[:, :, :read].unflatten(2, (self.num_sequences, each))
        return queries, mixed[:, :, read:], encoded


class QueryBoosting(nn.Module):
    r"""Let queries and NS tokens meet.

    .. math::  U' = U + \mathrm{FFN}(\mathrm{Mix}(U))

    Args:
        num_tokens: Number ``T`` of tokens, ``S N + M``.
        dim: Width ``D``, a multiple of ``num_tokens``.
        ffn: ``[B, T, D]`` to the same shape: ``PerTokenFFN`` or ``SparseMoE(..., num_tokens=T)``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_tokens``.

    Example:
        >>> boost = QueryBoosting(num_tokens=3, dim=6, ffn=nn.Identity())
        >>> boost(torch.tensor([[[1.0] * 6, [2.0] * 6, [3.0] * 6]]))[0, 0].tolist()
        [2.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    """

    def __init__(self, *, num_tokens: int, dim: int, ffn: nn.Module) -> None:
        super().__init__()
        for name, size in (("num_tokens", num_tokens), ("dim", dim)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_tokens:
            raise ValueError(f"dim must be a multiple of num_tokens {num_tokens}, got {dim}")
        self.num_tokens = num_tokens
        self.dim = dim
        self.ffn = ffn

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix, think, add.

        Args:
            tokens: Queries and NS tokens, shape ``[B, T, D]``.

        Returns:
            Shape ``[B, T, D]``.

        Raises:
            ValueError: If ``tokens`` does not have shape ``[B, T, D]``.
        """
        tokens = _check.shape(tokens, "tokens", [-1, self.num_tokens, self.dim])
        return tokens + self.ffn(token_mixing(tokens, self.num_tokens))


class HyFormerQueries(nn.Module):
    r"""The first queries of each sequence, from all that is known.

    .. math::  Q_{s,n} = \mathrm{FFN}_{s,n}([NS_1; \dots; NS_M; \bar{E}_1; \dots; \bar{E}_S])

    ``\bar{E}_s`` is the mean of the real behaviours, zero where there is none. No two queries share
    a network.

    Args:
        num_tokens: Number ``M`` of NS tokens.
        dim: Width ``D`` of NS tokens and queries.
        sequence_dims: Width of each of the ``S`` sequences.
        hidden: Width inside each network.
        num_queries: Queries ``N`` of each sequence.

    Raises:
        ValueError: If a size is less than one or there is no sequence.

    Example:
        >>> queries = HyFormerQueries(
        ...     num_tokens=3, dim=8, sequence_dims=[8, 5], hidden=16, num_queries=2
        ... )
        >>> sequences, masks = [torch.randn(2, 7, 8), torch.randn(2, 4, 5)], []
        >>> masks = [torch.ones(2, 7).bool(), torch.ones(2, 4).bool()]
        >>> queries(torch.randn(2, 1, 3, 8), sequences, masks).shape
        torch.Size([2, 1, 2, 2, 8])
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        sequence_dims: Sequence[int],
        hidden: int,
        num_queries: int = 1,
    ) -> None:
        super().__init__()
        self.sequence_dims = list(sequence_dims)
        if not self.sequence_dims:
            raise ValueError("sequence_dims must not be empty, got none")
        sizes = {"num_tokens": num_tokens, "dim": dim, "hidden": hidden, "num_queries": num_queries}
        for name, size in (*sizes.items(), ("sequence_dims", min(self.sequence_dims))):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.num_tokens = num_tokens
        self.dim = dim
        self.num_queries = num_queries
        self.num_networks = len(self.sequence_dims) * num_queries
        width = num_tokens * dim + sum(self.sequence_dims)
        self.hidden = nn.Linear(width, self.num_networks * hidden)
        self.out = PerTokenLinear(num_tokens=self.num_networks, in_dim=hidden, out_dim=dim)

    def forward(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Make queries.

        Args:
            tokens: NS tokens, shape ``[B, C, M, D]``.
            sequences: Behaviours, each of shape ``[B, L, width]``.
            masks: Which are real, each of shape ``[B, L]``, bool.

        Returns:
            Queries, shape ``[B, C, S, N, D]``.

        Raises:
            ValueError: If the shapes or their number do not fit.
        """
        tokens = _check.shape(tokens, "tokens", [-1, -1, self.num_tokens, self.dim])
        rows, candidates = tokens.shape[0], tokens.shape[1]
        sequences = _counted(sequences, "sequences", len(self.sequence_dims))
        masks = _counted(masks, "masks", len(self.sequence_dims))
        known = [tokens.flatten(2)]
        for s, width in enumerate(self.sequence_dims):
            x, mask = _behaviours(sequences[s], masks[s], s, [rows, -1, width])
            mean = x.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
            known.append(mean.unsqueeze(1).expand(rows, candidates, width))
        hidden = F.gelu(self.hidden(torch.cat(known, dim=2)))
        hidden = hidden.unflatten(2, (self.num_networks, self.out.in_dim)).flatten(0, 1)
        queries = self.out(hidden).unflatten(0, (rows, candidates))
        return queries.unflatten(2, (len(self.sequence_dims), self.num_queries))


@torch.fx.wrap
def _counted(given: list[Tensor], name: str, number: int) -> list[Tensor]:
    if len(given) != number:
        raise ValueError(f"{name} must be {number}, one for each sequence, got {len(given)}")
    return given


@torch.fx.wrap
def _behaviours(x: Tensor, mask: Tensor, s: int, dims: list[int]) -> tuple[Tensor, Tensor]:
    x = _check.shape(x, f"sequences[{s}]", dims)
    real = _padding.boolean(mask, f"masks[{s}]", [x.shape[0], x.shape[1]])
    return _padding.zeroed(x, real), real
