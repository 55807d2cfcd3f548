r"""Token mixing: every token becomes a slice of every other one, without a parameter.

Attention between a dozen tokens of different features compares what cannot be compared: a user's
age has no inner product with a query. Here tokens meet by a fixed exchange: the channels of each
token are cut into ``H`` heads, and the ``h``-th new token is head ``h`` of all tokens side by side.
A layer of its own for each token then reads the whole set.

Source: RankMixer, arXiv 2507.15551, multi-head token mixing; HyFormer, arXiv 2601.12681, the
mixing inside query boosting. Differs from the sources: nothing; with ``H = T`` the shape stays.

Shapes: ``B`` rows, ``T`` tokens, ``H`` heads, ``D`` width.
"""

import torch
from torch import Tensor

from sidrank import _check

__all__ = ["token_mixing"]


def token_mixing(x: Tensor, num_heads: int) -> Tensor:
    r"""Exchange heads between tokens: a block transpose.

    .. math::  y_h = [\,x_1^{(h)}; x_2^{(h)}; \dots; x_T^{(h)}\,]

    A permutation of the entries of each row: it keeps their norm, and with ``H = T`` it is its
    own inverse.

    Args:
        x: Tokens, shape ``[B, T, D]``.
        num_heads: Number ``H`` of heads, a divisor of ``D``.

    Returns:
        New tokens, shape ``[B, H, T * D / H]``.

    Raises:
        ValueError: If ``x`` does not have three axes or ``num_heads`` does not divide ``D``.

    Example:
        >>> token_mixing(torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]]), 2).tolist()
        [[[1, 2, 5, 6], [3, 4, 7, 8]]]
    """
    x = _of_whole_heads(_check.shape(x, "x", [-1, -1, -1]), num_heads)
    heads = x.unflatten(2, (num_heads, x.shape[2] // num_heads))
    return heads.transpose(1, 2).flatten(2)


@torch.fx.wrap
def _of_whole_heads(x: Tensor, num_heads: int) -> Tensor:
    if num_heads < 1 or x.shape[2] % num_heads:
        raise ValueError(f"num_heads must divide the width {x.shape[2]}, got {num_heads}")
    return x
