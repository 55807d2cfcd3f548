"""Requests as plain tensors: what goes in and out of a program that knows no TorchRec.

An exported program takes tensors in a fixed order. Each feature is two of them, its ids and how
many of them each row has::

    dense           [R, D]  float32
    counts          [R]     int64   candidates of each request
    room            [C]     int8    says by its length how many candidates the largest request has;
                                    what is in it is never read
    <name>.values   [n]             ids of a feature, row after row
    <name>.lengths  [R] or [N] int64  ids of each row

first those of the requests, then those of the candidates. Since the sizes of all inputs are known
when the program is traced, no size inside depends on what an id or a length is.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``C`` candidates of one at most, ``D``
dense features, ``n`` ids of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import RankingRequests

__all__ = ["RequestTensors"]

_DTYPES = {"int32": torch.int32, "int64": torch.int64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class RequestTensors:
    """The order in which requests are taken apart, and the kinds of their parts.

    Attributes:
        dense: Number of dense features, ``D``.
        features: Name and dtype (``int32`` or ``int64``) of each feature of the requests.
        candidates: The same of the candidates.

    Example:
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.rand(2, 3), features("user", [7, 8]), features("item", [1, 2, 1]),
        ...     torch.tensor([2, 1]))
        >>> parts = RequestTensors.of(asked)
        >>> parts.names()
        ['dense', 'counts', 'room', 'user.values', 'user.lengths', 'item.values', 'item.lengths']
        >>> [list(part.shape) for part in parts.apart(asked)]
        [[2, 3], [2], [2], [2], [2], [3], [3]]
    """

    dense: int
    features: tuple[tuple[str, str], ...]
    candidates: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, requests: RankingRequests) -> "RequestTensors":
        """Learn order and kinds from requests.

        Args:
            requests: Any; what they ask is not read.

        Returns:
            What such requests are taken apart into.

        Raises:
            ValueError: If ids are no integers, both sides have a feature, or the candidates none.
        """
        sides: list[tuple[tuple[str, str], ...]] = []
        for what, side in (("features", requests.features), ("candidates", requests.candidates)):
            dtype = side.values().dtype
            if dtype not in _NAMES:
                raise ValueError(f"{what} must have ids of int32 or int64, got {dtype}")
            sides.append(tuple((key, _NAMES[dtype]) for key in side.keys()))  # noqa: SIM118
        if not sides[1]:
            raise ValueError("candidates must have at least one feature, got none")
        if twice := sorted(dict(sides[0]).keys() & dict(sides[1]).keys()):
            raise ValueError(f"candidates must not repeat features of the request, got {twice}")
        if requests.dense.dim() != 2:
            raise ValueError(f"dense must have shape [R, D], got {list(requests.dense.shape)}")
        return cls(requests.dense.shape[1], sides[0], sides[1])

    def names(self) -> list[str]:
        """Names of the tensors, in order.

        Returns:
            As the module says.
        """
        sparse = [name for name, _ in (*self.features, *self.candidates)]
        parts = [f"{name}.{part}" for name in sparse for part in ("values", "lengths")]
        return ["dense", "counts", "room", *parts]

    def apart(self, requests: RankingRequests) -> list[Tensor]:
        """Take requests apart.

        Args:
            requests: Their features may be in any order.

        Returns:
            Tensors in the order of ``names``.

        Raises:
            ValueError: If a feature is missing or one too many, has another dtype or weights, or
                the parts of the requests do not fit each other.
        """
        rows, number = requests.features.stride(), requests.candidates.stride()
        dense, counts = requests.dense, requests.counts
        if not self.features:  # such a batch has no rows of its own
            rows = dense.shape[0]
        if list(dense.shape) != [rows, self.dense] or dense.dtype != torch.float32:
            raise ValueError(
                f"dense must be float32 of shape [{rows}, {self.dense}], got {dense.dtype} of "
                f"shape {list(dense.shape)}"
            )
        if list(counts.shape) != [rows]:
            raise ValueError(f"counts must have shape [{rows}], got {list(counts.shape)}")
        sizes: list[int] = counts.tolist()
        if min(sizes, default=0) < 0 or sum(sizes) != number:
            raise ValueError(
                f"counts must be the candidates of each request, {number} together, got {sizes}"
            )
        room = torch.empty(max(sizes, default=0) or 1, dtype=torch.int8)
        return [
            dense,
            counts.long(),
            room,
            *_columns(requests.features, self.features, "features"),
            *_columns(requests.candidates, self.candidates, "candidates"),
        ]

    def together(self, tensors: Sequence[Tensor]) -> RankingRequests:
        """Put requests together again, inside of a program.

        Args:
            tensors: In the order of ``names``.

        Returns:
            Requests that know their sizes without reading a value.
        """
        dense, counts, room = tensors[:3]
        split = 3 + 2 * len(self.features)
        rows = counts.shape[0]
        _equal(dense.shape[0], rows)
        number = tensors[split + 1].shape[0]
        asked = _GivenRequests(
            dense,
            _features([name for name, _ in self.features], tensors[3:split], rows),
            _features([name for name, _ in self.candidates], tensors[split:], number),
            counts,
        )
        asked.room = room
        return asked

    def traced(self, requests: RankingRequests) -> list[Tensor]:
        """Tensors to trace a program with: no two sizes are equal that may differ, none is 0 or 1.

        Args:
            requests: Real ones; features whose rows have equal numbers of ids keep equal sizes.

        Returns:
            Zeros, in the order of ``names``.
        """
        rows, most, number = 5, 7, 11
        made: list[Tensor] = [
            torch.zeros(rows, self.dense),
            torch.zeros(rows, dtype=torch.int64),
            torch.zeros(most, dtype=torch.int8),
        ]
        real = dict(zip(self.names(), self.apart(requests), strict=True))
        known: dict[tuple[int, ...], int] = {}
        for side, length in ((self.features, rows), (self.candidates, number)):
            for name, dtype in side:
                lengths = real[f"{name}.lengths"].tolist()
                size = length if set(lengths) <= {1} else 13 + 2 * len(known)
                size = known.setdefault((length, *lengths), size)
                made.append(torch.zeros(size, dtype=_DTYPES[dtype]))
                made.append(torch.zeros(length, dtype=torch.int64))
        return made


class _GivenRequests(RankingRequests):
    """Requests inside of a program, where values are not known."""

    room: Tensor

    def most(self) -> int:
        return self.room.shape[0]

    def together(self, keys: Sequence[str]) -> KeyedJaggedTensor:
        number = self.candidates.stride()
        parts = [self.candidates[key].values() for key in keys]
        for part in parts:  # one id each: the loader checks it
            _equal(part.shape[0], number)
        return KeyedJaggedTensor(
            keys=[*self.features.keys(), *keys],
            values=torch.cat([self.features.values(), *parts]),
            lengths=torch.cat([self.features.lengths(), self.counts.repeat(len(keys))]),
            stride=self.counts.shape[0],
            length_per_key=[*self.features.length_per_key(), *[part.shape[0] for part in parts]],
        )


def _features(names: list[str], tensors: Sequence[Tensor], rows: int) -> KeyedJaggedTensor:
    values, lengths = tensors[0::2], tensors[1::2]
    for each in lengths:
        _equal(each.shape[0], rows)
    if not names:
        none = torch.zeros(0, dtype=torch.int64)
        return KeyedJaggedTensor(keys=[], values=none, lengths=none, stride=rows)
    return KeyedJaggedTensor(
        keys=names,
        values=torch.cat(list(values)),
        lengths=torch.cat(list(lengths)),
        stride=rows,
        length_per_key=[each.shape[0] for each in values],
    )


def _columns(
    given: KeyedJaggedTensor, wanted: tuple[tuple[str, str], ...], what: str
) -> list[Tensor]:
    """Ids and lengths of each feature."""
    keys = given.keys()
    if sorted(keys) != sorted(name for name, _ in wanted):
        raise ValueError(f"{what} must be {[name for name, _ in wanted]}, got {keys}")
    if not wanted:
        return []
    if given.weights_or_none() is not None:
        raise ValueError(f"{what} must have no weights, got some of {keys}")
    if given.variable_stride_per_key():
        raise ValueError(f"{what} must have one batch size for all keys, got one per key")
    dtype = wanted[0][1]
    if given.values().dtype != _DTYPES[dtype]:
        raise ValueError(f"{what} must have ids of {dtype}, got {given.values().dtype}")
    values = given.values().split(given.length_per_key())
    lengths = given.lengths().long().view(len(keys), given.stride()).unbind()
    places = {key: place for place, key in enumerate(keys)}
    return [part for name, _ in wanted for part in (values[places[name]], lengths[places[name]])]


def _equal(size: int, other: int) -> None:
    """Two sizes are one from here on; where the program is called, the loader has checked it."""
    torch._check(size == other)  # pyright: ignore[reportPrivateUsage]
