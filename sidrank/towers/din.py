r"""Deep interest network: a small network says how much each behaviour counts for a candidate.

Source: Zhou et al., KDD 2018, arXiv 1706.06978, section 4.3: an activation unit, then a weighted
sum that is not normalised, so that its length tells how strong an interest is. Differs from the
source: the unit reads :math:`[q; k; q - k; q \odot k]`, as the authors' code and the libraries do
(the paper draws an outer product); PReLU inside, not Dice, which ties the rows of a batch
together; a softmax is an option, as in those libraries.

The concatenation is never built; see ``sidrank.towers._activation_unit``.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``D`` width.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding
from sidrank.towers import _activation_unit

__all__ = ["DIN"]


class DIN(nn.Module):
    r"""Behaviours summed with weights that a network finds for each candidate.

    .. math::  \sum_l a(q, k_l)\, k_l, \qquad a(q, k) = \mathrm{MLP}([q; k; q - k; q \odot k])

    The checkpoint is that of the plain network: ``mlp.0.weight`` reads the concatenation, in this
    order, and layers of other libraries load by name. FuxiCTR's ``attention_layer.mlp.*`` is ours
    to the letter; DeepCTR-Torch's ``dnn.linears.i`` is ``mlp.{2 i}``, its
    ``dnn.activation_layers.i`` is ``mlp.{2 i + 1}`` and its ``dense`` the last layer. A unit with
    ReLUs is one whose slopes ``mlp.{2 i + 1}.weight`` are zero.

    Args:
        dim: Width ``D`` of candidates and behaviours.
        hidden: Units of each hidden layer.
        softmax: Whether the weights of a history are made to sum to one.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> import torch
        >>> tower = DIN(dim=8, hidden=[16])
        >>> tower(torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self, *, dim: int, hidden: Sequence[int] = (64, 16), softmax: bool = False
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.softmax = softmax
        self.mlp = _activation_unit.unit(4 * dim, hidden)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Sum the behaviours.

        Args:
            target: Candidates, shape ``[B, C, D]``.
            history: Behaviours, shape ``[B, L, D]``; padding may hold anything.
            mask: Which behaviours are real and earlier than the request, shape ``[B, L]``, bool;
                :func:`sidrank.sequences.selection.earlier` makes it.

        Returns:
            Shape ``[B, C, D]``; exactly zero where no behaviour counts.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.dim])
        history = _check.shape(history, "history", [target.shape[0], -1, self.dim])
        real = _padding.boolean(mask, "mask", [target.shape[0], history.shape[1]])
        first = cast(nn.Linear, self.mlp[0])
        query, key, difference, product = first.weight.chunk(4, dim=1)
        offset = functional.linear(target, query + difference, first.bias)
        layers = _activation_unit.hidden_layers(self.mlp)
        return _activation_unit.pooled(
            offset, target, history, None, real, key - difference, product, layers, self.softmax
        )
