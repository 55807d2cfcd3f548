r"""Next-code prediction of the clicked item, as an auxiliary loss that cannot leak into the score.

A small transformer reads ``[context tokens, start, code 1, ..., code N-1]`` and predicts the codes
of the target one after the other. The mask is semi-causal: context tokens see each other and
nothing else, start and codes see the context and what came before them. So the states of the
context, which a ranker may score by, are functions of the context alone.

Only positives speak: an item that was shown and not clicked says nothing about what comes next.

Source: "Farewell to Item IDs" (TRM), arXiv 2601.22694, the joint objective
``L = L_BCE + 0.1 L_NTP`` with a head of four layers; the weight is the caller's to apply.
Differs from the source: pre-norm blocks, one table and one output layer a level, no positions for
the context (its tokens bring their own) [derived].

Shapes: ``B`` rows, ``T`` context tokens, ``N`` levels, ``H`` heads, ``D`` width, ``S = T + N``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank import _check

__all__ = ["SemiCausalNTPHead"]


class SemiCausalNTPHead(nn.Module):
    r"""The mean of ``-log p(code l | context, codes before l)`` over the codes of positives.

    A row counts if its label is positive and its SID is known. A row with any code that is
    negative or beyond its codebook is skipped as a negative is; with no row left the loss is 0
    and every gradient with it. The loss of a batch is that of its counted rows alone: a caller
    with few positives saves the work by passing only those.

    Args:
        codebook_sizes: Codes of each level.
        dim: Width ``D`` of the context tokens.
        num_layers: Transformer blocks.
        num_heads: Attention heads ``H``; they divide ``dim``.

    Raises:
        ValueError: If a size is below 1 or ``num_heads`` does not divide ``dim``.

    Example:
        >>> head = SemiCausalNTPHead((4, 4), dim=8)
        >>> context, mask = torch.rand(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)
        >>> codes = torch.tensor([[0, 1], [2, 3], [-1, -1]])
        >>> head(context, mask, codes, torch.tensor([0.0, 0.0, 1.0])).item()
        0.0
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        *,
        dim: int,
        num_layers: int = 4,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        sizes = [int(size) for size in codebook_sizes]
        if not sizes or min(sizes) < 1:
            raise ValueError(f"codebook_sizes must be at least 1 each, got {sizes}")
        for name, size in (("dim", dim), ("num_layers", num_layers), ("num_heads", num_heads)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim {dim}, got {num_heads}")
        self.codebook_sizes = sizes
        self.dim = dim
        self.start = nn.Parameter(torch.empty(dim))
        self.codes = nn.ModuleList(nn.Embedding(size, dim) for size in sizes[:-1])
        self.blocks = nn.ModuleList(_Block(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.outputs = nn.ModuleList(nn.Linear(dim, size) for size in sizes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start token anew; the other parts have their own."""
        nn.init.normal_(self.start)

    def forward(self, context: Tensor, mask: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch, in nats a code.

        Args:
            context: Tokens of user, query and behaviours, never of the target: shape
                ``[B, T, D]``.
            mask: Which of them are real, shape ``[B, T]``, bool.
            codes: Codes of the target, shape ``[B, N]``, integers, -1 where unknown.
            labels: Positive where the target was clicked, shape ``[B]``.

        Returns:
            A scalar.

        Raises:
            ValueError: If a shape or dtype does not fit.
        """
        rows = context.shape[0]
        states = self.states(context, mask, codes)[:, context.shape[1] :]
        counted = _counted(codes, _check.shape(labels, "labels", [rows]), self.codebook_sizes)
        total = torch.zeros_like(states[:, 0, 0], dtype=torch.float32)
        for level, output in enumerate(self.outputs):
            target = codes[:, level].long().clamp(0, self.codebook_sizes[level] - 1)
            loss = nn.functional.cross_entropy(output(states[:, level]), target, reduction="none")
            total = total + torch.where(counted, loss, 0.0)
        return total.sum() / (counted.sum().clamp(min=1) * len(self.codebook_sizes))

    def states(self, context: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """Final state of each position; the first ``T`` do not depend on ``codes``.

        Args:
            context: Tokens, shape ``[B, T, D]``.
            mask: Which of them are real, shape ``[B, T]``, bool.
            codes: Codes of the target, shape ``[B, N]``.

        Returns:
            States of context, start and codes ``1 ... N-1``, shape ``[B, S, D]``.

        Raises:
            ValueError: If a shape or dtype does not fit.
        """
        tokens = _check.shape(context, "context", [-1, -1, self.dim])
        rows, length = tokens.shape[0], tokens.shape[1]
        real = _check.shape(mask, "mask", [rows, length])
        target = _check.integer(codes, "codes")
        target = _check.shape(target, "codes", [rows, len(self.codebook_sizes)])
        seen = _semi_causal(real, len(self.codebook_sizes))
        sequence = [self.start.expand(rows, 1, self.dim)]
        for level, table in enumerate(self.codes):
            known = target[:, level : level + 1].clamp(0, self.codebook_sizes[level] - 1)
            sequence.append(table(known))
        # Padding may hold anything, and 0 * NaN is NaN.
        x = torch.cat([torch.where(real.unsqueeze(2), tokens, 0.0), *sequence], dim=1)
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)


class _Block(nn.Module):
    """Attention and an MLP, each on normalised input and added to it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        projected = self.query_key_value(self.attention_norm(x))
        split = projected.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(
            split[0], split[1], split[2], attn_mask=seen.unsqueeze(1)
        )
        x = x + self.mix(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


@torch.fx.wrap
def _semi_causal(mask: Tensor, num_levels: int) -> Tensor:
    """Which position (last axis) each position sees, bool ``[B, S, S]``."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    length = mask.size(1) + num_levels
    place = torch.arange(length, device=mask.device)
    is_context = place < mask.size(1)
    own = torch.ones(mask.size(0), num_levels, dtype=torch.bool, device=mask.device)
    real = torch.cat([mask, own], dim=1)
    # The context stands in front, so that what comes before a context token is context.
    before = place.unsqueeze(0) <= place.unsqueeze(1)
    seen = (is_context.unsqueeze(0) | before).unsqueeze(0) & real.unsqueeze(1)
    # Each sees itself, padding too: a row of the softmax that sees nothing is NaN.
    return seen | (place.unsqueeze(0) == place.unsqueeze(1)).unsqueeze(0)


@torch.fx.wrap
def _counted(codes: Tensor, labels: Tensor, sizes: list[int]) -> Tensor:
    counted = labels > 0
    for level, size in enumerate(sizes):
        counted = counted & (codes[:, level] >= 0) & (codes[:, level] < size)
    return counted
