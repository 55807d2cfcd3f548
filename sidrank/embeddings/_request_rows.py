"""Rows of a batch by index. Called through this module, see ``sidrank._check``."""

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

__all__ = ["expanded", "rows_of"]


def rows_of(features: KeyedJaggedTensor, index: Tensor) -> KeyedJaggedTensor:
    """Rows of a batch, in any order and as often as wanted.

    Args:
        features: The batch.
        index: Which rows; integer ``[B]``.

    Returns:
        A batch of ``B`` rows.
    """
    count = len(features.keys())
    lengths = features.lengths().view(count, -1)
    offsets = torch.arange(count, device=index.device).unsqueeze(1) * lengths.size(1)
    bags = (offsets + index.unsqueeze(0)).flatten()
    starts = features.offsets()[:-1].long()[bags]
    wanted = lengths.flatten()[bags]
    ends = wanted.long().cumsum(0)
    shift = (starts - ends + wanted).repeat_interleave(wanted.long())
    places = shift + torch.arange(shift.size(0), device=shift.device)
    weights = features.weights_or_none()
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=features.values()[places],
        weights=None if weights is None else weights[places],
        lengths=wanted,
        stride=index.size(0),
    )


@torch.fx.wrap
def expanded(
    requests: KeyedJaggedTensor, rows: KeyedJaggedTensor, request_of: Tensor, keys: list[str]
) -> KeyedJaggedTensor:
    """Features of requests and of rows, side by side.

    Args:
        requests: Features of the requests, ``R`` rows.
        rows: The other features, ``B`` rows.
        request_of: The request of each row, integer ``[B]``.
        keys: What comes out, in order.

    Returns:
        A batch of ``B`` rows.

    Raises:
        ValueError: If a feature is in neither or in both, only one has weights, or
            ``request_of`` has another shape.
    """
    names = requests.keys() + rows.keys()
    if sorted(names) != sorted(keys):
        raise ValueError(f"keys must be those of requests and rows, {names}, got {keys}")
    if request_of.dim() != 1 or request_of.size(0) != rows.stride():
        got = ", ".join([str(size) for size in request_of.shape])
        raise ValueError(f"request_of must have shape [{rows.stride()}], got [{got}]")
    again = rows_of(requests, request_of)
    weights, others = again.weights_or_none(), rows.weights_or_none()
    if (weights is None) != (others is None):
        raise ValueError("rows must have weights if requests have, got only one with weights")
    both = KeyedJaggedTensor(
        keys=names,
        values=torch.cat([again.values(), rows.values().to(again.values().dtype)]),
        weights=None if weights is None or others is None else torch.cat([weights, others]),
        lengths=torch.cat([again.lengths(), rows.lengths().to(again.lengths().dtype)]),
        stride=rows.stride(),
    )
    return both.permute([names.index(key) for key in keys])
