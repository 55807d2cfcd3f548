"""HyFormer against late fusion: the same sequences, read once more after they have met, or not.

Every arm has the same tokens: one query of each behaviour type's sequence, and the other features
in a few non-sequential tokens, the candidate first. Every arm reads each sequence with the same
attentions, twice:

* ``hyformer``: all queries read, all tokens meet, all queries read again, all tokens meet again;
* ``late_mixer``: the same parts in the other order. Both readings at once, added; then all tokens
  meet twice. Equal parameters, equal arithmetic;
* ``late_fusion``: both readings at once, added; then all tokens side by side go through a dense
  network of as many parameters as the mixers had;
* ``hyformer_shared``: as ``hyformer``, but all sequences start with the same query;
* ``hyformer_kept``: as ``hyformer``, but readings add up, and the first queries are asked again
  with all of them (``KeepingHyFormer``);
* ``late_mixer_mean``: as ``late_mixer``, with the mean of both readings in place of their sum;
* ``..._null``: which type an event had is shuffled among all events of its user.

Shapes: ``B`` rows, ``S`` sequences, ``M`` non-sequential tokens, ``T = S + M``, ``D`` width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import RowEmbedding, tower
from benchmarks.sequence_groups import Groups, loss_of_groups
from benchmarks.sequence_rows import Cut, Events, SequenceBatch, SequenceRows
from benchmarks.sequence_settings import Arm
from benchmarks.sequence_training import Recipe
from sidrank.layers import CrossAttention
from sidrank.layers.rank_mixer import PerTokenFFN
from sidrank.sequences.hyformer import (
    HyFormer,
    HyFormerBlock,
    HyFormerQueries,
    KeepingHyFormer,
    QueryBoosting,
)

__all__ = ["ARMS", "AroundTheCandidate", "LateMixer", "SeveralSequences", "types_shuffled"]

WIDTH, ROUNDS, HIDDEN, GROUP = 32, 2, 32, 6
CUT = Cut(length=1, per_type=12)
RECIPE = Recipe(step=4e-3, batch=64, epochs=3, patience=3, share=0.25)
_BRIEF = {"movielens_per_user": Recipe(step=4e-3, batch=64, epochs=2, share=0.25)}
_TOKENS = 5  # the candidate, its page, place and style, the quarter of the day, the user


class SeveralSequences(nn.Module):
    """Tokens and sequences of a row, what reads them, and the decision.

    Args:
        rows: The log.
        fuse: Name of what makes tokens ``[B, C, T, D]`` of tokens ``[B, C, M, D]`` and sequences.
        shuffled: The log to read sequences from; None is ``rows``.
    """

    def __init__(self, rows: SequenceRows, fuse: str, shuffled: SequenceRows | None = None) -> None:
        super().__init__()
        self.cut = CUT
        self.types = rows.types
        self.shuffled = shuffled
        self.groups = Groups(rows, GROUP)
        tokens = len(self.types) + _TOKENS
        dim = WIDTH // tokens * tokens
        self.embed = RowEmbedding(rows, dim)
        self.place = nn.Embedding(CUT.per_type, dim)
        nn.init.normal_(self.place.weight, std=0.1)
        self.placed = nn.Linear(2 * dim, dim)
        self.user = nn.Linear(len(rows.static_names) * dim, dim)
        self.fuse = _FUSED[fuse](len(self.types), dim)
        self.pairs = torch.triu_indices(tokens, tokens, 1)
        dense = fuse == "late_fusion"
        inputs = tokens * dim + self.pairs.shape[1]
        self.decide = _dense(inputs, _mixers(tokens, dim)) if dense else tower(inputs)

    def forward(self, batch: SequenceBatch) -> Tensor:
        return self.logits(self.tokens(batch).unsqueeze(1), *self.past(batch)).squeeze(1)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Of several requests that share their histories."""
        requests, real = self.groups.requests(batch)
        tokens = self.tokens(requests).unflatten(0, real.shape)
        return loss_of_groups(self.logits(tokens, *self.past(batch)), requests.label, real)

    def logits(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Of each candidate, ``[B, C]``."""
        told = self.fuse(tokens, sequences, masks)
        products = (told @ told.transpose(2, 3))[:, :, self.pairs[0], self.pairs[1]]
        return self.decide(torch.cat([told.flatten(2), products], dim=2)).squeeze(2)

    def tokens(self, batch: SequenceBatch) -> Tensor:
        """Non-sequential tokens, ``[B, M, D]``."""
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        page, slot, style, cell = request[:, :4].unbind(dim=1)
        user = self.user(request[:, 4:].flatten(1))
        placed = self.placed(torch.cat([slot, style], dim=1))
        return torch.stack([item, page, placed, cell, user], dim=1)

    def past(self, batch: SequenceBatch) -> tuple[list[Tensor], list[Tensor]]:
        """The sequence of each type, and which of its places are real."""
        batch = batch if self.shuffled is None else self.shuffled.batch(batch.row, self.cut)
        events = [batch.by_type[name] for name in self.types]
        together = Events(
            fields={
                name: torch.cat([each.fields[name] for each in events], dim=1)
                for name in events[0].fields
            },
            times=torch.cat([each.times for each in events], dim=1),
            mask=torch.cat([each.mask for each in events], dim=1),
        )
        states = self.embed.behaviours(together, batch.time).split(self.cut.per_type, dim=1)
        return [each + self.place.weight for each in states], [each.mask for each in events]


class LateMixer(nn.Module):
    """The parts of a ``HyFormer``; what the sequences say meets after everything was read.

    Args:
        model: Whose parts.
        weight: Of each reading in their sum.
    """

    def __init__(self, model: HyFormer, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.queries = model.queries
        self.blocks: Any = model.blocks

    def forward(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        rows, candidates = tokens.shape[:2]
        queries = self.queries(tokens, sequences, masks).squeeze(3)  # [B, C, S, D]
        told = [tokens]
        for s, (sequence, mask) in enumerate(zip(sequences, masks, strict=True)):
            answers = [block.decoders[s](queries[:, :, s], sequence, mask) for block in self.blocks]
            told.insert(s, (self.weight * torch.stack(answers).sum(dim=0)).unsqueeze(2))
        mixed = torch.cat(told, dim=2).flatten(0, 1)
        for block in self.blocks:
            mixed = block.boosting(mixed)
        return mixed.unflatten(0, (rows, candidates))


class AroundTheCandidate(nn.Module):
    """First queries that start from the candidate, so that all arms match it from the first step.

    Args:
        queries: Makes one for each sequence.
        shared: Whether every sequence gets the mean of them: as many parameters, one query.
    """

    def __init__(self, queries: HyFormerQueries, *, shared: bool = False) -> None:
        super().__init__()
        self.queries = queries
        self.shared = shared

    def forward(self, tokens: Tensor, sequences: list[Tensor], masks: list[Tensor]) -> Tensor:
        own = self.queries(tokens, sequences, masks)
        if self.shared:
            own = own.mean(dim=2, keepdim=True).expand_as(own)
        return own + tokens[:, :, :1].unsqueeze(2)


def types_shuffled(rows: SequenceRows, seed: int) -> SequenceRows:
    """The same events, their types in a random order within each user."""
    draws = torch.Generator().manual_seed(seed)
    kind = rows.events["kind"]
    owner = torch.searchsorted(rows.first, torch.arange(len(kind)), right=True)
    order = torch.randperm(len(kind), generator=draws)
    order = order[owner[order].argsort(stable=True)]  # by user, at random inside
    return replace(rows, events=rows.events | {"kind": kind[order]}, _typed={})


def _hyformer(sequences: int, dim: int, *, shared: bool = False) -> HyFormer:
    tokens = sequences + _TOKENS
    queries = HyFormerQueries(
        num_tokens=_TOKENS, dim=dim, sequence_dims=[dim] * sequences, hidden=dim
    )
    return HyFormer(
        queries=AroundTheCandidate(queries, shared=shared),
        blocks=[
            HyFormerBlock(
                decoders=[_decoder(dim) for _ in range(sequences)],
                boosting=QueryBoosting(num_tokens=tokens, dim=dim, ffn=_mixer(tokens, dim)),
            )
            for _ in range(ROUNDS)
        ],
    )


def _kept(sequences: int, dim: int) -> HyFormer:
    model = _hyformer(sequences, dim)
    return KeepingHyFormer(queries=model.queries, blocks=list(model.blocks))


def _shared(sequences: int, dim: int) -> HyFormer:
    return _hyformer(sequences, dim, shared=True)


def _late_mixer(sequences: int, dim: int) -> LateMixer:
    return LateMixer(_hyformer(sequences, dim))


def _late_mixer_mean(sequences: int, dim: int) -> LateMixer:
    return LateMixer(_hyformer(sequences, dim), weight=1 / ROUNDS)


def _late_fusion(sequences: int, dim: int) -> LateMixer:
    model = _late_mixer(sequences, dim)
    for block in model.blocks:
        block.boosting = nn.Identity()
    return model


_FUSED = {
    "hyformer": _hyformer,
    "hyformer_kept": _kept,
    "hyformer_shared": _shared,
    "late_mixer": _late_mixer,
    "late_mixer_mean": _late_mixer_mean,
    "late_fusion": _late_fusion,
}


def _decoder(dim: int) -> CrossAttention:
    """Born to look for what is like the query, and to hand it over."""
    attend = CrossAttention(dim=dim, query_dim=dim, key_dim=dim, num_heads=2)
    with torch.no_grad():
        nn.init.orthogonal_(attend.query.weight, gain=dim**0.25)
        attend.key.weight.copy_(attend.query.weight)
        nn.init.orthogonal_(attend.value.weight)
        attend.out.weight.copy_(attend.value.weight.T)
    return attend


def _mixer(tokens: int, dim: int) -> PerTokenFFN:
    """Born silent: what was read arrives as it is, in every arm."""
    ffn = PerTokenFFN(num_tokens=tokens, dim=dim, hidden=HIDDEN)
    with torch.no_grad():
        ffn.out.weight.zero_()
        ffn.out.bias.zero_()
    return ffn


def _mixers(tokens: int, dim: int) -> int:
    """Parameters of the mixers of all rounds."""
    return ROUNDS * tokens * ((dim + 1) * HIDDEN + (HIDDEN + 1) * dim)


def _dense(inputs: int, more: int, hidden: int = 64) -> nn.Sequential:
    """``tower``, its first layer wider by as many parameters as ``more``."""
    own = (inputs + 1) * hidden + (hidden + 1) * hidden + hidden + 1
    wide = hidden
    while (inputs + 1) * (wide + 1) + (wide + 2) * hidden + 2 * hidden + 1 <= own + more:
        wide += 1
    return nn.Sequential(
        nn.Linear(inputs, wide), nn.SiLU(), nn.Linear(wide, hidden), nn.SiLU(),
        nn.Linear(hidden, 1),
    )  # fmt: skip


def _built(fuse: str, *, shuffled: bool = False) -> Callable[[SequenceRows, int], nn.Module]:
    def build(rows: SequenceRows, seed: int) -> nn.Module:
        return SeveralSequences(rows, fuse, types_shuffled(rows, seed) if shuffled else None)

    return build


_PLANTED = ("types",)
_ALL = (*_PLANTED, "movielens_per_user")
ARMS = {
    "hyformer": Arm(_built("hyformer"), _ALL, "late_fusion", RECIPE, ("late_mixer",), _BRIEF),
    "late_fusion": Arm(_built("late_fusion"), _ALL, recipe=RECIPE, recipes=_BRIEF),
    "hyformer_kept": Arm(
        _built("hyformer_kept"),
        _ALL,
        "late_fusion",
        RECIPE,
        ("late_mixer", "hyformer"),
        _BRIEF,
    ),
    "late_mixer": Arm(_built("late_mixer"), _PLANTED, "late_fusion", RECIPE),
    "late_mixer_mean": Arm(_built("late_mixer_mean"), _PLANTED, "late_mixer", RECIPE),
    "hyformer_shared": Arm(_built("hyformer_shared"), _PLANTED, "hyformer", RECIPE),
    "hyformer_null": Arm(_built("hyformer", shuffled=True), _PLANTED, "hyformer", RECIPE),
    "hyformer_kept_null": Arm(
        _built("hyformer_kept", shuffled=True), _PLANTED, "hyformer_kept", RECIPE
    ),
    "late_fusion_null": Arm(_built("late_fusion", shuffled=True), _PLANTED, "late_fusion", RECIPE),
}
