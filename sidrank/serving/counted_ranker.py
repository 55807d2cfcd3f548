"""A ranker that knows by itself how often its candidates were shown.

A gate between hash IDs and semantic IDs (:class:`sidrank.layers.ResidualGate`) reads counts of
each candidate. Where no feature store joins them to the requests, they are kept here, beside the
weights that were trained with such counts: buffers, so checkpoints have them and a
:class:`~sidrank.serving.Delta` carries the rows that changed.

The counts are as of the moment they were read (:class:`sidrank.data.ExposureStatistics`), which is
before any request they serve.

Source: SID-Coord, arXiv 2604.10471 (what the gate reads); keeping it in the ranker is ours
[derived].

Shapes: ``V`` items, ``S`` statistics, ``N`` candidates, ``M`` tasks.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import RankingRequests
from sidrank.serving.candidate_scorer import Ranks

__all__ = ["CountedRanker"]


class CountedRanker(nn.Module):
    """Joins counts to the candidates of requests before they are ranked.

    Args:
        ranker: Has a method ``rank`` and reads the statistics as features of candidates.
        item: Feature of candidates with one item id each.
        statistics: Names of the features that are added.

    Raises:
        TypeError: If ``statistics`` is a single string, or the ranker cannot rank.

    Example:
        >>> class Shown(nn.Module):
        ...     def rank(self, requests):
        ...         return requests.candidates["shown"].values().float().unsqueeze(1)
        >>> ranker = CountedRanker(Shown(), item="item", statistics=["shown"])
        >>> ranker.set_counts(torch.tensor([5, 9]), torch.tensor([[100], [3]]))
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> ranker.rank(RankingRequests(
        ...     torch.zeros(1, 0), features("user", [1]), features("item", [9, 5, 7]),
        ...     torch.tensor([3]))).flatten().tolist()
        [3.0, 100.0, 0.0]
    """

    item_ids: Tensor
    counts: Tensor

    def __init__(self, ranker: nn.Module, *, item: str, statistics: Sequence[str]) -> None:
        super().__init__()
        if isinstance(statistics, str):
            raise TypeError(
                f"statistics must be a sequence of names, got the string {statistics!r}"
            )
        if not hasattr(ranker, "rank"):
            raise TypeError(f"ranker must have a method rank, got {type(ranker).__name__}")
        self.ranker = ranker
        self.item = item
        self.statistics = list(statistics)
        self.register_buffer("item_ids", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0, len(self.statistics), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_make_room)

    def set_counts(self, item_ids: Tensor, counts: Tensor) -> None:
        """Replace all counts; while training, between two steps and never on a served version.

        Args:
            item_ids: Items in ascending order, each once, integer ``[V]``.
            counts: Their counts, integer ``[V, S]``. Other items have counts of 0.

        Raises:
            ValueError: If the items do not ascend, or shapes or kinds do not fit.
        """
        if item_ids.dim() != 1 or item_ids.is_floating_point():
            raise ValueError(
                "item_ids must be an integer vector, got"
                f" {item_ids.dtype} of shape {list(item_ids.shape)}"
            )
        if not bool((item_ids[1:] > item_ids[:-1]).all()):
            raise ValueError("item_ids must ascend, got an item that is not above the one before")
        wanted = [len(item_ids), len(self.statistics)]
        if list(counts.shape) != wanted or counts.is_floating_point():
            raise ValueError(
                f"counts must be integers of shape {wanted}, got"
                f" {counts.dtype} of shape {list(counts.shape)}"
            )
        self.item_ids = item_ids.to(self.item_ids.device, torch.int64, copy=True)
        self.counts = counts.to(self.counts.device, torch.int64, copy=True)

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request.

        Args:
            requests: The requests, without the statistics.

        Returns:
            Logits, shape ``[N, M]``.

        Raises:
            ValueError: If a candidate has not one item id, or the requests bring statistics.
        """
        return cast(Ranks, self.ranker).rank(
            requests._replace(candidates=self._joined(requests.candidates))
        )

    def _joined(self, candidates: KeyedJaggedTensor) -> KeyedJaggedTensor:
        if twice := sorted(set(self.statistics) & set(candidates.keys())):
            raise ValueError(f"candidates must not bring statistics, got {twice}")
        asked = candidates[self.item]
        if bool((asked.lengths() != 1).any()):
            raise ValueError(f"candidates must have one id each in {self.item}, got others")
        counts = self._of(asked.values())
        lengths = candidates.lengths()
        return KeyedJaggedTensor(
            keys=[*candidates.keys(), *self.statistics],
            values=torch.cat([candidates.values(), counts.t().reshape(-1).to(candidates.values())]),
            lengths=torch.cat([lengths, lengths.new_ones(counts.numel())]),
        )

    def _of(self, ids: Tensor) -> Tensor:
        if not len(self.item_ids):
            return self.counts.new_zeros(len(ids), len(self.statistics))
        place = torch.searchsorted(self.item_ids, ids.long()).clamp(max=len(self.item_ids) - 1)
        known = self.item_ids[place] == ids
        return self.counts[place] * known.unsqueeze(1)


def _make_room(module: CountedRanker, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint may know more items or fewer."""
    for name in ("item_ids", "counts"):
        if isinstance(saved := state.get(prefix + name), Tensor):
            setattr(module, name, getattr(module, name).new_zeros(saved.shape))
