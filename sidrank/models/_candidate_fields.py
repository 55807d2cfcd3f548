"""Candidates of requests inside a ranker: fields looked up once, rows padded and unpadded.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``C`` candidates of one at most, ``F``
fields, ``D`` width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from sidrank import _check
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    SIDReplacement,
)
from sidrank.embeddings.field_tables import FieldTables

__all__ = ["Sides", "branch_logits", "most", "refuse", "sides", "unpadded"]


class Sides(NamedTuple):
    """Fields of requests and fields of candidates."""

    once: Tensor
    """Those of the requests, shape ``[R, F_R, D]``."""
    each: Tensor
    """Those of the candidates, shape ``[N, F_N, D]``."""
    own: list[bool]
    """Which of the ``F`` fields are the candidates', in the collection's order."""

    def rows(self, owner: Tensor) -> Tensor:
        """All fields of each candidate.

        Args:
            owner: The request of each candidate, shape ``[N]``.

        Returns:
            Shape ``[N, F, D]``, in the collection's order.
        """
        places = torch.tensor(self.own, device=owner.device)
        rows = self.each.new_empty(len(owner), len(self.own), self.each.shape[2])
        rows[:, places] = self.each
        rows[:, ~places] = self.once[owner]
        return rows


def most(requests: RankingRequests) -> int:
    """Candidates of the request with the most, at least 1."""
    return requests.most()


def unpadded(padded: Tensor, requests: RankingRequests) -> Tensor:
    """``[R, C, ...]`` without what is behind a request's last candidate, ``[N, ...]``."""
    if padded.shape[0] == 1:
        return padded[0, : requests.candidates.stride()]
    owner = requests.owner()
    first = requests.counts.cumsum(0) - requests.counts
    # not by a mask: how many it leaves would be unknown to an exported program
    return padded[owner, torch.arange(owner.shape[0], device=owner.device) - first[owner]]


def refuse(collection: torch.nn.Module, requests: RankingRequests) -> None:
    """Fields of the request alone are wanted.

    Args:
        collection: Has ``embedding_bag_configs``.
        requests: The requests.

    Raises:
        ValueError: If a field reads a feature of candidates.
    """
    known = requests.candidates.keys()
    for name, feature in _outputs(collection):
        for read in _features_of(collection, name, feature):
            if read in known:
                raise ValueError(f"fields must be of the request, got {read} of the candidates")


def sides(
    collection: EmbeddingBagCollection | HybridEmbeddingBagCollection | SIDReplacement,
    requests: RankingRequests,
    width: int,
) -> Sides:
    """Look the fields of requests up once and those of candidates for each.

    Where the tables are TorchRec's own, a side is looked up alone. Where they were exchanged (they
    are sharded or quantised), all are, with empty bags for the other side.

    Args:
        collection: The tables.
        requests: The requests.
        width: Width of each field, ``D``.

    Returns:
        Both sides.

    Raises:
        ValueError: If a field is made of features of both sides.
    """
    outputs = _outputs(collection)
    own = [_is_candidates(collection, *output, requests) for output in outputs]
    if _has_fields_apart(collection):
        names = [
            [name for (name, _), at in zip(outputs, own, strict=True) if at is side]
            for side in (False, True)
        ]
        once = _fields(collection, requests.features, names[0], width)
        each = _fields(collection, requests.candidates, names[1], width)
        return Sides(once, each, own)
    shape = (-1, len(own), width)
    chosen = torch.tensor(own, device=requests.dense.device)
    once = collection(requests.request_rows()).values().reshape(shape)[:, ~chosen]
    each = collection(requests.candidate_rows()).values().reshape(shape)[:, chosen]
    return Sides(once, each, own)


def branch_logits(branch: torch.nn.Module, requests: RankingRequests) -> Tensor:
    """What a branch beside the ranker adds to the logit of each candidate.

    Args:
        branch: ``sparse_features -> logits [N, 1]``; one that says what it reads, as a
            ``MemorizationBranch`` does, is given no more.
        requests: The requests.

    Returns:
        Logits, shape ``[N, 1]``.

    Raises:
        ValueError: If the branch gives another shape: added to a column, it would be a square.
    """
    read = getattr(branch, "source_features", None)
    rows = requests.pointwise(None if read is None else read())[1]
    return _check.shape(branch(rows), "branch logits", [-1, 1])


def _has_fields_apart(collection: torch.nn.Module) -> bool:
    if isinstance(collection, HybridEmbeddingBagCollection):
        return collection.has_fields_apart()
    return type(collection) is EmbeddingBagCollection


def _fields(
    collection: torch.nn.Module, features: KeyedJaggedTensor, names: list[str], width: int
) -> Tensor:
    if not names:
        rows = features.stride()
        return torch.zeros(rows, 0, width, device=features.device())
    if isinstance(collection, HybridEmbeddingBagCollection):
        return torch.stack(collection.fields(features, names), dim=1)
    tables = FieldTables(collection)  # pyright: ignore[reportArgumentType]
    return torch.stack(tables.look_up(names, features), dim=1)


def _is_candidates(
    collection: torch.nn.Module, name: str, feature: str, requests: RankingRequests
) -> bool:
    read = _features_of(collection, name, feature)
    known = requests.candidates.keys()
    found = {each in known for each in read}
    if len(found) > 1:
        raise ValueError(
            f"candidates must hold all features of {name}, {read}, or none of them, got {known}"
        )
    return found.pop()


def _features_of(collection: torch.nn.Module, name: str, feature: str) -> list[str]:
    if isinstance(collection, HybridEmbeddingBagCollection | SIDReplacement):
        return collection.features_of(name)
    return [feature]


def _outputs(collection: torch.nn.Module) -> list[tuple[str, str]]:
    """Each key of the output, and the feature that is pooled into it."""
    tables = collection.embedding_bag_configs()  # pyright: ignore[reportCallIssue]
    return [
        (output, feature)
        for table, outputs in zip(tables, get_embedding_names_by_table(tables), strict=True)
        for output, feature in zip(outputs, table.feature_names, strict=True)
    ]
