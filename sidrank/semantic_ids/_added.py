"""Items that are to be added to a table: checked, and set apart from the published ones.

Shapes: ``n`` items to add, ``V`` items of the table, ``N`` levels.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_code_rows, as_integers
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable

__all__ = ["Added", "Integers", "Rows"]

Integers: TypeAlias = NDArray[Any] | Tensor | Sequence[int]
Rows: TypeAlias = NDArray[Any] | Tensor | Sequence[Sequence[int]]


class Added:
    """Items to add, and which of them are not published yet.

    Args:
        item_ids: Distinct item ids, shape ``[n]``.
        codes: Proposed codes, shape ``[n, N]``.
        spec: Codebook sizes of the proposed codes.
        published: The table to add to.

    Attributes:
        ids: Item ids, shape ``[n]``, int64.
        codes: Proposed codes, shape ``[n, N]``, int64.
        new: Rows of the items that are not published yet, ascending, int64.

    Raises:
        TypeError: If ids or codes are not integers.
        ValueError: If a shape differs, an id occurs twice, or a code is outside its codebook.
    """

    def __init__(
        self, item_ids: Integers, codes: Rows, spec: SIDSpec, published: SIDTable | None
    ) -> None:
        self.ids = as_integers(item_ids, "item_ids")
        if self.ids.ndim != 1:
            raise ValueError(f"item_ids must have shape [n], got {list(self.ids.shape)}")
        self.codes = as_code_rows(codes, self.ids, spec)
        ordered = np.sort(self.ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(f"item_ids must be distinct, got {twice[0]} more than once")
        known = np.zeros(len(self.ids), dtype=np.bool_)
        if published is not None:
            known = published.lookup(self.ids)[:, 0] >= 0
        self.new: NDArray[np.int64] = np.flatnonzero(~known).astype(np.int64)

        self._published = published

    def appended(self, codes: NDArray[np.int64], spec: SIDSpec) -> SIDTable:
        """Return the table with the new items; a table refuses to move a published code.

        Args:
            codes: Their codes, shape ``[n, N]``; those of published items are not read.
            spec: Codebook sizes.

        Returns:
            The next version of the published table, or a new one.
        """
        ids, rows = self.ids[self.new], codes[self.new]
        if self._published is None:
            return SIDTable(ids, rows, spec=spec)
        return self._published.append(ids, rows)

    def proposed(self, table: SIDTable) -> NDArray[np.int32]:
        """Return the codes that a table would have if nothing had been done.

        Args:
            table: What :meth:`appended` returned.

        Returns:
            Codes in the order of its ids, shape ``[V, N]``.
        """
        codes = table.codes.copy()
        codes[np.searchsorted(table.item_ids, self.ids[self.new])] = self.codes[self.new]
        return codes
