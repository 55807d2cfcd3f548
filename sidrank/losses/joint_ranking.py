r"""Joint ranking and calibration (JRC): logits that are probabilities and rank within a request.

A model gives two logits a row, ``f_0`` of no click and ``f_1`` of a click. The same two numbers
are read twice: across the two classes, which calibrates, and across the rows of the request,
which ranks.

.. math::
    -\frac{\alpha}{R} \sum_i \log \frac{e^{f_{y_i}(x_i)}}{e^{f_0(x_i)} + e^{f_1(x_i)}}
    -\frac{1 - \alpha}{R} \sum_i \log
        \frac{e^{f_{y_i}(x_i)}}{\sum_{j \in q(i)} e^{f_{y_i}(x_j)}}

The served probability is ``sigmoid(f_1 - f_0)``. Two logits are needed: the first term fixes the
difference, the second wants ``f_1`` to be the logarithm of the click probability up to a number
of the request (and ``f_0`` that of its opposite). Both hold at ``f_1 = log p, f_0 = log(1 - p)``,
which a ranker with one logit ``s`` has at hand: ``f_1 = logsigmoid(s), f_0 = logsigmoid(-s)``.
Then ``s = logit(p)`` is a stationary point of all of it in expectation; with ``f = (0, s)`` it
would not be, since the softmax of odds is not that of probabilities.

Source: Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid
Model, KDD 2023, arXiv 2208.06164, algorithm 1. Differs from the source: sums over a request's
rows in place of a mask of all pairs; one logit a row as above [derived]; labels between 0 and 1
weigh both classes [derived].

Shapes: ``R`` rows.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sidrank import _check
from sidrank.losses import request_lists

__all__ = ["jrc"]


def jrc(logits: Tensor, labels: Tensor, requests: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Calibration and ranking of the same logits.

    Linear in the rows, no padding, no value is read: ``torch.compile(fullgraph=True)`` takes it.
    Computed in float32 (float64 if given), also under autocast.

    Args:
        logits: Of no click and of a click, shape ``[R, 2]``, any float; or one logit a row,
            shape ``[R]``, which stays the logit of the click probability.
        labels: 0 and 1, or chances in between (not checked), shape ``[R]``.
        requests: Request of each row, any integers in any order, shape ``[R]``.
        alpha: Share of the calibration term. At 1 the loss is cross-entropy.

    Returns:
        Mean over the rows, shape ``[]``; 0 if there are none. The ranking term is at the scale
        of ``log n`` for lists of ``n`` rows, long lists count by their rows.

    Raises:
        ValueError: If a shape or dtype does not fit, or alpha is not in [0, 1].

    Example:
        >>> logits, labels = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0])
        >>> loss = jrc(logits, labels, torch.tensor([3, 3, 8]), alpha=1.0)
        >>> bool(loss.isclose((1 + torch.tensor([-2.0, -1.0, 0.5]).exp()).log().mean()))
        True
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if logits.dim() == 2:
        pair = request_lists.widened(_check.shape(logits, "logits", [-1, 2]))
    else:
        one = request_lists.widened(_check.shape(logits, "logits", [-1]))
        pair = torch.stack([functional.logsigmoid(-one), functional.logsigmoid(one)], dim=1)
    no_click, click = pair.unbind(dim=1)
    _, labels, requests = request_lists.columns(click, labels, requests)
    with torch.autocast(pair.device.type, enabled=False):
        numbers = request_lists.list_numbers(requests)
        by_class = pair.log_softmax(dim=1)
        calibration = labels * by_class[:, 1] + (1 - labels) * by_class[:, 0]
        clicked = request_lists.log_shares(click, numbers)
        not_clicked = request_lists.log_shares(no_click, numbers)
        ranking = labels * clicked + (1 - labels) * not_clicked
        total = (alpha * calibration + (1 - alpha) * ranking).sum()
        return -total / max(pair.shape[0], 1)
