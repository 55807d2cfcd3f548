"""Choose behaviours of a long history by score, and read them.

Several searches end here: the ``k`` best behaviours, in the order of time. Ties are the rule, not
the exception (the same item seen twice, the same code), so they have an order of their own: the
newer behaviour wins, and of one instant the one further right. Scores are made in float64 and
compared in float32: a product's last bits depend on the shape of the batch, and would break ties
at random.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``T`` chosen ones, ``D`` width.
"""

import torch
from torch import Tensor

from sidrank import _check
from sidrank.layers import _padding

__all__ = ["best_by_time", "earlier", "exclusive_rate", "take"]


def earlier(mask: Tensor, times: Tensor, now: Tensor) -> Tensor:
    """Real behaviours that happened strictly before the request.

    Args:
        mask: Which behaviours are real, shape ``[B, L]``, bool.
        times: When they happened, in any integer unit, shape ``[B, L]``, int64 or int32.
        now: When the request came, same unit, shape ``[B]``.

    Returns:
        Which behaviours the request may know, shape ``[B, L]``, bool.

    Raises:
        ValueError: If the shapes or dtypes do not fit.

    Example:
        >>> earlier(torch.ones(1, 3).bool(), torch.tensor([[1, 2, 3]]), torch.tensor([2]))
        tensor([[ True, False, False]])
    """
    real = _padding.boolean(mask, "mask", [-1, -1])
    times = _check.integer(_check.shape(times, "times", [real.shape[0], real.shape[1]]), "times")
    now = _check.integer(_check.shape(now, "now", [real.shape[0]]), "now")
    return real & (times < now.unsqueeze(1))


@torch.fx.wrap
def best_by_time(scores: Tensor, mask: Tensor, times: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best behaviours for each candidate, oldest first.

    Args:
        scores: Higher is better, shape ``[B, C, L]``; compared in float32.
        mask: Which may be chosen, shape ``[B, C, L]``, bool.
        times: When the behaviours happened, shape ``[B, L]``.
        k: The most to choose.

    Returns:
        Places in the history, shape ``[B, C, T]`` with ``T = min(k, L)``, int64, and which of
        them are real; those that are not come last and hold place 0.

    Example:
        >>> scores, mask = torch.tensor([[[5.0, 7.0, 7.0, 7.0]]]), torch.ones(1, 1, 4).bool()
        >>> best_by_time(scores, mask, torch.tensor([[4, 3, 2, 1]]), 2)[0]
        tensor([[[2, 1]]])
    """
    length = scores.shape[2]
    by_time = torch.argsort(times, dim=1, stable=True)
    places = torch.arange(length, device=times.device).expand_as(by_time)
    age = torch.empty_like(by_time).scatter_(1, by_time, places)  # 0 is the oldest
    # float32 as an integer of the same order, 0.0 and -0.0 as one; then the age breaks ties
    bits = (scores.detach().float() + 0.0).contiguous().view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (bits.long() << 32) | age.unsqueeze(1)
    nothing = torch.iinfo(torch.int64).min
    best = keys.masked_fill(~mask, nothing).topk(min(k, length), dim=2, sorted=False).values
    real = best != nothing
    chosen = torch.where(real, best & 0xFFFFFFFF, length).sort(dim=2).values
    real = chosen < length
    if length == 0:
        return chosen, real
    places = by_time.unsqueeze(1).expand(-1, scores.shape[1], -1)
    index = places.gather(2, chosen.clamp(max=length - 1))
    return index.masked_fill(~real, 0), real


def take(values: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Read chosen behaviours.

    Args:
        values: One vector a behaviour, shape ``[B, L, D]``.
        index: Places in the history, shape ``[B, C, T]``, int64.
        mask: Which of them are real, shape ``[B, C, T]``, bool.

    Returns:
        Vectors, zero where nothing was chosen, shape ``[B, C, T, D]``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> values = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> take(values, torch.tensor([[[2, 0]]]), torch.tensor([[[True, False]]])).tolist()
        [[[[3.0], [0.0]]]]
    """
    values = _check.shape(values, "values", [-1, -1, -1])
    index = _check.shape(index, "index", [values.shape[0], -1, -1])
    real = _padding.boolean(mask, "mask", [index.shape[0], index.shape[1], index.shape[2]])
    rows = index.flatten(1).unsqueeze(2).expand(-1, -1, values.shape[2])
    found = values.gather(1, rows)
    # named sizes, not -1: a batch may have no rows
    shape = (index.shape[0], index.shape[1], index.shape[2], values.shape[2])
    return _padding.zeroed(found.reshape(shape), real)


def exclusive_rate(index: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
    """Share of what one search found that another did not.

    Two searches worth running together find different things; QARM V2 (arXiv 2602.08559) reports
    this rate of a search by dense vectors against one by ids.

    Args:
        index: Places that the one found, shape ``[B, C, T]``.
        mask: Which of them are real, shape ``[B, C, T]``, bool.
        other: Places that the other found, shape ``[B, C, T']``.
        other_mask: Which of them are real, shape ``[B, C, T']``, bool.

    Returns:
        Share over all candidates of all rows, shape ``[]``; NaN if the one found nothing.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> one, other = torch.tensor([[[0, 3, 5, 6]]]), torch.tensor([[[3, 4]]])
        >>> exclusive_rate(one, torch.ones(1, 1, 4).bool(), other, torch.ones(1, 1, 2).bool())
        tensor(0.7500)
    """
    index = _check.shape(index, "index", [-1, -1, -1])
    real = _padding.boolean(mask, "mask", list(index.shape))
    other = _check.shape(other, "other", [index.shape[0], index.shape[1], -1])
    others = _padding.boolean(other_mask, "other_mask", list(other.shape))
    same = (index.unsqueeze(3) == other.unsqueeze(2)) & others.unsqueeze(2)
    return (real & ~same.any(dim=3)).sum() / real.sum()
