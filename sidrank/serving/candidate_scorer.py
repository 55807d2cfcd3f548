"""Scores for the candidates of requests: the user once, the candidates in even batches.

A ranker that implements :class:`Ranks` reads what belongs to a request once and every candidate
once. Requests come with different numbers of candidates, and such a ranker pads them to the
largest: so requests are put together by their number, and a batch is closed when its padded
candidates are as many as it may hold. A request with more than that is cut.

Nothing of a model is known here but ``rank``.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``M`` tasks.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sidrank.embeddings import RankingRequests

__all__ = ["CandidateScorer", "Ranks"]


class Ranks(Protocol):
    """A ranker that scores the candidates of a request together, each as if it were alone."""

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score.

        Args:
            requests: The requests.

        Returns:
            Logits, shape ``[N, M]``, request after request.
        """
        ...


@runtime_checkable
class _Pins(Protocol):
    """What may be another ranker at the next call, unless it is held."""

    def pin(self) -> AbstractContextManager[Ranks]: ...


class CandidateScorer:
    """Scores any number of requests with any numbers of candidates.

    Args:
        model: The ranker, in evaluation mode where it has modes; or
            :class:`~sidrank.serving.Versions` of one: each call of :meth:`score` is then answered
            by one version, though it may need several calls of the model.
        most_candidates: Candidates in one call of the model, padding included.

    Raises:
        ValueError: If ``most_candidates`` is less than one.

    Example:
        >>> from torchrec import KeyedJaggedTensor
        >>> class Sum:
        ...     def rank(self, requests):
        ...         shown = requests.candidates["item"].values()
        ...         return (requests.dense[requests.owner(), 0] + shown).unsqueeze(1)
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.tensor([[10.0], [20.0], [30.0]]), features("user", [7, 8, 9]),
        ...     features("item", [1, 2, 3]), torch.tensor([2, 0, 1]))
        >>> [logits.flatten().tolist() for logits in CandidateScorer(Sum()).score(asked)]
        [[11.0, 12.0], [], [33.0]]
    """

    def __init__(self, model: Ranks, *, most_candidates: int = 4096) -> None:
        if most_candidates < 1:
            raise ValueError(f"most_candidates must be at least 1, got {most_candidates}")
        if getattr(model, "training", False):
            raise ValueError("model must be in evaluation mode, got one that trains: call eval()")
        self.model = model
        self.most_candidates = most_candidates

    @torch.inference_mode()
    def score(self, requests: RankingRequests) -> list[Tensor]:
        """Score the candidates of each request.

        Args:
            requests: The requests; one may have no candidate.

        Returns:
            Logits of each request, shape ``[candidates, M]``, in the order they came in.

        Raises:
            ValueError: If the parts of the requests do not fit each other, or the model does not
                give a row a candidate.
        """
        _check_fit(requests)
        held = self.model.pin() if isinstance(self.model, _Pins) else nullcontext(self.model)
        with held as model:
            return self._score(model, requests)

    def _score(self, model: Ranks, requests: RankingRequests) -> list[Tensor]:
        counts = requests.counts.tolist()
        starts = (requests.counts.cumsum(0) - requests.counts).tolist()
        spots = torch.arange(requests.candidates.stride(), device=requests.counts.device)
        found: list[list[Tensor]] = [[] for _ in counts]
        width = 1
        for group in self._groups(counts):
            places = [at for at, _, _ in group]
            sizes = [end - first for _, first, end in group]
            some = requests
            if sizes != counts:  # else all of them, in their order
                asked = torch.tensor(places, device=spots.device)
                index = torch.cat(
                    [spots[starts[at] + first : starts[at] + end] for at, first, end in group]
                )
                some = requests.chosen(asked, index, requests.counts.new_tensor(sizes))
            logits = model.rank(some)
            if logits.dim() != 2 or logits.shape[0] != sum(sizes):
                raise ValueError(
                    f"model must give logits of shape [{sum(sizes)}, M], got {list(logits.shape)}"
                )
            width = logits.shape[1]
            for place, part in zip(places, logits.split(sizes), strict=True):
                found[place].append(part)
        none = requests.dense.new_zeros(0, width)
        return [torch.cat(parts) if parts else none for parts in found]

    def _groups(self, counts: list[int]) -> Iterator[list[tuple[int, int, int]]]:
        """Requests of about as many candidates: (request, first candidate, end) each."""
        pieces = [
            (place, start, min(start + self.most_candidates, count))
            for place, count in enumerate(counts)
            for start in range(0, count, self.most_candidates)
        ]
        # largest first, and the pieces of a request stay in their order
        pieces.sort(key=lambda piece: piece[1] - piece[2])
        group: list[tuple[int, int, int]] = []
        for piece in pieces:
            size = group[0][2] - group[0][1] if group else 0
            if group and size * (len(group) + 1) > self.most_candidates:
                yield group
                group = []
            group.append(piece)
        if group:
            yield group


def _check_fit(requests: RankingRequests) -> None:
    features, candidates = requests.features, requests.candidates
    rows = features.stride()
    if list(requests.counts.shape) != [rows]:
        raise ValueError(f"counts must have shape [{rows}], got {list(requests.counts.shape)}")
    if requests.dense.dim() != 2 or requests.dense.shape[0] != rows:
        raise ValueError(f"dense must have shape [{rows}, D], got {list(requests.dense.shape)}")
    if rows and int(requests.counts.min()) < 0:
        raise ValueError(f"counts must not be negative, got {int(requests.counts.min())}")
    if int(requests.counts.sum()) != candidates.stride():
        raise ValueError(
            f"counts must add up to the {candidates.stride()} rows of candidates, "
            f"got {int(requests.counts.sum())}"
        )
    if twice := sorted(set(features.keys()) & set(candidates.keys())):
        raise ValueError(f"candidates must not repeat features of the request, got {twice}")
