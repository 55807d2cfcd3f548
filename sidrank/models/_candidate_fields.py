"""Candidates of requests inside a ranker: fields looked up once, rows padded and unpadded.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``C`` candidates of one at most, ``F``
fields, ``D`` width.
"""

import torch
from torch import Tensor
from torchrec import EmbeddingBagCollection

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    SIDReplacement,
)

__all__ = ["both", "most", "refuse", "unpadded"]


def most(requests: RankingRequests) -> int:
    """Candidates of the request with the most, at least 1."""
    return max(int(requests.counts.max()), 1)


def unpadded(padded: Tensor, requests: RankingRequests) -> Tensor:
    """``[R, C, ...]`` without what is behind a request's last candidate, ``[N, ...]``."""
    places = torch.arange(padded.shape[1], device=padded.device)
    return padded[places < requests.counts.unsqueeze(1)]


def refuse(collection: torch.nn.Module, requests: RankingRequests) -> None:
    """Fields of the request alone are wanted.

    Args:
        collection: Has ``embedding_bag_configs``.
        requests: The requests.

    Raises:
        ValueError: If a field reads a feature of candidates.
    """
    for name in _names(collection):
        if name in requests.candidates.keys():  # noqa: SIM118 - not a dictionary
            raise ValueError(f"fields must be of the request, got {name} of the candidates")


def both(
    collection: EmbeddingBagCollection | HybridEmbeddingBagCollection | SIDReplacement,
    requests: RankingRequests,
    width: int,
) -> Tensor:
    """Fields of each candidate, those of the request looked up once.

    Args:
        collection: The tables.
        requests: The requests.
        width: Width of each field, ``D``.

    Returns:
        Shape ``[N, F, D]``, fields in the collection's order.

    Raises:
        ValueError: If a field is made of features of both sides.
    """
    names = _names(collection)
    own = [_is_candidates(collection, name, requests) for name in names]
    once = collection(requests.request_rows()).values().reshape(-1, len(names), width)
    each = collection(requests.candidate_rows()).values().reshape(-1, len(names), width)
    chosen = torch.tensor(own, device=each.device).unsqueeze(1)
    return torch.where(chosen, each, once[requests.owner()])


def _is_candidates(collection: torch.nn.Module, name: str, requests: RankingRequests) -> bool:
    read = [name]
    if isinstance(collection, HybridEmbeddingBagCollection | SIDReplacement):
        read = collection.features_of(name)
    known = requests.candidates.keys()
    sides = {feature in known for feature in read}
    if len(sides) > 1:
        raise ValueError(
            f"candidates must hold all features of {name}, {read}, or none of them, got {known}"
        )
    return sides.pop()


def _names(collection: torch.nn.Module) -> list[str]:
    tables = collection.embedding_bag_configs()  # pyright: ignore[reportCallIssue]
    return [feature for table in tables for feature in table.feature_names]
