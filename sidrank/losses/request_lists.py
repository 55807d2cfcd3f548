r"""The rows of one request are one list, wherever they stand in the batch.

Listwise losses compare rows within a request and never across. A batch is jagged: requests have
one row or a thousand, in any order. Two ways through it, both without one big pad:

* sums over the rows of a request (``list_numbers`` and ``log_shares``): every size is a number
  of rows, so they compile and stall nothing;
* lists side by side (``blocks``), where rows are compared two by two: lists of similar length
  share a block, and the blocks follow one another. Lengths are read to the host. A value that
  is found together with its gradient (``mean_over_lists``) needs none of the block afterwards.

Source: none; plain sorting.

Shapes: ``R`` rows, ``Q`` requests, ``[q, n]`` a block of ``q`` lists, the longest of ``n`` rows.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sidrank import _check

__all__ = [
    "Block",
    "blocks",
    "columns",
    "extremes",
    "list_numbers",
    "log_shares",
    "mean_over_lists",
    "request_ids",
    "rows_at_once",
    "widened",
    "with_known_gradient",
]

_CPU_CELLS = 1 << 18  # a block of so many pairs stays in the cache
_DEVICE_CELLS = 1 << 24


def request_ids(offsets: Tensor) -> Tensor:
    """Number the rows of lists that lie one after another.

    Args:
        offsets: First row of each list, then the number of rows, shape ``[Q + 1]``, int64 or
            int32. Read on the host.

    Returns:
        List of each row, shape ``[R]``, int64: what the losses take as ``requests``.

    Raises:
        ValueError: If the offsets are not integers, do not start at 0 or go down.

    Example:
        >>> request_ids(torch.tensor([0, 2, 2, 5]))
        tensor([0, 0, 2, 2, 2])
    """
    offsets = _check.integer(_check.shape(offsets, "offsets", [-1]), "offsets")
    lengths = offsets.diff()
    if len(offsets) == 0 or int(offsets[0]) != 0 or bool((lengths < 0).any()):
        raise ValueError(f"offsets must start at 0 and never go down, got {offsets.tolist()}")
    numbers = torch.arange(len(lengths), device=offsets.device)
    return torch.repeat_interleave(numbers, lengths.long())


def columns(logits: Tensor, labels: Tensor, requests: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check the columns of a listwise loss.

    Args:
        logits: Shape ``[R]``, any float.
        labels: Shape ``[R]``, bool, integer or float.
        requests: Shape ``[R]``, int64 or int32.

    Returns:
        Logits and labels, float32 or float64, without a gradient for the labels, and requests.

    Raises:
        ValueError: If a shape or dtype does not fit.
    """
    logits = _check.shape(logits, "logits", [-1])
    labels = _check.shape(labels, "labels", [logits.shape[0]])
    requests = _check.integer(_check.shape(requests, "requests", [logits.shape[0]]), "requests")
    logits = widened(logits)
    return logits, labels.detach().to(logits.dtype), requests


def widened(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64 as they are: halves have three digits."""
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def list_numbers(requests: Tensor) -> Tensor:
    """Number the requests from 0 in ascending order; no size depends on how many there are.

    Args:
        requests: Any integers, shape ``[R]``.

    Returns:
        Number of the request of each row, shape ``[R]``, int64.
    """
    ordered, order = requests.sort()
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)


def log_shares(x: Tensor, numbers: Tensor) -> Tensor:
    """Logarithm of the softmax over the rows of each list.

    Args:
        x: Shape ``[R]``.
        numbers: What :func:`list_numbers` gave, shape ``[R]``.

    Returns:
        Shape ``[R]``.
    """
    largest = x.new_full(x.shape, -torch.inf).scatter_reduce(0, numbers, x.detach(), "amax")
    x = x - largest[numbers]
    return x - torch.zeros_like(x).index_add(0, numbers, x.exp())[numbers].log()


def extremes(x: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest number of each row's list.

    Args:
        x: Shape ``[R]``.
        requests: Shape ``[R]``.

    Returns:
        Two of shape ``[R]``.
    """
    numbers = list_numbers(requests)
    smallest = torch.zeros_like(x).scatter_reduce(0, numbers, x, "amin", include_self=False)
    largest = torch.zeros_like(x).scatter_reduce(0, numbers, x, "amax", include_self=False)
    return smallest[numbers], largest[numbers]


class Block(NamedTuple):
    """Lists side by side."""

    rows: Tensor
    """Row of the batch at each place, shape ``[q, n]``; any row where there is none."""
    real: Tensor
    """Where there is one, shape ``[q, n]``, bool."""
    lengths: Tensor
    """Rows of each list, shape ``[q]``."""


def blocks(requests: Tensor) -> Iterator[Block]:
    """Lay the lists side by side, the longest first.

    Args:
        requests: Any integers, shape ``[R]``.

    Yields:
        Blocks with every list in one of them. The shortest list of a block has at least half
        the rows of the longest, and a block of more than one list has ``q * n * n`` within a
        bound.
    """
    if len(requests) == 0:
        return
    ordered, order = requests.sort()
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    starts = first.nonzero().squeeze(1)
    lengths = torch.cat([starts, starts.new_tensor([len(ordered)])]).diff()
    lengths, by_length = lengths.sort(descending=True)
    starts, negative = starts[by_length], (-lengths).tolist()
    cells = _cells(requests)
    begin = 0
    while begin < len(negative):
        longest = -negative[begin]
        similar = bisect_right(negative, -((longest + 1) // 2))
        end = min(similar, begin + max(1, cells // longest**2))
        place = torch.arange(longest, device=order.device)
        length = lengths[begin:end]
        rows = starts[begin:end].unsqueeze(1) + place
        real = place < length.unsqueeze(1)
        yield Block(order[rows.clamp(max=len(order) - 1)], real, length)
        begin = end


def rows_at_once(s: Tensor) -> int:
    """Rows that may be compared with all rows of their list at a time.

    Args:
        s: A column of a block, shape ``[q, n]``.

    Returns:
        ``n``, unless one list is so long that its pairs do not fit a block.
    """
    return max(1, min(s.shape[1], _cells(s) // s.numel()))


def mean_over_lists(
    logits: Tensor,
    labels: Tensor,
    requests: Tensor,
    wanted: bool,
    found: Callable[[Tensor, Tensor, Block, bool], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor]:
    """Mean over lists of a value, and its gradient, block by block.

    Args:
        logits: Shape ``[R]``, float32 or float64; rows of lists that count.
        labels: Shape ``[R]``, same dtype.
        requests: Shape ``[R]``.
        wanted: Whether the gradient is.
        found: Makes of the logits and labels of a block, shape ``[q, n]``, zeros where no row
            is, and of ``wanted``: the values, shape ``[q]``, and the gradients, shape
            ``[q, n]``, or None.

    Returns:
        Mean of the values, shape ``[]``, 0 if there is no row; its gradient, shape ``[R]``.
    """
    total, count = logits.new_zeros(()), 0
    gradient = torch.zeros_like(logits)
    with torch.autocast(logits.device.type, enabled=False):
        for block in blocks(requests):
            s = torch.where(block.real, logits[block.rows], 0)
            y = torch.where(block.real, labels[block.rows], 0)
            values, slopes = found(s, y, block, wanted)
            total += values.sum()
            count += len(values)
            if slopes is not None:
                gradient[block.rows[block.real]] = slopes[block.real]
    return total / max(count, 1), gradient / max(count, 1)


def with_known_gradient(op: torch.library.CustomOpDef) -> None:
    """Make the second output of an operator the gradient of the first by its first argument.

    To ``torch.compile`` the operator is opaque: no size in it that depends on data is seen.

    Args:
        op: Takes logits, shape ``[R]``, returns a number and its gradient, shape ``[R]``.
    """

    def fake(*given: Any) -> tuple[Tensor, Tensor]:
        return given[0].new_empty(()), torch.empty_like(given[0])

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.count = len(inputs)
        ctx.save_for_backward(output[1])

    def backward(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None) -> Any:
        if by_gradient is not None:
            raise NotImplementedError("the gradient of this loss has no gradient of its own")
        (gradient,) = ctx.saved_tensors
        slopes = None if by_value is None else by_value * gradient
        return (slopes, *[None] * (ctx.count - 1))

    op.register_fake(fake)
    op.register_autograd(backward, setup_context=setup)


def _cells(x: Tensor) -> int:
    return _CPU_CELLS if x.device.type == "cpu" else _DEVICE_CELLS
