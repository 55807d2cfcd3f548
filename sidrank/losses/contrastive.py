r"""Contrastive losses: what belongs together is closer than the rest of the batch.

``info_nce`` has one positive an anchor, such as the item that was bought next; the positives of
the other rows are its negatives. ``multi_positive_info_nce`` has any number, such as the items
of the same category. Both compare cosines, divided by a temperature.

A negative that is no negative teaches the wrong thing, and popular items meet themselves in
every batch. So candidates with the id of the positive are left out, and popularity can be
subtracted: an item that is a candidate with probability ``q`` is a negative that often.

Computed in float32 (float64 if given), also under autocast: bfloat16 has three digits, and a
small temperature multiplies what they lack. A vector of zeros has cosine 0 and no gradient.

Source: van den Oord et al., arXiv 1807.03748 (InfoNCE); Yi et al., RecSys 2019 (``- log q`` on
every candidate); Khosla et al., arXiv 2004.11362, equation 2 (many positives, the mean outside
of the logarithm). Differs from the sources: excluded candidates [derived].

Shapes: ``B`` rows, ``D`` width.
"""

from math import isfinite

import torch
from torch import Tensor

from sidrank import _check
from sidrank.layers.cosine import unit

__all__ = ["info_nce", "multi_positive_info_nce", "two_way_info_nce"]


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    *,
    temperature: float = 0.1,
    ids: Tensor | None = None,
    anchor_ids: Tensor | None = None,
    requests: Tensor | None = None,
    log_q: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Tell the positive of each anchor from the positives of the other rows.

    .. math::  -\frac{1}{B} \sum_i \log \frac{\exp s_{ii}}{\sum_{j \in A_i} \exp s_{ij}}, \qquad
        s_{ij} = \cos(a_i, p_j) / \tau - \log q_j

    An anchor with no candidate beside its positive has loss 0 and no gradient.

    Args:
        anchors: Vectors, shape ``[B, D]``.
        positives: Vectors, shape ``[B, D]``; row ``i`` belongs to anchor ``i``.
        temperature: What cosines are divided by.
        ids: Items of the positives, shape ``[B]``: another row with the same item as the
            positive is no negative.
        anchor_ids: Items of the anchors, shape ``[B]``, in the same numbering; needs ``ids``.
            Neither the anchor itself nor another positive of it in the batch is a negative.
        requests: Request of each row, shape ``[B]``, in a numbering of its own: what else was
            liked in the same list is no negative.
        log_q: Logarithm of the probability that the item of a row is a candidate,
            shape ``[B]``, subtracted from the logits, also from that of the positive.
        valid: Rows that count, shape ``[B]``, bool; the others are neither anchors nor
            candidates, whatever numbers they hold.

    Returns:
        Mean over the valid rows, shape ``[]``; 0 if there are none.

    Raises:
        ValueError: If a shape does not fit, the temperature is not positive, ids or requests
            are not integers, or anchor ids come without ids.

    Example:
        >>> x = torch.eye(2)
        >>> round(float(info_nce(x, x, temperature=1.0)), 4)  # log(1 + exp(-1))
        0.3133
        >>> float(info_nce(x, x, ids=torch.tensor([7, 7])))
        0.0
    """
    _positive(temperature)
    rows, width = _matrix(anchors, "anchors").shape
    targets = _check.shape(positives, "positives", [rows, width])
    own = torch.eye(rows, dtype=torch.bool, device=anchors.device)
    excluded = torch.zeros_like(own)
    if ids is not None:
        item = _check.integer(_check.shape(ids, "ids", [rows]), "ids")
        excluded = item.unsqueeze(0) == item.unsqueeze(1)
        if anchor_ids is not None:
            anchor = _check.shape(anchor_ids, "anchor_ids", [rows])
            anchor = _check.integer(anchor, "anchor_ids")
            excluded = excluded | (anchor.unsqueeze(0) == anchor.unsqueeze(1))
            excluded = excluded | (item.unsqueeze(0) == anchor.unsqueeze(1))
    elif anchor_ids is not None:
        raise ValueError("anchor_ids must come with ids, got them alone")
    if requests is not None:
        request = _check.integer(_check.shape(requests, "requests", [rows]), "requests")
        excluded = excluded | (request.unsqueeze(0) == request.unsqueeze(1))
    if valid is None:
        counted = own.any(dim=1)
    else:
        counted = _boolean(_check.shape(valid, "valid", [rows]), "valid")
        # where, not a product: 0 times nan is nan
        anchors = torch.where(counted.unsqueeze(1), anchors, 0)
        targets = torch.where(counted.unsqueeze(1), targets, 0)
        excluded = excluded | ~counted
    logits = _cosines(anchors, targets) / temperature
    if log_q is not None:
        logits = logits - torch.where(counted, _check.shape(log_q, "log_q", [rows]), 0)
    mass = logits.masked_fill(excluded & ~own, -torch.inf).logsumexp(dim=1)
    return _mean(mass - logits.diagonal(), counted)


def two_way_info_nce(
    left: Tensor,
    right: Tensor,
    *,
    temperature: float = 0.1,
    pairs: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Take the mean of :func:`info_nce` from left to right and from right to left.

    Args:
        left: Vectors, shape ``[B, D]``.
        right: Vectors, shape ``[B, D]``; row ``i`` belongs to row ``i`` of ``left``.
        temperature: What cosines are divided by.
        pairs: Items of both sides in one numbering, shape ``[B, 2]``: neither the same item nor
            another partner of it in the batch is a negative.
        valid: Rows that count, shape ``[B]``, bool.

    Returns:
        Mean over both directions and the valid rows, shape ``[]``.

    Raises:
        ValueError: If a shape does not fit, the temperature is not positive, or pairs are not
            integers.
    """
    one = other = None
    if pairs is not None:
        one, other = _check.shape(pairs, "pairs", [left.shape[0], 2]).unbind(dim=1)
    there = info_nce(left, right, temperature=temperature, ids=other, anchor_ids=one, valid=valid)
    back = info_nce(right, left, temperature=temperature, ids=one, anchor_ids=other, valid=valid)
    return (there + back) / 2


def multi_positive_info_nce(x: Tensor, positives: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""Tell the positives of each row from all other rows.

    .. math::  -\frac{1}{|I|} \sum_{i \in I} \frac{1}{|P_i|} \sum_{p \in P_i}
        \log \frac{\exp s_{ip}}{\sum_{a \neq i} \exp s_{ia}}, \qquad
        s_{ia} = \cos(x_i, x_a) / \tau

    ``I`` are the rows that have a positive; the others are candidates only.

    Args:
        x: Vectors, shape ``[B, D]``.
        positives: Whether row ``j`` is a positive of row ``i``, shape ``[B, B]``, bool; the
            diagonal does not matter.
        temperature: What cosines are divided by.

    Returns:
        Mean over the rows that have a positive, shape ``[]``; 0 if there are none.

    Raises:
        ValueError: If a shape does not fit, ``positives`` are not bool, or the temperature is
            not positive.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
        >>> round(float(multi_positive_info_nce(x, same, temperature=1.0)), 4)
        0.3133
    """
    _positive(temperature)
    rows = _matrix(x, "x").shape[0]
    own = torch.eye(rows, dtype=torch.bool, device=x.device)
    wanted = _boolean(_check.shape(positives, "positives", [rows, rows]), "positives") & ~own
    logits = _cosines(x, x) / temperature
    # the lowest number, not -inf: a row alone in its batch would be nan
    lowest = torch.finfo(logits.dtype).min
    gaps = logits.masked_fill(own, lowest).logsumexp(dim=1, keepdim=True) - logits
    count = wanted.sum(dim=1)
    return _mean(torch.where(wanted, gaps, 0).sum(dim=1) / count.clamp(min=1), count > 0)


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return unit(left.to(dtype)) @ unit(right.to(dtype)).T


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


def _matrix(x: Tensor, name: str) -> Tensor:
    return _check.shape(x, name, [-1, -1])


def _boolean(mask: Tensor, name: str) -> Tensor:
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {mask.dtype}")
    return mask


def _positive(temperature: float) -> None:
    if not (temperature > 0 and isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
