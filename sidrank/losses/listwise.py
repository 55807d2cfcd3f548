r"""ListNet: the scores of a request, as shares, should be the shares of its labels.

.. math::  -\frac{1}{|Q|} \sum_q \sum_{i \in q} \frac{y_i}{\sum_{j \in q} y_j}
    \log \mathrm{softmax}_q(s)_i

With one click a list it is the likelihood that the click fell where it fell. It bounds the mean
reciprocal rank and, with gains as labels, NDCG (Bruch et al., ICTIR 2019).

Source: Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, ICML 2007,
top-one probabilities. Differs from the source: the target is ``y / sum(y)``, not ``softmax(y)``,
which would give each row without a click more than a third of the share of a clicked one; so a
list without a positive label says nothing [derived].

Shapes: ``R`` rows, ``Q`` requests with a positive label.
"""

import torch
from torch import Tensor

from sidrank.losses import request_lists

__all__ = ["listnet"]


def listnet(logits: Tensor, labels: Tensor, requests: Tensor) -> Tensor:
    """Cross-entropy of the softmax over each request's rows, against its normalised labels.

    Linear in the rows, no padding, no value is read: ``torch.compile(fullgraph=True)`` takes it.
    Adding a number to all scores of a request changes nothing. Computed in float32 (float64 if
    given), also under autocast.

    Args:
        logits: Scores, higher is better, shape ``[R]``, any float.
        labels: Clicks or gains, not negative (not checked), shape ``[R]``.
        requests: Request of each row, any integers in any order, shape ``[R]``.

    Returns:
        Mean over the requests with a positive label, each counting once, shape ``[]``; 0 if
        there is none. At the scale of ``log n`` for lists of ``n`` rows.

    Raises:
        ValueError: If a shape or dtype does not fit.

    Example:
        >>> logits, labels = torch.zeros(5), torch.tensor([1, 0, 0, 1, 0])
        >>> loss = listnet(logits, labels, torch.tensor([3, 3, 8, 3, 3]))
        >>> bool(loss.isclose(torch.tensor(4.0).log()))
        True
    """
    logits, labels, requests = request_lists.columns(logits, labels, requests)
    with torch.autocast(logits.device.type, enabled=False):
        numbers = request_lists.list_numbers(requests)
        total = torch.zeros_like(logits).index_add(0, numbers, labels)
        target = labels / torch.where(total > 0, total, 1)[numbers]
        losses = torch.where(target > 0, target * request_lists.log_shares(logits, numbers), 0)
        return -losses.sum() / (total > 0).sum().clamp(min=1)
