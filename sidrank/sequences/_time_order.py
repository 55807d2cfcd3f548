"""Behaviours in the order of time, and what is read from them by place.

Functions that look at lengths are wrapped: a tracer cannot compare them. They are called through
this module, see ``sidrank._check``.

Shapes: ``B`` rows, ``L`` behaviours, ``K`` places to read.
"""

import torch
from torch import Tensor

__all__ = ["back", "by_time", "taken"]


def by_time(real: Tensor, times: Tensor) -> Tensor:
    """Places of behaviours, oldest first, then those that are not real.

    Args:
        real: Which behaviours are real, shape ``[B, L]``, bool.
        times: When they happened, shape ``[B, L]``; of one instant the one further left is the
            older.

    Returns:
        Places, shape ``[B, L]``, int64.

    Example:
        >>> by_time(torch.tensor([[True, False, True]]), torch.tensor([[5, 1, 4]]))
        tensor([[2, 0, 1]])
    """
    order = torch.argsort(times, dim=1, stable=True)
    # a second sort, and not a last instant for padding, which a real behaviour might have
    kept = torch.argsort((~real).gather(1, order).to(torch.uint8), dim=1, stable=True)
    return order.gather(1, kept)


def back(order: Tensor) -> Tensor:
    """The order that undoes an order.

    Args:
        order: Places, each once, shape ``[B, L]``.

    Returns:
        Shape ``[B, L]``.

    Example:
        >>> back(torch.tensor([[2, 0, 1]]))
        tensor([[1, 2, 0]])
    """
    ranks = torch.ones_like(order).cumsum(dim=1) - 1
    return torch.zeros_like(order).scatter(1, order, ranks)


@torch.fx.wrap
def taken(values: Tensor, places: Tensor) -> Tensor:
    """Read by place; zeros if there is nothing to read.

    Args:
        values: Shape ``[B, L]`` or ``[B, L, D]``.
        places: Shape ``[B, K]``, in ``[0, L)``, or anything if ``L`` is 0.

    Returns:
        Shape ``[B, K]`` or ``[B, K, D]``.

    Example:
        >>> taken(torch.tensor([[5, 6, 7]]), torch.tensor([[2, 0]]))
        tensor([[7, 5]])
    """
    if values.dim() == 2:
        return values.gather(1, places) if values.shape[1] else torch.zeros_like(places)
    if values.shape[1] == 0:
        return values.new_zeros(values.shape[0], places.shape[1], values.shape[2])
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))
