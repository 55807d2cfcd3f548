"""TokenFormer's arms: a vanilla decoder over fields and behaviours, BFTS, NLIR, and both.

All read one stream ``[fields; sep; behaviours; sep; target]`` through the same four layers, and
the target's last state makes the logit. The four differ in two things only: whether the two upper
layers drop the fields and attend within windows (BFTS), and whether the residual of attention is
gated (NLIR). Layers without gates have feed-forward layers wider by just as many parameters.

The null controls read the static fields of another user, the same one always. ``unified_crossed``
is no part of the comparison: it says whether a part of the logit that the stream does not read
could be read at all.

Tokens are born to look for what is like them, but not too sharply: whoever reads with himself in
sight is most like himself, and with a wider gain he reads nobody else and never learns to.

Shapes: ``B`` rows, ``L`` behaviours, ``F`` static fields, ``D`` width.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import WIDTH, RowEmbedding
from benchmarks.sequence_groups import Groups, loss_of_groups
from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows
from benchmarks.sequence_settings import Arm
from benchmarks.sequence_training import Recipe
from sidrank.sequences.bfts import BFTSEncoder

__all__ = ["ARMS", "CrossedStream", "UnifiedStream", "static_of_another"]

LAYERS, HIDDEN, LENGTH, TARGETS = 4, 21, 16, 12
WINDOWS = (8, 4)
RECIPE = Recipe(step=6e-3, batch=64, epochs=3, share=0.24)
_CONTEXT = 4  # page, slot, style, quarter of the day
_SETTINGS = ("choice", "movielens_per_user")


class UnifiedStream(nn.Module):
    """The manner of ``sidrank.models.TokenFormer`` on the rows of the study.

    Args:
        rows: The log.
        windows: Of the upper layers; none is the vanilla decoder.
        gated: Whether the residuals of attention are NLIR.
        dim: Width.
        static: Fields of each user; None are the log's own.
    """

    def __init__(
        self,
        rows: SequenceRows,
        *,
        windows: Sequence[int] = (),
        gated: bool = False,
        dim: int = WIDTH,
        static: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.cut = Cut(length=LENGTH)
        self.groups = Groups(rows, TARGETS)
        self.given = rows.static if static is None else static
        self.embed = RowEmbedding(rows, dim)
        self.context = nn.Linear(_CONTEXT * dim, dim)
        self.encoder = BFTSEncoder(
            dim=dim,
            num_heads=2,
            # an NLIR has dim * (dim + 1) parameters, a hidden unit 3 * dim
            hidden=HIDDEN if gated else HIDDEN + (dim + 1) // 3,
            full_layers=LAYERS - len(windows),
            windows=windows,
            gated=gated,
        )
        self.head = nn.Linear(dim, 1)
        _match_at_birth(self.encoder)

    def forward(self, batch: SequenceBatch) -> Tensor:
        stream = *self.past(batch), self.targets(batch).unsqueeze(1)
        return self.head(self.encoder(*stream)).squeeze(2).squeeze(1)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Of several requests that share a history."""
        requests, real = self.groups.requests(batch)
        targets = self.targets(requests).unflatten(0, real.shape)
        logits = self.head(self.encoder(*self.past(batch), targets)).squeeze(2)
        return loss_of_groups(logits, requests.label, real)

    def past(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Fields of the user, behaviours, and which are real."""
        static = replace(batch, static=self.given[batch.user])
        events = batch.behaviours
        fields = self.embed.request(static)[:, _CONTEXT:]
        return fields, self.embed.behaviours(events, batch.time), events.mask

    def targets(self, batch: SequenceBatch) -> Tensor:
        """A candidate, where and when it is shown, ``[B, D]``."""
        context = self.embed.request(batch)[:, :_CONTEXT]
        return self.embed.candidate(batch) + self.context(context.flatten(1))


class CrossedStream(UnifiedStream):
    """Is told the cross of the first static field and the candidate's topic as one id.

    Where the fields say which topic goes with which, this is what a stream would have to find.
    """

    def __init__(self, rows: SequenceRows, dim: int = WIDTH) -> None:
        super().__init__(rows, dim=dim)
        self.topics = rows.sizes["topic"]
        self.crossed = nn.Embedding(rows.sizes[rows.static_names[0]] * self.topics, dim)
        nn.init.normal_(self.crossed.weight, std=0.1)

    def targets(self, batch: SequenceBatch) -> Tensor:
        """A candidate with its cross, ``[B, D]``."""
        first = self.given[batch.user, 0]
        cross = self.crossed(first * self.topics + batch.candidate["topic"])
        return super().targets(batch) + cross


def static_of_another(rows: SequenceRows, seed: int) -> Tensor:
    """Static fields, each user's exchanged for another's, shape ``[U, F]``."""
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows.static), generator=draws)
    given = torch.empty_like(rows.static)
    given[order] = rows.static[order.roll(1)]
    return given


def _match_at_birth(encoder: BFTSEncoder) -> None:
    """Tokens look for what is like them and hand it over, from the first step, in every arm."""
    with torch.no_grad():
        for block in encoder.blocks:
            attention = block.attention
            nn.init.orthogonal_(attention.query.weight)
            attention.key.weight.copy_(attention.query.weight)
            nn.init.orthogonal_(attention.value.weight)
            attention.out.weight.copy_(attention.value.weight.T)


def _vanilla(rows: SequenceRows, seed: int) -> nn.Module:
    return UnifiedStream(rows)


def _nlir(rows: SequenceRows, seed: int) -> nn.Module:
    return UnifiedStream(rows, gated=True)


def _bfts(rows: SequenceRows, seed: int) -> nn.Module:
    return UnifiedStream(rows, windows=WINDOWS)


def _both(rows: SequenceRows, seed: int) -> nn.Module:
    return UnifiedStream(rows, windows=WINDOWS, gated=True)


def _vanilla_null(rows: SequenceRows, seed: int) -> nn.Module:
    return UnifiedStream(rows, static=static_of_another(rows, seed))


def _both_null(rows: SequenceRows, seed: int) -> nn.Module:
    static = static_of_another(rows, seed)
    return UnifiedStream(rows, windows=WINDOWS, gated=True, static=static)


def _crossed(rows: SequenceRows, seed: int) -> nn.Module:
    return CrossedStream(rows)


ARMS = {
    "unified_vanilla": Arm(_vanilla, (*_SETTINGS, "static"), recipe=RECIPE),
    "unified_nlir": Arm(_nlir, _SETTINGS, "unified_vanilla", RECIPE),
    "unified_bfts": Arm(_bfts, _SETTINGS, "unified_vanilla", RECIPE),
    "unified_both": Arm(
        _both, _SETTINGS, "unified_vanilla", RECIPE, ("unified_nlir", "unified_bfts")
    ),
    "unified_vanilla_null": Arm(_vanilla_null, ("choice",), "unified_vanilla", RECIPE),
    "unified_both_null": Arm(_both_null, ("choice",), "unified_vanilla_null", RECIPE),
    "unified_crossed": Arm(_crossed, ("static",), "unified_vanilla", RECIPE),
}
