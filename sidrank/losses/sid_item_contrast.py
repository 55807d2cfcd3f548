r"""Tie what a model says of an item's semantic ID to what it says of the item itself.

The hidden state behind the last code of a SID is all that later layers know of the item's
content; the item's own vector (of its history, of its id) knows its behaviour. Telling the right
item among those of the batch from the SID side makes the codes carry what matters for ranking.

Source: OneMall, arXiv 2601.21770, the contrast of the last SID token with the item's vector.
Differs from the source: linear maps into a common space [derived]; rows that cannot or need not be
told apart are no negatives [derived].

Shapes: ``B`` rows, ``D`` width.
"""

from math import isfinite

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.losses.contrastive import info_nce

__all__ = ["SIDItemContrast"]

torch.fx.wrap("info_nce")  # reads its shapes; a tracer keeps it whole


class SIDItemContrast(nn.Module):
    r"""Batch InfoNCE of SID states and item vectors.

    .. math::  -\frac{1}{B} \sum_i \log \frac{\exp(h_i \cdot v_i / \tau)}
        {\sum_{j = i \,\lor\, id_j \neq id_i} \exp(h_i \cdot v_j / \tau)}, \qquad
        h = \mathrm{norm}(P\, h_{last}),\ v = \mathrm{norm}(R\, e_{item})

    Args:
        sid_dim: Width of a SID's state or embedding.
        item_dim: Width of an item's vector.
        dim: Width ``D`` of the space they meet in.
        temperature: ``tau``.

    Raises:
        ValueError: If a size is less than one or the temperature is not positive and finite.

    Example:
        >>> contrast = SIDItemContrast(sid_dim=6, item_dim=4, dim=8)
        >>> loss = contrast(torch.randn(5, 6), torch.randn(5, 4), torch.arange(5))
        >>> loss.shape
        torch.Size([])
    """

    def __init__(self, *, sid_dim: int, item_dim: int, dim: int, temperature: float = 0.07) -> None:
        super().__init__()
        for name, size in (("sid_dim", sid_dim), ("item_dim", item_dim), ("dim", dim)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not (temperature > 0 and isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature
        self.sid_dim = sid_dim
        self.item_dim = item_dim
        self.sid = nn.Linear(sid_dim, dim, bias=False)
        self.item = nn.Linear(item_dim, dim, bias=False)

    def forward(
        self, sids: Tensor, items: Tensor, ids: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Compare each SID with the items of the batch.

        Args:
            sids: State behind the last code, or SID embedding, shape ``[B, sid_dim]``.
            items: Vectors of the same items, shape ``[B, item_dim]``.
            ids: Which item each row is, shape ``[B]``, int64 or int32. Where items collide,
                pass numbers of their semantic IDs: one SID cannot tell two items apart.
            valid: Rows that count, shape ``[B]``, bool; None is all. Leave out items without a
                SID.

        Returns:
            Mean over the rows that count, shape ``[]``; 0 if there are none.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        sids = _check.shape(sids, "sids", [-1, self.sid_dim])
        items = _check.shape(items, "items", [sids.shape[0], self.item_dim])
        h, v = self.sid(_counted(sids, valid)), self.item(_counted(items, valid))
        return info_nce(h, v, temperature=self.temperature, ids=ids, valid=valid)


@torch.fx.wrap
def _counted(x: Tensor, valid: Tensor | None) -> Tensor:
    # before the linear layer, whose gradient would multiply zero by what is in the other rows
    if valid is None:
        return x
    return _padding.zeroed(x, _padding.boolean(valid, "valid", [x.shape[0]]))
