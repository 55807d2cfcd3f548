"""Numbers for the groups of a stream: integers are their own, names get the next free one.

A state must know what its groups are before it takes a batch in: integers of one batch and names
of the next are a mistake, and so are negative ids beside ids of ``2**63`` or more, which no
64-bit integer holds together.

Shapes: ``[n]`` rows, ``[G]`` names.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.metrics._groups import GroupNumbers

__all__ = ["GroupNames"]

_Array = npt.NDArray[Any]
_KINDS = {"i": "integers", "u": "integers of 2**63 or more", "U": "strings", "S": "byte strings"}


class GroupNames:
    """What the groups are, and the number of each name.

    Attributes:
        kind: ``"i"`` integers below ``2**63``, ``"u"`` non-negative ones up to ``2**64``, ``"U"``
            strings, ``"S"`` byte strings, empty if no group was seen.
        negative: Whether a negative integer was seen.
    """

    def __init__(self) -> None:
        self.kind = ""
        self.negative = False
        self._number: dict[Any, int] = {}

    def admit(self, columns: Iterable[_Array]) -> None:
        """Refuse groups that do not go with those seen, before anything is changed.

        Args:
            columns: Groups as checked columns, shape ``[n]`` each.

        Raises:
            ValueError: If they are of another kind.
        """
        new = GroupNames()
        for groups in columns:
            kind = groups.dtype.kind
            if kind in "iu":
                kind = "u" if int(groups.max()) >= 1 << 63 else "i"
                new.negative = new.negative or int(groups.min()) < 0
            new.kind = "u" if new.kind == "u" else kind
        self.join(new)

    def join(self, other: "GroupNames") -> None:
        """Become what holds the groups of both.

        Args:
            other: Its kind counts here, not its names.

        Raises:
            ValueError: If the kinds do not go together.
        """
        kinds = {self.kind, other.kind} - {""}
        negative = self.negative or other.negative
        if len(kinds) == 2 and kinds != {"i", "u"}:
            raise ValueError(
                f"groups must be {_KINDS[self.kind]} as in earlier rows, got {_KINDS[other.kind]}"
            )
        if "u" in kinds and negative:
            raise ValueError("groups must not be negative beside ids of 2**63 or more, got both")
        self.kind = max(kinds, default="")  # of "i" and "u" the latter
        self.negative = negative

    def numbers(self, groups: _Array) -> _Array:
        """Give integers for a column that was admitted.

        Args:
            groups: Checked column, shape ``[n]``.

        Returns:
            The column itself, or the numbers of its names, shape ``[n]``.
        """
        if groups.dtype.kind not in "US":
            return groups
        found = GroupNumbers.of(groups)
        names = [] if found.names is None else found.names.tolist()
        return self.number_names(names)[found.column]

    def number_names(self, names: list[Any]) -> npt.NDArray[np.int64]:
        """Give each name its number, new ones the next.

        Args:
            names: Strings or byte strings, ``[G]``.

        Returns:
            Numbers, shape ``[G]``.
        """
        number = self._number
        return np.array([number.setdefault(name, len(number)) for name in names], np.int64)

    def names(self) -> list[Any]:
        """Names in the order of their numbers.

        Returns:
            Strings or byte strings; nothing for integers.
        """
        return list(self._number)

    def sorted(self) -> tuple[_Array, npt.NDArray[np.int64]]:
        """Names in order, and where each number's name is among them.

        Returns:
            Names and places, shape ``[G]`` each.
        """
        names = np.array(self.names())
        order = np.argsort(names)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return names[order], places
