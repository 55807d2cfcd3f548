r"""Merge the embeddings of the codes of one item into one token.

A sequence model that reads every code as a token pays for ``N`` tokens an item. One linear map of
the concatenated codes keeps what matters of them in one: ``h = W [e_1; ...; e_N]``. Unlike a sum
it can tell code 5 of level 1 from code 5 of level 2 where levels share a table.

Source: GenRec, arXiv 2604.14878, the asymmetric linear token merger on the prompt side.
Differs from the source: at birth ``W = [I ... I] / N``, the mean, so that a host that pooled the
codes keeps its tokens [derived].

Shapes: ``B`` rows, ``L`` behaviours, ``N`` levels, ``D`` width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding

__all__ = ["TokenMerger"]


class TokenMerger(nn.Module):
    r"""One token an item: a linear map of its concatenated codes.

    .. math::  h = W\, [e_1; \dots; e_N], \qquad W_{birth} = \tfrac{1}{N} [I \cdots I]

    Args:
        dim: Width ``D`` of a code's embedding and of the token.
        num_levels: Codes of an item, ``N``.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> merge = TokenMerger(dim=4, num_levels=2)
        >>> codes = torch.arange(8.0).view(1, 1, 2, 4)
        >>> merge(codes).tolist()  # the mean at birth
        [[[2.0, 3.0, 4.0, 5.0]]]
    """

    def __init__(self, *, dim: int, num_levels: int) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("num_levels", num_levels)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.num_levels = num_levels
        self.linear = _Mean(num_levels * dim, dim, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Merge the codes of each item.

        Args:
            embeddings: Embeddings of the codes, coarse to fine, shape ``[B, L, N, D]``.

        Returns:
            Tokens, shape ``[B, L, D]``.

        Raises:
            ValueError: If the input does not have shape ``[B, L, N, D]``.
        """
        e = _check.shape(embeddings, "embeddings", [-1, -1, self.num_levels, self.dim])
        return self.linear(e.flatten(2))

    def merge_stream(self, stream: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shorten a stream of code tokens in which a separator follows the codes of each item.

        Of ``N + 1`` tokens an item, two remain: the merged codes and the separator. With three
        levels the stream is half as long.

        Args:
            stream: Tokens, shape ``[B, L * (N + 1), D]``.
            mask: Which of them are real, shape ``[B, L * (N + 1)]``, bool.

        Returns:
            Tokens, shape ``[B, L * 2, D]``, and which are real, shape ``[B, L * 2]``; a merged
            token is if each of its codes is.

        Raises:
            ValueError: If the shapes do not fit or an item's tokens are incomplete.
        """
        per_item = self.num_levels + 1
        tokens = _whole_items(_check.shape(stream, "stream", [-1, -1, self.dim]), per_item)
        real = _padding.boolean(mask, "mask", [tokens.shape[0], tokens.shape[1]])
        items = tokens.unflatten(1, (tokens.shape[1] // per_item, per_item))
        real = real.unflatten(1, (tokens.shape[1] // per_item, per_item))
        merged = self.forward(items[:, :, : self.num_levels])
        both = torch.stack([merged, items[:, :, self.num_levels]], dim=2)
        codes_real = real[:, :, : self.num_levels].all(dim=2)
        both_real = torch.stack([codes_real, real[:, :, self.num_levels]], dim=2)
        return both.flatten(1, 2), both_real.flatten(1, 2)


class _Mean(nn.Linear):
    """A linear layer that is born as a mean; whoever resets it, in whatever order."""

    def reset_parameters(self) -> None:
        parts = self.in_features // self.out_features
        own = torch.eye(self.out_features, device=self.weight.device) / parts
        with torch.no_grad():
            self.weight.copy_(own.repeat(1, parts))


@torch.fx.wrap
def _whole_items(stream: Tensor, per_item: int) -> Tensor:
    if stream.shape[1] % per_item:
        raise ValueError(f"stream must have a multiple of {per_item} tokens, got {stream.shape[1]}")
    return stream
