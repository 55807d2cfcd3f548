"""Checks of the arguments that every slow tier takes.

Source: ours.
"""

import torch
from torch import Tensor

__all__ = ["check_rows", "check_sizes"]


def check_sizes(rows: int, width: int) -> None:
    """Refuse a table of no rows or of no width.

    Args:
        rows: How many rows.
        width: How many numbers a row has.

    Raises:
        ValueError: If one is below 1.
    """
    for name, value in (("rows", rows), ("width", width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_rows(sizes: tuple[int, int], rows: Tensor, values: Tensor, name: str) -> None:
    """Refuse rows that are not of the table, or values that do not fit them.

    Args:
        sizes: Rows and width of the table.
        rows: Row numbers.
        values: Rows.
        name: What the caller calls ``values``.

    Raises:
        ValueError: If a shape or dtype differs, or a row is not of the table.
    """
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise ValueError(f"rows must be int64 [n], got {rows.dtype} {list(rows.shape)}")
    wanted = [len(rows), sizes[1]]
    if values.dtype != torch.float32 or list(values.shape) != wanted:
        raise ValueError(
            f"{name} must be float32 {wanted}, got {values.dtype} {list(values.shape)}"
        )
    if len(rows):
        low, high = (int(end) for end in torch.aminmax(rows))
        if low < 0 or high >= sizes[0]:
            raise ValueError(
                f"rows must lie within [0, {sizes[0]}), got {low if low < 0 else high}"
            )
