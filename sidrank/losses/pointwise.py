r"""Binary cross-entropy of logits, with a weight for each row.

.. math::  \frac{\sum_i w_i\, [\mathrm{softplus}(s_i) - y_i s_i]}{\sum_i w_i}

Divided by the sum of the weights, not by the rows: a row of weight 2 is a row that is there
twice, and weights in dollars and in cents train alike.

Source: none; the definition. Differs from ``torch.nn.functional.binary_cross_entropy_with_logits``:
the divisor; NaN and negative weights are refused; float32 at least.

Shapes: ``R`` rows.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sidrank import _check
from sidrank.losses import request_lists

__all__ = ["binary_cross_entropy"]


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Weighted mean of the cross-entropy of the rows.

    Computed in float32 (float64 if given), also under autocast. The values of the weights are
    read, which makes a GPU wait once; compiled code does not look.

    Args:
        logits: Shape ``[R]``, any float.
        labels: 0 and 1, or chances in between, shape ``[R]``.
        weights: Not negative, shape ``[R]``; None is 1 each. A row of weight 0 has no gradient.

    Returns:
        Weighted mean, shape ``[]``; 0 if no row has a weight.

    Raises:
        ValueError: If a shape or dtype does not fit, or a weight is NaN, infinite or negative.

    Example:
        >>> logits, labels = torch.tensor([0.0, 2.0]), torch.tensor([1, 0])
        >>> float(binary_cross_entropy(logits, labels, weights=torch.tensor([3.0, 0.0])))
        0.6931471824645996
    """
    logits = request_lists.widened(_check.shape(logits, "logits", [-1]))
    rows = logits.shape[0]
    labels = _check.shape(labels, "labels", [rows]).detach().to(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        if weights is None:
            losses = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            return losses / max(rows, 1)
        weights = _sound(_check.shape(weights, "weights", [rows]).detach().to(logits.dtype))
        counted = weights > 0
        # before the loss, whose gradient would multiply zero by what is in the other rows
        logits, labels = torch.where(counted, logits, 0), torch.where(counted, labels, 0)
        losses = binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        return losses / torch.where(counted.any(), weights.sum(), 1)


def _sound(weights: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        good = (weights >= 0) & weights.isfinite()
        if not bool(good.all()):
            row = int((~good).int().argmax())
            rule = "weights must be finite and not negative"
            raise ValueError(f"{rule}, got {weights[row].item()} in row {row}")
    return weights
