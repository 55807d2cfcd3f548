"""Scaled dot-product attention where a query may see nothing at all.

A softmax over nothing is NaN, or whatever a kernel makes of it. Here such a query reads exactly
zero, and its gradient is zero too.

Source: Vaswani et al., 2017, section 3.2.1, through
``torch.nn.functional.scaled_dot_product_attention``.

Shapes: ``B`` rows, ``H`` heads, ``Q`` queries, ``T`` keys, ``d`` width of a head.
"""

from torch import Tensor
from torch.nn import functional

__all__ = ["attend"]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Read the values of the keys that each query may see.

    Args:
        query: Shape ``[B, H, Q, d]``.
        key: Shape ``[B, H, T, d]``.
        value: Shape ``[B, H, T, d']``; finite also where it is not visible, since zero times
            NaN is NaN.
        visible: Which keys a query may read, bool, broadcastable to ``[B, H, Q, T]``; ``None``
            is all of them.
        dropout: Share of attention weights set to zero; pass 0 outside training.

    Returns:
        Shape ``[B, H, Q, d']``; exactly zero where a query sees nothing.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 1, 2, 4)
        >>> attend(x, x, x, visible=torch.tensor([[True, True], [False, False]]))[0, 0].tolist()
        [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if visible is None:
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    some = visible.any(dim=-1, keepdim=True)
    # a query that sees nothing looks at everything instead, and its answer is thrown away:
    # no kernel ever meets an empty softmax
    context = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible | ~some, dropout_p=dropout
    )
    return context.masked_fill(~some, 0.0)
