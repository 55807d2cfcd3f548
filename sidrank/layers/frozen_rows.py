"""An embedding that was trained, with new rows of which alone it learns.

New words are taught to a trained model in two steps: first their rows alone, with all else as it
was, then everything. A mask on the gradient would not do for the first: momentum from before and
weight decay move a row whose gradient is zero. Here the old rows are a buffer, so that no
optimiser knows them.

Source: OpenOneRec, arXiv 2512.24762, the alignment stage (rows from the first new token on).
Differs from the source: new rows are zero at birth, unless told otherwise [derived].

Shapes: ``V`` old rows, ``D`` width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers._kept_buffers import KeepsBuffers

__all__ = ["FrozenRowsEmbedding"]


class FrozenRowsEmbedding(nn.Module):
    """An embedding whose rows below ``V`` stand still, bit for bit, and whose others learn.

    A checkpoint holds one ``weight`` with all rows, as that of the ``nn.Embedding`` does which
    ``thawed`` returns when everything is to learn.

    Args:
        rows: The trained rows, shape ``[V, D]``.
        num_new: Rows to add behind them.
        init_fn: How the new rows are born.

    Raises:
        ValueError: If ``rows`` is not a matrix of floating point numbers with at least one row,
            or ``num_new`` is less than one.

    Example:
        >>> embedding = FrozenRowsEmbedding(torch.ones(3, 2), num_new=2)
        >>> embedding(torch.tensor([0, 4])).tolist()
        [[1.0, 1.0], [0.0, 0.0]]
        >>> [tuple(parameter.shape) for parameter in embedding.parameters()]
        [(2, 2)]
    """

    def __init__(
        self,
        rows: Tensor,
        *,
        num_new: int,
        init_fn: Callable[[Tensor], Tensor | None] = nn.init.zeros_,
    ) -> None:
        super().__init__()
        if rows.dim() != 2 or len(rows) < 1 or not rows.is_floating_point():
            raise ValueError(
                "rows must be a matrix of floating point numbers with at least one row,"
                f" got {rows.dtype} of shape {list(rows.shape)}"
            )
        if num_new < 1:
            raise ValueError(f"num_new must be at least 1, got {num_new}")
        self.offset = rows.shape[0]
        self.frozen = _Rows(rows.detach().clone())
        self.new = nn.Parameter(torch.empty(num_new, rows.shape[1], dtype=rows.dtype))
        self._init_fn = init_fn
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let the new rows be born again; the old ones are no parameters."""
        with torch.no_grad():
            self._init_fn(self.new)

    def forward(self, ids: Tensor) -> Tensor:
        """Look rows up.

        Args:
            ids: Row numbers of any shape, int64 or int32.

        Returns:
            Rows, shape ``[*, D]``.

        Raises:
            ValueError: If ``ids`` are not integers.
            IndexError: If one is beyond the table (on a CPU; a GPU stops).
        """
        ids = _check.integer(ids, "ids")
        old = F.embedding(ids.clamp(max=self.offset - 1), self.frozen.rows)
        new = F.embedding((ids - self.offset).clamp(min=0), self.new)
        return torch.where((ids < self.offset).unsqueeze(-1), old, new)

    def thawed(self) -> nn.Embedding:
        """An ordinary embedding with all rows, every one of which learns.

        Returns:
            A copy that shares nothing with this one.
        """
        return nn.Embedding.from_pretrained(self._weight().clone(), freeze=False)

    def _weight(self) -> Tensor:
        return torch.cat([self.frozen.rows.to(self.new), self.new.detach()])

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self._weight()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k != name]
        if name not in state_dict:
            missing_keys.append(name)
            return
        weight, shape = state_dict[name], (self.offset + len(self.new), self.new.shape[1])
        if tuple(weight.shape) != shape:
            error_msgs.append(f"{name} must have shape {shape}, got {tuple(weight.shape)}")
            return
        with torch.no_grad():
            self.frozen.rows.copy_(weight[: self.offset])
            self.new.copy_(weight[self.offset :])


class _Rows(KeepsBuffers):
    """The rows that stand still."""

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
