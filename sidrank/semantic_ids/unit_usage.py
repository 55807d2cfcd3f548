"""How a table's items are spelled in byte-pair units.

Source: ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._bpe_merges import exposure_weights
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.table import SIDTable

__all__ = ["UnitUsage", "unit_usage"]


@dataclass(frozen=True, slots=True)
class UnitUsage:
    """How a table's items are spelled in units.

    Attributes:
        items: Number of items ``V``.
        items_sharing_all_units: Items whose SID, and so every unit, another item has too: no
            memory table tells them apart.
        items_of_one_unit: Items whose whole SID is one unit, item-level memory.
        units_per_item: Mean number of units.
        units_per_exposure: The same, each item weighted by its exposure; NaN without any.
        units_used: Distinct units that occur.
    """

    items: int
    items_sharing_all_units: int
    items_of_one_unit: int
    units_per_item: float
    units_per_exposure: float
    units_used: int


def unit_usage(
    bpe: SIDBPE,
    table: SIDTable,
    exposures: NDArray[Any] | Tensor | Sequence[int] | None = None,
) -> UnitUsage:
    """Report how a table is spelled, and how many of its items share all their units.

    Args:
        bpe: The merges.
        table: The items' codes.
        exposures: How often each item was shown, in the order of ``table.item_ids``, shape
            ``[V]``, integers; one each if None.

    Returns:
        The figures.

    Raises:
        TypeError: If ``exposures`` are not integers.
        ValueError: If the table has another spec, or ``exposures`` another shape or a negative
            entry.

    Example:
        >>> from sidrank.semantic_ids import SIDSpec
        >>> table = SIDTable([1, 2, 3], [[0, 1], [0, 1], [2, 3]], spec=SIDSpec((4, 4)))
        >>> usage = unit_usage(SIDBPE.train(table, max_units=9), table)
        >>> usage.items_of_one_unit, usage.items_sharing_all_units
        (2, 2)
    """
    bpe.check_spec(table.spec)
    weights = exposure_weights(exposures, len(table))
    units = bpe.encode(table.codes)
    lengths = (units >= 0).sum(axis=1)
    _, counts = np.unique(units, axis=0, return_counts=True)
    total = int(weights.sum())
    return UnitUsage(
        items=len(table),
        items_sharing_all_units=int(counts[counts > 1].sum()),
        items_of_one_unit=int((lengths == 1).sum()),
        units_per_item=float(lengths.mean()) if len(table) else float("nan"),
        units_per_exposure=float(weights.astype(np.float64) @ lengths) / total
        if total
        else float("nan"),
        units_used=len(np.unique(units[units >= 0])),
    )
