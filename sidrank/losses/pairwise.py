r"""Pairwise logistic loss (RankNet): of two rows of a request, the better one scores higher.

.. math::  \frac{1}{|Q|} \sum_q \frac{1}{|\{y_i > y_j\}|} \sum_{i, j \in q:\; y_i > y_j}
    \log(1 + e^{s_j - s_i})

The share of pairs in the right order is the AUC of the request, so this smooths GAUC.

Source: Burges et al., Learning to Rank Using Gradient Descent, ICML 2005. Differs from the source:
the mean over a list's pairs and then over lists, so a long list is not worth the square of its
length [derived]; the gradient is found in the forward pass, block by block.

Shapes: ``R`` rows, ``Q`` requests with a pair; in private parts ``[q, n]`` a block of lists.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sidrank.losses import request_lists
from sidrank.losses.request_lists import Block

__all__ = ["pairwise_logistic"]


def pairwise_logistic(logits: Tensor, labels: Tensor, requests: Tensor) -> Tensor:
    """Mean logistic loss of the pairs of rows of a request whose labels differ.

    Costs ``n * n`` in time for a list of ``n`` rows; memory is that of the rows and of one
    block of pairs. Computed in float32 (float64 if given), also under autocast. Lengths and
    labels are read on the host; to ``torch.compile`` it is one operator. It has no second
    derivative.

    Args:
        logits: Scores, higher is better, shape ``[R]``, any float.
        labels: Whatever is better if larger, finite: clicks, grades, seconds; shape ``[R]``.
        requests: Request of each row, any integers in any order, shape ``[R]``.

    Returns:
        Mean over the requests with two different labels, each counting once, shape ``[]``; 0 if
        there is none. ``log 2`` where all scores are equal.

    Raises:
        ValueError: If a shape or dtype does not fit, or a label is NaN or infinite.

    Example:
        >>> logits, labels = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([1, 0, 0])
        >>> round(float(pairwise_logistic(logits, labels, torch.tensor([3, 3, 8]))), 4)
        0.6931
    """
    logits, labels, requests = request_lists.columns(logits, labels, requests)
    return _found(logits, labels, requests, torch.is_grad_enabled() and logits.requires_grad)[0]


@torch.library.custom_op("sidrank::pairwise_logistic", mutates_args=())
def _found(logits: Tensor, labels: Tensor, requests: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    if not bool(labels.isfinite().all()):
        row = int((~labels.isfinite()).int().argmax())
        raise ValueError(f"labels must be finite, got {labels[row].item()} in row {row}")
    smallest, largest = request_lists.extremes(labels, requests)
    kept = (largest > smallest).nonzero().squeeze(1)
    value, slopes = request_lists.mean_over_lists(
        logits[kept], labels[kept], requests[kept], wanted, _of_block
    )
    return value, torch.zeros_like(logits).index_copy_(0, kept, slopes)


request_lists.with_known_gradient(_found)


def _of_block(s: Tensor, y: Tensor, block: Block, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Mean loss of the pairs of each list, which has one, and the gradient."""
    value, pairs = s.new_zeros(len(s)), s.new_zeros(len(s))
    slopes = s.new_zeros(s.shape) if wanted else None
    step = request_lists.rows_at_once(s)
    for begin in range(0, s.shape[1], step):  # of better rows; one step unless a list is huge
        own = slice(begin, begin + step)
        better = y[:, own].unsqueeze(2) > y.unsqueeze(1)
        better &= block.real[:, own].unsqueeze(2) & block.real.unsqueeze(1)
        behind = s.unsqueeze(1) - s[:, own].unsqueeze(2)
        pairs += better.sum(dim=(1, 2))
        value += (softplus(behind) * better).sum(dim=(1, 2))
        if slopes is not None:
            slope = behind.sigmoid_().mul_(better)
            slopes += slope.sum(dim=1)
            slopes[:, own] -= slope.sum(dim=2)
    return value / pairs, None if slopes is None else slopes / pairs.unsqueeze(1)
