"""Features of a request stored once, and copied to its candidates where the model runs.

A log that has a row for each candidate repeats what belongs to the request: the user, the query,
the behaviours, often most of the bytes. `stored_once` takes the repetitions out, on the side of the
data; the batch that goes to the device is that much smaller. `FeatureReconstruction` puts them
back by index, so the collection behind it sees the very batch the log had: the same ids in the same
order, hence the same embeddings and the same gradients.

It stands in front of any collection as an ``nn.Module``, so that a train pipeline with
``pipeline_postproc=True`` takes it along.

Source: HyFormer, arXiv 2601.12681, which stores request-level features once and rebuilds the rows
on the device; the format is ours [derived]. TorchRec's own ``inverse_indices`` of variable batches
expand after the lookup instead.

Shapes: ``R`` requests, ``B`` rows, ``F`` features of requests.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import _request_rows

__all__ = ["FeatureReconstruction", "RequestBatch", "stored_once"]


class RequestBatch(NamedTuple):
    """A batch whose requests' features are there once."""

    requests: KeyedJaggedTensor
    """Features of the requests, ``R`` rows."""
    rows: KeyedJaggedTensor
    """The other features, ``B`` rows."""
    request_of: Tensor
    """The request of each row, int64 ``[B]``."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "RequestBatch":
        """The batch on a device.

        Args:
            device: Where to.
            non_blocking: Whether the caller goes on meanwhile.

        Returns:
            A copy, or the batch itself if it is there.
        """
        return RequestBatch(
            self.requests.to(device, non_blocking),
            self.rows.to(device, non_blocking),
            self.request_of.to(device, non_blocking=non_blocking),
        )

    def stored_bytes(self) -> int:
        """How many bytes the batch has."""
        index = self.request_of.numel() * self.request_of.element_size()
        return _bytes(self.requests) + _bytes(self.rows) + index

    def expanded_bytes(self) -> int:
        """How many bytes it would have with the features of requests in each row."""
        lengths = self.requests.lengths().view(len(self.requests.keys()), -1)
        values = int(lengths[:, self.request_of].sum())
        weights = self.requests.weights_or_none()
        each = self.requests.values().element_size()
        each += 0 if weights is None else weights.element_size()
        per_row = len(lengths) * lengths.element_size()
        return _bytes(self.rows) + values * each + len(self.request_of) * per_row


class FeatureReconstruction(nn.Module):
    """Give each row the features of its request.

    Args:
        keys: The features of what comes out, in order; each of the requests or of the rows.

    Raises:
        ValueError: If ``keys`` is empty or names one twice.

    Example:
        >>> log = KeyedJaggedTensor(
        ...     ["user", "item"], torch.tensor([7, 7, 8, 1, 2, 3]), lengths=torch.ones(6).int())
        >>> batch = stored_once(log, ["user"], torch.tensor([40, 40, 41]))
        >>> batch.requests.values(), batch.request_of
        (tensor([7, 8]), tensor([0, 0, 1]))
        >>> FeatureReconstruction(keys=["user", "item"])(*batch).values()
        tensor([7, 7, 8, 1, 2, 3])
    """

    def __init__(self, *, keys: Sequence[str]) -> None:
        super().__init__()
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"keys must be features, each once, got {list(keys)}")
        self.keys = list(keys)

    def forward(
        self, requests: KeyedJaggedTensor, rows: KeyedJaggedTensor, request_of: Tensor
    ) -> KeyedJaggedTensor:
        """Expand.

        Args:
            requests: Features of the requests, ``R`` rows.
            rows: The other features, ``B`` rows.
            request_of: The request of each row, integer ``[B]`` in ``[0, R)``; not checked, since
                that would stall a GPU.

        Returns:
            All features, ``B`` rows.

        Raises:
            ValueError: If a feature is in neither or in both, only one has weights, or
                ``request_of`` has another shape.
        """
        return _request_rows.expanded(requests, rows, request_of, self.keys)


def stored_once(features: KeyedJaggedTensor, keys: Sequence[str], request: Tensor) -> RequestBatch:
    """Take out what the rows of a request repeat.

    Args:
        features: A row for each candidate, ``B`` rows.
        keys: The features of requests.
        request: Which request a row is of, integer ``[B]``; the rows of one need not be neighbours.

    Returns:
        The batch, with the requests in the order of their first rows.

    Raises:
        ValueError: If ``keys`` is empty or names no feature, no other feature is left, ``request``
            has another shape, or rows of one request differ in a feature of requests.
    """
    own = features.keys()
    unknown = [key for key in keys if key not in own]
    if unknown or not keys:
        raise ValueError(f"keys must be features of the batch, {own}, got {list(keys)}")
    if set(keys) >= set(own):
        raise ValueError(f"keys must leave features to the rows, got all of {own}")
    if request.dim() != 1 or len(request) != features.stride():
        raise ValueError(f"request must have shape [{features.stride()}], got {[*request.shape]}")
    _, group = torch.unique(request, return_inverse=True)
    places = torch.arange(len(group), device=group.device)
    first = torch.full_like(places, len(group)).scatter_reduce(0, group, places, "amin")
    first = first[: int(group.max()) + 1 if len(group) else 0]
    order = first.argsort()
    request_of = order.argsort()[group]
    repeated = features.permute([own.index(key) for key in keys])
    requests = _request_rows.rows_of(repeated, first[order])
    again = _request_rows.rows_of(requests, request_of)
    for key in keys:
        _check_same(repeated, again, key)
    rest = features.permute([place for place, key in enumerate(own) if key not in keys])
    return RequestBatch(requests, rest, request_of)


def _check_same(one: KeyedJaggedTensor, other: KeyedJaggedTensor, key: str) -> None:
    left, right = one[key], other[key]
    same = torch.equal(left.lengths(), right.lengths())
    same = same and torch.equal(left.values(), right.values())
    weights, others = left.weights_or_none(), right.weights_or_none()
    if weights is not None and others is not None:
        same = same and torch.equal(weights, others)
    if not same:
        raise ValueError(
            f"keys must be the same in all rows of a request, got {key!r}, which differs"
        )


def _bytes(features: KeyedJaggedTensor) -> int:
    parts = [features.values(), features.lengths(), features.weights_or_none()]
    return sum(part.numel() * part.element_size() for part in parts if part is not None)
