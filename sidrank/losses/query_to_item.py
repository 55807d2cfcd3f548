r"""Bring an instruction and the item it led to together (Q2I).

Each instruction must tell the item that was clicked under it from the other items of the batch.
What it trains are the two adapters of ``sidrank.towers.InstructionGuidedSearch``.

Source: OxygenREC, arXiv 2512.22386, the Q2I loss. Differs from the source: another row with the
item of the positive is no negative [derived].

Shapes: ``B`` rows, ``D`` width.
"""

from math import isfinite

import torch
from torch import Tensor, nn

from sidrank.losses.contrastive import info_nce

__all__ = ["Q2ILoss"]

torch.fx.wrap("info_nce")  # reads its shapes; a tracer keeps it whole


class Q2ILoss(nn.Module):
    r"""Batch InfoNCE of instructions and items.

    .. math::  -\frac{1}{B} \sum_i \log \frac{\exp(u_i \cdot v_i / \tau)}
        {\sum_{j = i \,\lor\, item_j \neq item_i} \exp(u_i \cdot v_j / \tau)}

    Args:
        temperature: ``tau``.

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> from sidrank.towers import InstructionGuidedSearch
        >>> search = InstructionGuidedSearch(instruction_dim=6, item_dim=4, dim=8, k=3)
        >>> u = search.queries(torch.randn(5, 6), torch.ones(5).bool())
        >>> loss = Q2ILoss()(u, search.items(torch.randn(5, 4)), torch.arange(5))
        >>> loss.backward()
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        if not (temperature > 0 and isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def forward(
        self, queries: Tensor, items: Tensor, ids: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Compare each instruction with the items of the batch.

        Args:
            queries: Instructions in the common space, shape ``[B, D]``.
            items: Items in the common space, shape ``[B, D]``; row ``i`` was clicked under
                instruction ``i``.
            ids: Which item it is, shape ``[B]``, int64 or int32.
            valid: Rows that count, shape ``[B]``, bool; None is all. Leave out rows without a
                click.

        Returns:
            Mean over the rows that count, shape ``[]``; 0 if there are none.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        return info_nce(queries, items, temperature=self.temperature, ids=ids, valid=valid)
