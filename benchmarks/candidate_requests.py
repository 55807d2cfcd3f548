"""What every ranker of the candidate benchmark shares: requests of random ids, and weights."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import RankingRequests
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.serving import Ranks

__all__ = ["DENSE", "ITEMS", "SMALL", "USERS", "Draw", "Ranker", "codes", "jagged", "moved"]

ITEMS, USERS, SMALL, DENSE = 100_000, 100_000, 1000, 13
SPEC = SIDSpec((256, 256, 256))
Rows = Callable[[Tensor, KeyedJaggedTensor], Tensor]
Host = TypeVar("Host", bound=nn.Module)


class Ranker(NamedTuple):
    """A model, how it scores rows, and requests for it."""

    model: Ranks
    """Scores requests."""
    rows: Rows
    """Scores rows: dense features and sparse ones, to logits ``[N, 1]``."""
    requests: Callable[[int, int], RankingRequests]
    """One request, from a number of candidates and a seed."""
    said: str
    """Its sizes, for the page."""
    layers: Callable[[int], object] | None = None
    """Layers that read nothing but a candidate, for so many: what no sharing can spare."""


class Draw:
    """Random ids."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def bag(self, number: int, rows: int) -> list[list[int]]:
        return [self.generator.integers(0, rows, number).tolist()]

    def each(self, number: int, rows: int) -> list[list[int]]:
        return self.generator.integers(0, rows, (number, 1)).tolist()

    def request(
        self, asked: dict[str, list[list[int]]], own: dict[str, list[list[int]]]
    ) -> RankingRequests:
        dense = torch.from_numpy(self.generator.random((1, DENSE), np.float32))
        counts = torch.tensor([len(next(iter(own.values())))])
        return RankingRequests(dense, jagged(asked), jagged(own), counts)


def codes() -> SIDLookup:
    drawn = np.random.default_rng(0).integers(0, 256, (ITEMS, len(SPEC.codebook_sizes)))
    return SIDLookup(SIDTable(np.arange(ITEMS), drawn, spec=SPEC))


def jagged(features: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    bags_ = [bag for column in features.values() for bag in column]
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.tensor([value for bag in bags_ for value in bag]),
        lengths=torch.tensor([len(bag) for bag in bags_], dtype=torch.int32),
    )


def moved(model: Host) -> Host:
    """No parameter is as it was born: tables and biases far, matrices near."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter.shape[1] if parameter.dim() == 2 else 100
            parameter.add_(noise, alpha=0.6 * min(fan, 100) ** -0.5)
    return model.eval()
