r"""Keep or drop, decided by chance while training and by sign afterwards.

Whether a behaviour is worth reading is a yes or a no, and a yes or a no has no gradient. The
concrete distribution has one: noise turns a logit into a random choice, a temperature makes the
choice soft. After training there is neither: what has a positive logit is kept.

Source: Maddison et al., 2017, arXiv 1611.00712 (binary concrete), and Jang et al., 2017,
arXiv 1611.01144 (straight-through); DSAIN, arXiv 2604.12298, drops behaviours so. ``[derived]``:
the keep weight, the choice in evaluation, its straight-through gradient, and the budget.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours.
"""

from math import isfinite

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding

__all__ = ["GumbelKeep", "keep_share"]


class GumbelKeep(nn.Module):
    r"""Logits in, keep weights out.

    .. math::  m = \sigma\big((a + G_1 - G_0) / \tau\big) \text{ in training}, \qquad
        m = 1[a > 0] \text{ in evaluation}

    with Gumbel noise :math:`G`, of torch's generator. A draw is above one half with probability
    :math:`\sigma(a)`, whatever the temperature; its mean is something else. The smaller
    :math:`\tau`, the closer each draw is to 0 or 1, and the larger the variance of the gradient.
    Evaluation draws nothing; its gradient, for who wants one, is that of
    :math:`\sigma(a / \tau)`.

    Args:
        temperature: ``tau``.
        hard: Whether training too gives exact zeros and ones, with the gradient of the soft
            weight (straight-through).

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> keep = GumbelKeep().eval()
        >>> keep(torch.tensor([[[2.0, -1.0, 3.0]]]), torch.tensor([[True, True, False]]))
        tensor([[[1., 0., 0.]]])
    """

    def __init__(self, *, temperature: float = 0.5, hard: bool = False) -> None:
        super().__init__()
        if not (temperature > 0 and isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature
        self.hard = hard

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Choose.

        Args:
            logits: Of being kept, shape ``[B, C, L]``; padding may hold anything.
            mask: Which behaviours are real, shape ``[B, L]``, bool.

        Returns:
            Keep weights from 0 to 1, zero at padding, float32, shape ``[B, C, L]``.

        Raises:
            ValueError: If the shapes do not fit or ``mask`` is not bool.
        """
        logits = _check.shape(logits, "logits", [-1, -1, -1])
        real = _padding.boolean(mask, "mask", [logits.shape[0], logits.shape[2]]).unsqueeze(1)
        logits = logits.float().masked_fill(~real, 0.0)
        kept = _choice(logits, self.temperature, self.hard, self.training)
        return kept.masked_fill(~real, 0.0)


def keep_share(kept: Tensor, mask: Tensor) -> Tensor:
    r"""Share of a row's behaviours that is kept, over all its candidates: what a budget presses on.

    .. math::  \mathrm{loss} = \ldots + \lambda \cdot \mathrm{mean}_b\, \mathrm{share}_b

    Args:
        kept: Keep weights, zero at padding, shape ``[B, C, L]``.
        mask: Which behaviours are real, shape ``[B, L]``, bool.

    Returns:
        Shape ``[B]``; zero where there is no behaviour.

    Raises:
        ValueError: If the shapes do not fit or ``mask`` is not bool.

    Example:
        >>> keep_share(torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[True, True, False]]))
        tensor([0.7500])
    """
    kept = _check.shape(kept, "kept", [-1, -1, -1])
    real = _padding.boolean(mask, "mask", [kept.shape[0], kept.shape[2]])
    count = real.sum(dim=1) * kept.shape[1]
    return kept.sum(dim=(1, 2)) / count.clamp(min=1)


@torch.fx.wrap
def _choice(logits: Tensor, temperature: float, hard: bool, training: bool) -> Tensor:
    if training:
        # the difference of two Gumbel numbers is logistic
        logits = logits + torch.logit(torch.rand_like(logits), eps=1e-7)
    soft = torch.sigmoid(logits / temperature)
    if training and not hard:
        return soft
    # in this order: what is added to the choice is exactly zero
    return (logits > 0).to(soft.dtype) + (soft - soft.detach())
