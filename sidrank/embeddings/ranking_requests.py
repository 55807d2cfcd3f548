"""Requests with their candidates: what is asked once, and what is asked for each candidate.

A request is one user at one moment with any number of candidates. A ranker that reads the rows of
a log gets the user once a candidate; here the user comes once. Four readings of the same requests
let a model choose where to meet them:

- ``pointwise``: a row a candidate, what the log would have held,
- ``together``: a row a request, its candidates in one bag,
- ``request_rows`` and ``candidate_rows``: a row a request without candidates, and a row a
  candidate without the request. Every feature is there, those of the other side as empty bags, so
  any collection of tables takes both, sharded or quantised or not.

Shapes: ``R`` requests, ``N`` candidates of all requests, ``D`` dense features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import _request_rows

__all__ = ["RankingRequests"]


class RankingRequests(NamedTuple):
    """Requests, each with candidates of its own.

    Example:
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.rand(2, 3), features("user", [7, 8]), features("item", [1, 2, 1]),
        ...     torch.tensor([2, 1]))
        >>> asked.owner()
        tensor([0, 0, 1])
        >>> dense, rows = asked.pointwise()
        >>> dense.shape, rows["user"].values(), rows["item"].values()
        (torch.Size([3, 3]), tensor([7, 7, 8]), tensor([1, 2, 1]))
        >>> asked.together(["item"])["item"].to_dense()
        [tensor([1, 2]), tensor([1])]
    """

    dense: Tensor
    """Dense features of the requests, shape ``[R, D]``."""
    features: KeyedJaggedTensor
    """Sparse features of the requests, ``R`` rows."""
    candidates: KeyedJaggedTensor
    """Sparse features of the candidates, ``N`` rows, request after request."""
    counts: Tensor
    """Candidates of each request, shape ``[R]``, integer."""

    def owner(self) -> Tensor:
        """The request of each candidate.

        Returns:
            Shape ``[N]``, int64.
        """
        places = torch.arange(self.counts.shape[0], device=self.counts.device)
        return places.repeat_interleave(self.counts, output_size=self.candidates.stride())

    def most(self) -> int:
        """Candidates of the request that has the most.

        Returns:
            How many; 1 where none has any.
        """
        return max(int(self.counts.max()), 1)

    def chosen(self, requests: Tensor, candidates: Tensor, counts: Tensor) -> "RankingRequests":
        """Some requests with some of their candidates.

        Args:
            requests: Places of the requests, integer.
            candidates: Places of the candidates among all, request after request, integer.
            counts: Candidates of each chosen request, as long as ``requests``.

        Returns:
            The requests.
        """
        return RankingRequests(
            self.dense[requests],
            _request_rows.rows_of(self.features, requests),
            _request_rows.rows_of(self.candidates, candidates),
            counts,
        )

    def pointwise(self, keys: Sequence[str] | None = None) -> tuple[Tensor, KeyedJaggedTensor]:
        """A row a candidate: the request's features, again for each, and its own.

        Args:
            keys: The sparse features that are wanted; None for all.

        Returns:
            Dense features ``[N, D]`` and sparse features, ``N`` rows.
        """
        owner = self.owner()
        if keys is None:
            again = _request_rows.rows_of(self.features, owner)
            return self.dense[owner], _beside(again, self.candidates)
        features, candidates = _chosen(self.features, keys), _chosen(self.candidates, keys)
        if features is None:
            return self.dense[owner], self.candidates if candidates is None else candidates
        again = _request_rows.rows_of(features, owner)
        return self.dense[owner], again if candidates is None else _beside(again, candidates)

    def together(self, keys: Sequence[str]) -> KeyedJaggedTensor:
        """A row a request: its features, and some features of its candidates, a bag each.

        Args:
            keys: The features of candidates that are wanted.

        Returns:
            Sparse features, ``R`` rows.

        Raises:
            ValueError: If such a feature is none of the candidates', or has not one id a
                candidate, so that a bag would not say whose they are.
        """
        for key in keys:
            if key not in self.candidates.keys():  # noqa: SIM118 - not a dictionary
                raise ValueError(f"candidates must have {key}, got {self.candidates.keys()}")
            lengths = self.candidates[key].lengths()
            if (lengths != 1).any():
                raise ValueError(
                    f"candidates must have one id each in {key}, got {int(lengths.min())} to "
                    f"{int(lengths.max())}"
                )
        counts = self.counts.to(self.candidates.lengths().dtype)
        bags = KeyedJaggedTensor(
            keys=list(keys),
            values=torch.cat([self.candidates[key].values() for key in keys]),
            lengths=counts.repeat(len(keys)),
        )
        return _beside(self.features, bags)

    def request_rows(self) -> KeyedJaggedTensor:
        """A row a request; the features of candidates are empty bags.

        Returns:
            All sparse features, ``R`` rows.
        """
        return _beside(self.features, _empty(self.candidates, self.features.stride()))

    def candidate_rows(self) -> KeyedJaggedTensor:
        """A row a candidate; the features of requests are empty bags.

        Returns:
            All sparse features, ``N`` rows.
        """
        return _beside(_empty(self.features, self.candidates.stride()), self.candidates)


def _chosen(features: KeyedJaggedTensor, keys: Sequence[str]) -> KeyedJaggedTensor | None:
    places = [place for place, key in enumerate(features.keys()) if key in keys]
    return _unweighted(features).permute(places) if places else None


def _empty(like: KeyedJaggedTensor, rows: int) -> KeyedJaggedTensor:
    like = _unweighted(like)
    return KeyedJaggedTensor(
        keys=like.keys(),
        values=like.values()[:0],
        lengths=like.lengths().new_zeros(len(like.keys()) * rows),
    )


def _beside(left: KeyedJaggedTensor, right: KeyedJaggedTensor) -> KeyedJaggedTensor:
    left, right = _unweighted(left), _unweighted(right)
    lengths = [left.lengths(), right.lengths()]
    return KeyedJaggedTensor(
        keys=[*left.keys(), *right.keys()],
        values=torch.cat([left.values(), right.values()]),
        lengths=torch.cat([each.to(lengths[0].dtype) for each in lengths]),
    )


def _unweighted(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Weights would be lost on the way, so there must be none."""
    if features.weights_or_none() is not None:
        raise ValueError(f"requests must have no weights, got some of {features.keys()}")
    return features
