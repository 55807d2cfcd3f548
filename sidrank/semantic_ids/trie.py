"""Which codes can follow a prefix: a trie over a SID table, as sorted tensors.

A decoder that emits one code after the other must never leave the catalogue: after a prefix
only those codes may follow that some item has. A search index wants the opposite way, from a
prefix to the items below it. Both are binary searches here. The distinct prefixes of one level
are its nodes, numbered in lexicographic order; a node of level ``l`` is found by the integer
``parent * K_l + code``, and these integers are sorted. Items are sorted by their codes, so that
the items below a node are neighbours. There is no object per node and no loop but over levels.

Memory: 16 bytes for each distinct prefix and 16 for each item, at most ``16 (N + 1) V`` bytes.
No key exceeds ``V * K``, so it fits int64 whatever the product of all codebooks is.

Shapes: ``B`` prefixes, ``l`` levels of a prefix, ``N`` levels, ``K_l`` codes of level ``l``,
``V`` items, ``T`` entries below all prefixes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank import _check
from sidrank.semantic_ids.table import SIDTable

__all__ = ["Ragged", "SIDTrie"]

_NO_KEY = 2**63 - 1  # larger than every key, so that a search never falls off the end


class Ragged(NamedTuple):
    """Rows of different lengths."""

    offsets: Tensor
    """Where each row begins, and the end of the last one, shape ``[B + 1]``, int64."""
    values: Tensor
    """All rows one after the other, shape ``[T]``, int64."""


class SIDTrie:
    """All prefixes of the semantic IDs of a table.

    A prefix that no item has, also one with a code of -1 or beyond its codebook, has no
    children and no items: its mask is all false. Everything is computed where the trie is;
    prefixes must be there too. A trie does not change; it is of one version of a table.

    Args:
        table: The codes of every item.

    Attributes:
        spec: Codebook sizes of the table.
        content_hash: Content hash of the table.
        version: Version of the table.
        prefix_counts: Distinct prefixes of each level, ``N`` numbers; the last is the number
            of distinct semantic IDs.

    Example:
        >>> from sidrank.semantic_ids import SIDSpec
        >>> table = SIDTable([7, 8, 9], [[0, 2], [0, 1], [2, 1]], spec=SIDSpec((3, 4)))
        >>> trie = SIDTrie(table)
        >>> trie.mask(torch.tensor([[0], [1]])).int().tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
        >>> trie.items(torch.tensor([[0], [2]]))
        Ragged(offsets=tensor([0, 2, 3]), values=tensor([8, 7, 9]))
    """

    def __init__(self, table: SIDTable) -> None:
        self.spec = table.spec
        self.content_hash = table.content_hash
        self.version = table.version
        codes = table.codes
        order = np.lexsort(codes.T[::-1])  # stable: items of one SID stay in the order of their ids
        keys, starts, self._widest = _nodes(codes[order], self.spec.codebook_sizes)
        self.prefix_counts = tuple(len(level) - 1 for level in keys)
        self._keys = [torch.from_numpy(level) for level in keys]
        self._starts = [torch.from_numpy(level) for level in starts]
        self._rows = torch.from_numpy(order)
        self._item_ids = torch.from_numpy(table.item_ids[order])

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return (
            f"SIDTrie(items={len(self)}, codebook_sizes={self.spec.codebook_sizes}, "
            f"prefix_counts={self.prefix_counts}, version={self.version}, "
            f"content_hash={self.content_hash[:12]}…)"
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._rows.device

    def to(self, device: torch.device | str) -> "SIDTrie":
        """Return this trie on another device; itself if it is there already.

        Args:
            device: Where prefixes will be.

        Returns:
            A trie of the same table.
        """
        rows = self._rows.to(device)
        if rows is self._rows:
            return self
        moved = object.__new__(SIDTrie)
        moved.__dict__.update(self.__dict__)
        moved._rows = rows
        moved._item_ids = self._item_ids.to(device)
        moved._keys = [level.to(device) for level in self._keys]
        moved._starts = [level.to(device) for level in self._starts]
        return moved

    def mask(self, prefixes: Tensor) -> Tensor:
        """Which codes can follow each prefix.

        On a GPU, or compiled, no step depends on the data: nothing waits and no graph breaks.

        Args:
            prefixes: First codes, shape ``[B, l]`` with ``0 <= l < N``, int64 or int32; with
                ``l = 0`` the codes of the first level.

        Returns:
            True where some item continues the prefix so, shape ``[B, K_{l+1}]``, bool.

        Raises:
            ValueError: If the prefixes are of another shape or dtype, or on another device.
        """
        node, level = self._walk(prefixes, self.spec.num_levels - 1)
        if level == 0 and len(node) > 1:
            return self.mask(prefixes[:1]).repeat(len(node), 1)
        size = self.spec.codebook_sizes[level]
        start, end = self._children(node, level)
        keys = self._keys[level]
        if self.device.type != "cpu" or torch.compiler.is_compiling():
            # as many slots for each prefix as the widest node has children
            slots = start.unsqueeze(1) + torch.arange(self._widest[level], device=self.device)
            codes = keys[slots.clamp(max=len(keys) - 1)] - (node * size).unsqueeze(1)
            # children of later nodes are beyond the codebook; they share a column that is cut off
            mask = torch.zeros(len(node), size + 1, dtype=torch.bool, device=self.device)
            return mask.scatter_(1, codes.clamp(max=size), True)[:, :size]
        _, slots = _spread(start, end)
        row = torch.arange(len(node)).repeat_interleave(end - start)
        mask = torch.zeros(len(node), size, dtype=torch.bool)
        mask.view(-1)[keys[slots] + (row - node[row]) * size] = True
        return mask

    def children(self, prefixes: Tensor) -> Ragged:
        """Codes that can follow each prefix, ascending.

        Args:
            prefixes: First codes, shape ``[B, l]`` with ``0 <= l < N``.

        Returns:
            One row of codes for each prefix.

        Raises:
            ValueError: If the prefixes are of another shape or dtype, or on another device.
        """
        node, level = self._walk(prefixes, self.spec.num_levels - 1)
        offsets, slots = _spread(*self._children(node, level))
        return Ragged(offsets, self._keys[level][slots] % self.spec.codebook_sizes[level])

    def counts(self, prefixes: Tensor) -> Tensor:
        """Number of items below each prefix.

        Args:
            prefixes: First codes, shape ``[B, l]`` with ``0 <= l <= N``.

        Returns:
            The numbers, shape ``[B]``, int64; 0 for a prefix that no item has.

        Raises:
            ValueError: If the prefixes are of another shape or dtype, or on another device.
        """
        start, end = self._below(prefixes)
        return end - start

    def items(self, prefixes: Tensor) -> Ragged:
        """Ids of the items below each prefix, ordered by their codes and then by id.

        Args:
            prefixes: First codes, shape ``[B, l]`` with ``0 <= l <= N``.

        Returns:
            One row of item ids for each prefix.

        Raises:
            ValueError: If the prefixes are of another shape or dtype, or on another device.
        """
        offsets, slots = _spread(*self._below(prefixes))
        return Ragged(offsets, self._item_ids[slots])

    def rows(self, prefixes: Tensor) -> Ragged:
        """Rows of the table below each prefix, in the order of :meth:`items`.

        Args:
            prefixes: First codes, shape ``[B, l]`` with ``0 <= l <= N``.

        Returns:
            For each prefix the positions of its items in ``table.item_ids``.

        Raises:
            ValueError: If the prefixes are of another shape or dtype, or on another device.
        """
        offsets, slots = _spread(*self._below(prefixes))
        return Ragged(offsets, self._rows[slots])

    def _walk(self, prefixes: Tensor, longest: int) -> tuple[Tensor, int]:
        """Find the node of each prefix; one past the last node if there is none."""
        codes = _check.integer(prefixes, "prefixes")
        if codes.dim() != 2 or codes.shape[1] > longest:
            raise ValueError(
                f"prefixes must have shape [B, l] with l <= {longest}, got {list(codes.shape)}"
            )
        if codes.device != self.device:
            raise ValueError(f"prefixes must be on {self.device}, got {codes.device}")
        length = codes.shape[1]
        node = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        for level, size in enumerate(self.spec.codebook_sizes[:length]):
            code = codes[:, level].long()
            keys = self._keys[level]
            missing = len(keys) - 1
            wanted = node * size + code
            at = torch.searchsorted(keys, wanted)
            # a code outside its codebook would be the key of another parent's child
            known = (keys[at] == wanted) & (code >= 0) & (code < size)
            node = torch.where(known, at, missing)
        return node, length

    def _children(self, node: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Where the children of each node begin and end among the nodes of the next level."""
        size = self.spec.codebook_sizes[level]
        keys = self._keys[level]
        return torch.searchsorted(keys, node * size), torch.searchsorted(keys, (node + 1) * size)

    def _below(self, prefixes: Tensor) -> tuple[Tensor, Tensor]:
        """Where the items of each prefix begin and end."""
        node, length = self._walk(prefixes, self.spec.num_levels)
        starts = self._starts[length]
        return starts[node], starts[node + 1]


def _nodes(
    codes: NDArray[np.int32], sizes: tuple[int, ...]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], list[int]]:
    """Keys and first items of the nodes of each level, and the most children of one node.

    ``codes`` are sorted. Keys begin at the first level, items at the root.
    """
    total = len(codes)
    all_keys: list[NDArray[np.int64]] = []
    all_starts = [np.array([0, total, total], dtype=np.int64)]
    widest: list[int] = []
    node = np.zeros(total, dtype=np.int64)  # of each item
    begins = np.zeros(total, dtype=np.bool_)  # whether the item is the first of its node
    begins[:1] = True
    for level, size in enumerate(sizes):
        parents = node
        column = codes[:, level]
        begins[1:] |= column[1:] != column[:-1]
        first = np.flatnonzero(begins)
        all_keys.append(np.append(parents[first] * size + column[first], _NO_KEY))
        all_starts.append(np.append(first, [total, total]))
        widest.append(int(np.bincount(parents[first]).max(initial=0)))
        node = np.cumsum(begins) - 1
    return all_keys, all_starts, widest


def _spread(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Write out half-open ranges: where each begins in the result, and all their members."""
    offsets = torch.zeros(len(start) + 1, dtype=torch.int64, device=start.device)
    torch.cumsum(end - start, dim=0, out=offsets[1:])
    shift = torch.repeat_interleave(start - offsets[:-1], end - start)
    return offsets, shift + torch.arange(len(shift), device=start.device)
