"""Our rankers of the MovieLens study: one host, and ways to read what the user rated before.

The host is a linear part over all one-hot ids and numbers, products of embeddings (FM) and layers
behind a ``GateNU`` that hears how much is known of user and item. The layers read every number
that is not an entry of a vector through ``PiecewiseLinearEmbedding``, as trees read it: by where it
falls. What the host reads of the past:

* ``sidrank DIN``: ``sidrank.towers.DIN``, keys are item, semantic ID, genres, vector, stars, age;
* ``sidrank SituationTower``: types are disliked and liked, situations stars, age and surprise, of
  the newest twenty ratings (for its time);
* ``sidrank LeastSquaresRead``: a linear model of each user's stars, fitted as of the request in
  six spaces: four that are given (the other surface's vector alone, with genres, its co-like part,
  genres alone) and two of ``sidrank.data.factor_vectors``, fitted to other users' ratings. No
  gradient moves them, so its answers are found once for all rows;
* ``sidrank host``: nothing;
* ``null: stars dealt anew``: as the least squares, each user's stars shuffled among his items;
* ``control: given spaces alone``: as the least squares, without the fitted spaces;
* ``control: numbers as they are``: as the least squares, the layers read numbers alone.

Shapes: ``B`` rows, ``L`` past ratings, ``V`` items, ``D`` vector.
"""

import weakref
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.movielens_peers_rows import Batch, PeerRows
from sidrank.layers import GateNU, SoftDiscretization
from sidrank.layers.piecewise_linear_encoding import (
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
)
from sidrank.towers import DIN, SituationTower
from sidrank.towers.least_squares import LeastSquaresRead

__all__ = ["AS_THEY_ARE", "DEALT", "GIVEN", "OURS", "Host", "Knobs", "least_squares"]

_CO_LIKES = 32  # leading entries of the vectors, see ``sidrank.demo.item_vectors``
_TOWER = 16
_NEWEST = 20  # past ratings that the situation tower reads, for its time
_kept: "weakref.WeakKeyDictionary[PeerRows, dict[tuple[bool, bool], Tensor]]" = (
    weakref.WeakKeyDictionary()
)
_CURVE = 8  # width of a number's embedding
DEALT = "null: stars dealt anew"
GIVEN = "control: given spaces alone"
AS_THEY_ARE = "control: numbers as they are"


@dataclass(frozen=True)
class Knobs:
    """What is tuned; alike for all models that have it.

    Attributes:
        width: Of the embeddings.
        hidden: Units of each dense layer.
        dropout: Share of hidden units.
        rate: Step size of dense layers (AdamW).
        decay: Their weight decay.
        table_rate: Step size of tables.
        table_decay: Their weight decay.
        unseen: Share of the user ids, and of the item ids, that training hides.
    """

    width: int = 8
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.2
    rate: float = 1e-3
    decay: float = 0.1
    table_rate: float = 1e-3
    table_decay: float = 1.0
    unseen: float = 0.1


class Host(nn.Module):
    """Linear, products and layers over what all rankers are given, and what a reader adds."""

    def __init__(
        self,
        rows: PeerRows,
        knobs: Knobs,
        *,
        reader: nn.Module | None = None,
        out: int = 0,
        found: Tensor | None = None,
        curves: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.reader = list(rows.ids), reader
        fields, width = [*self.names, "genres"], knobs.width
        self.tables = nn.ModuleDict({f: _table(rows.sizes[f], width) for f in fields})
        self.wide = nn.ModuleDict({f: _table(rows.sizes[f], 1, std=0.0) for f in fields})
        # what was found of the past once and for all are numbers like the others
        self.numbers = rows.numbers if found is None else torch.cat([rows.numbers, found], dim=1)
        numbers = self.numbers.shape[1] + out
        self.linear = nn.Linear(numbers, 1)
        nn.init.zeros_(self.linear.weight)
        self.known = [rows.names.index(n) for n in ("user_count", "item_count", "user_gap")]
        inputs = width * len(fields) + numbers
        self.curves = None
        if curves:
            entries = [i for i, name in enumerate(rows.names) if name.startswith("vector_")]
            self.curved = [i for i in range(self.numbers.shape[1]) if i not in entries]
            learn = self.numbers[rows.parts["learn"]][:, self.curved]
            encoding = PiecewiseLinearEncoding.of(learn)
            self.curves = PiecewiseLinearEmbedding(encoding=encoding, dim=_CURVE)
            inputs += _CURVE * len(self.curved)
        layers: list[nn.Module] = []
        for units in knobs.hidden:
            layers += [nn.Linear(inputs, units), nn.PReLU(), nn.Dropout(knobs.dropout)]
            inputs = units
        self.layers = nn.Sequential(*layers)
        self.gate = GateNU(context_dim=len(self.known), dim=inputs)
        self.out = nn.Linear(inputs, 1)

    def forward(self, batch: Batch) -> Tensor:
        ids = {**batch.ids, "genres": batch.genres}
        numbers = self.numbers[batch.place]
        parts: list[Tensor] = []
        if self.curves is not None:
            parts.append(self.curves(numbers[:, self.curved]).flatten(1))
        if self.reader is not None:
            numbers = torch.cat([numbers, self.reader(batch, self.tables)], dim=1)
        each = [_summed(self.tables[f], ids[f]) for f in (*self.names, "genres")]
        first = sum(_summed(self.wide[f], ids[f]).squeeze(1) for f in (*self.names, "genres"))
        x = torch.stack(each, dim=1)
        products = 0.5 * (x.sum(dim=1) ** 2 - (x**2).sum(dim=1)).sum(dim=1)
        hidden = self.layers(torch.cat([x.flatten(1), numbers, *parts], dim=1))
        deep = self.out(self.gate(hidden, batch.numbers[:, self.known])).squeeze(1)
        return self.linear(numbers).squeeze(1) + first + products + deep


class _Items(nn.Module):
    """Item id, semantic ID, genres and vector as one vector; shares the host's tables."""

    def __init__(self, rows: PeerRows, knobs: Knobs) -> None:
        super().__init__()
        self.vectors, self.codes, self.genres = rows.vectors, rows.codes, rows.item_genres
        self.from_vector = nn.Linear(rows.vectors.shape[1], _TOWER)
        self.from_tables = nn.Linear(knobs.width, _TOWER, bias=False)

    def forward(self, item: Tensor, raw: Tensor, tables: nn.ModuleDict) -> Tensor:
        x = tables["item"](item) + tables["genres"](self.genres[raw]).sum(dim=-2)
        for level in range(self.codes.shape[1]):
            x = x + tables[f"code_{level}"](self.codes[raw][..., level])
        return self.from_vector(self.vectors[raw]) + self.from_tables(x)


class DINReader(nn.Module):
    """DIN over items with their stars and their age."""

    def __init__(self, rows: PeerRows, knobs: Knobs) -> None:
        super().__init__()
        self.items = _Items(rows, knobs)
        self.stars, self.gap = _table(6, _TOWER, std=0.1), _table(8, _TOWER, std=0.1)
        self.above = SoftDiscretization(dim=_TOWER, bins=8)
        self.tower = DIN(dim=_TOWER, hidden=(32,), softmax=True)

    def forward(self, batch: Batch, tables: nn.ModuleDict) -> Tensor:
        wanted = self.items(batch.ids["item"], batch.raw, tables)
        seen = self.items(batch.past_item, batch.past_raw, tables)
        seen = seen + self.stars(batch.past_stars) + self.gap(batch.past_gap)
        seen = seen + self.above(batch.past_above)
        return self.tower(wanted.unsqueeze(1), seen, batch.past_item > 0).squeeze(1)


class SituationReader(nn.Module):
    """SituationTower: disliked and liked are the types."""

    def __init__(self, rows: PeerRows, knobs: Knobs) -> None:
        super().__init__()
        self.items = _Items(rows, knobs)
        dim = 8
        self.stars, self.gap = _table(6, dim, std=0.1), _table(8, dim, std=0.1)
        self.above = SoftDiscretization(dim=dim, bins=8)
        self.hour, self.sitting = _table(25, dim, std=0.1), SoftDiscretization(dim=dim, bins=8)
        self.place = rows.names.index("user_sitting")
        self.tower = SituationTower.of(
            item_dim=_TOWER, dim=dim, num_fields=3, num_request_fields=2, num_types=3, out=8
        )

    def forward(self, batch: Batch, tables: nn.ModuleDict) -> Tensor:
        wanted = self.items(batch.ids["item"], batch.raw, tables).unsqueeze(1)
        seen = self.items(batch.past_item[:, :_NEWEST], batch.past_raw[:, :_NEWEST], tables)
        real = batch.past_item > 0
        fields = [self.stars(batch.past_stars), self.gap(batch.past_gap)]
        situation = torch.stack([*fields, self.above(batch.past_above)], dim=2)[:, :_NEWEST]
        request = [self.hour(batch.ids["hour"]), self.sitting(batch.numbers[:, self.place])]
        types = torch.where(real, 1 + (batch.past_stars >= 4).long(), 0)[:, :_NEWEST]
        real = real[:, :_NEWEST]
        # newest first, and all of them earlier than the request
        place = torch.arange(real.shape[1], 0, -1).expand(real.shape)
        now = place.new_full((len(real),), real.shape[1] + 1)
        read = torch.stack(request, dim=1)
        return self.tower(wanted, seen, situation, read, types, real, place, now)[0].squeeze(1)


@torch.no_grad()
def least_squares(rows: PeerRows, *, dealt: bool = False, fitted: bool = True) -> Tensor:
    """Each row's fit of the user's past in every space: stars, likes and what is unknown.

    Scales and noises of the spaces that are not fitted were chosen on the validation rows of the
    per-user split.

    Args:
        rows: The rows.
        dealt: Whether a user's stars are dealt anew among his past items: the null.
        fitted: Whether the fitted spaces are read, too.

    Returns:
        Standardised by the rows to learn from, three numbers a space, shape ``[R, 3 S]``.
    """
    kept = _kept.setdefault(rows, {})
    if (dealt, fitted) in kept:
        return kept[dealt, fitted]
    if fitted:
        found = [least_squares(rows, dealt=dealt, fitted=False)]
        for vectors, noise in rows.tastes:
            parts = torch.empty(len(rows.raw), 3)
            for fold, (space, own) in enumerate(zip(vectors, noise, strict=True)):
                place = (rows.fold == fold).nonzero().squeeze(1)
                parts[place] = _read(rows, space, float(own), place, dealt=dealt)
            found.append(_standard(parts, rows))
    else:
        place = torch.arange(len(rows.raw))
        found = [
            _standard(_read(rows, space, noise, place, dealt=dealt), rows)
            for space, noise in _given_spaces(rows)
        ]
    kept[dealt, fitted] = torch.cat(found, dim=1)
    return kept[dealt, fitted]


def _given_spaces(rows: PeerRows) -> list[tuple[Tensor, float]]:
    """Spaces of what is known of items without the ranker's log, and their noise."""
    vectors, one = rows.vectors, torch.ones(len(rows.vectors), 1)
    like = vectors[:, :_CO_LIKES]
    genres = torch.zeros(len(vectors), rows.sizes["genres"]).scatter_(1, rows.item_genres, 1.0)
    genres = genres[:, 1:] / genres[:, 1:].sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    whole = vectors / vectors[1:].pow(2).sum(dim=1).mean().sqrt()
    like = like / like[1:].pow(2).sum(dim=1).mean().sqrt()
    return [
        (torch.cat([one, 1.5 * whole], dim=1), 1.0),
        (torch.cat([one, whole, 0.5 * genres], dim=1), 3.0),
        (torch.cat([one, 2 * like], dim=1), 1.0),
        (torch.cat([0.5 * one, genres], dim=1), 2.0),
    ]


def _read(rows: PeerRows, space: Tensor, noise: float, place: Tensor, *, dealt: bool) -> Tensor:
    """Stars and likes that a space expects of the named rows, and how little it knows."""
    read, parts = LeastSquaresRead(dim=space.shape[1], noise=noise), [torch.empty(0, 3)]
    for part in place.split(1024):
        liked = (rows.past_stars[part] >= 4).float() - 0.5
        answers, real = torch.stack([rows.past_above[part], liked], 2), rows.past_item[part] > 0
        if dealt:
            chance = torch.rand(real.shape, generator=torch.Generator().manual_seed(int(part[0])))
            order = (chance + 2 * ~real).argsort(dim=1)  # what is real comes first, as it did
            answers = answers.gather(1, order.unsqueeze(2).expand_as(answers))
        past, target = space[rows.past_raw[part]], space[rows.raw[part]].unsqueeze(1)
        mean, variance = read(target, past, answers, real)
        parts.append(torch.cat([mean.squeeze(1), (variance + 1e-3).log()], dim=1))
    return torch.cat(parts)


def _standard(x: Tensor, rows: PeerRows) -> Tensor:
    learn = x[rows.parts["learn"]]
    return (x - learn.mean(dim=0)) / (learn.std(dim=0) + 1e-6)


def _table(size: int, width: int, *, std: float = 0.01) -> nn.Embedding:
    table = nn.Embedding(size, width, padding_idx=0)
    with torch.no_grad():
        table.weight.normal_(std=std) if std else table.weight.zero_()
        table.weight[0] = 0
    return table


def _summed(table: nn.Module, ids: Tensor) -> Tensor:
    """Rows of a table; of a bag their sum."""
    return table(ids) if ids.dim() == 1 else table(ids).sum(dim=1)


def _host(rows: PeerRows, knobs: Knobs) -> nn.Module:
    return Host(rows, knobs)


def _din(rows: PeerRows, knobs: Knobs) -> nn.Module:
    return Host(rows, knobs, reader=DINReader(rows, knobs), out=_TOWER)


def _situation(rows: PeerRows, knobs: Knobs) -> nn.Module:
    reader = SituationReader(rows, knobs)
    return Host(rows, knobs, reader=reader, out=reader.tower.out_dim)


def _least_squares(
    rows: PeerRows, knobs: Knobs, *, dealt: bool = False, fitted: bool = True, curves: bool = True
) -> nn.Module:
    return Host(rows, knobs, found=least_squares(rows, dealt=dealt, fitted=fitted), curves=curves)


OURS = {
    "sidrank host": _host,
    "sidrank DIN": _din,
    "sidrank SituationTower": _situation,
    "sidrank LeastSquaresRead": _least_squares,
    DEALT: partial(_least_squares, dealt=True),
    GIVEN: partial(_least_squares, fitted=False),
    AS_THEY_ARE: partial(_least_squares, curves=False),
}
