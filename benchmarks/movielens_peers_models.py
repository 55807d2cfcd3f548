"""The other libraries' rankers of the MovieLens study, as shipped, behind one signature.

torch-rechub's ``DeepFM``, ``DCNv2`` and ``DIN``, DeepCTR-Torch's ``DIN``, and FinalMLP assembled
from FuxiCTR's ``MLP_Block`` after its model zoo, which the wheel leaves out (both gates and the
bilinear head are written down here). Every one gets all that its interface takes:

========================  ======  =====================  ==================================
model                     ids     numbers                past ratings
========================  ======  =====================  ==================================
torch-rechub DeepFM       yes     deep part              liked and disliked items, averaged
torch-rechub DCNv2        yes     yes                    liked and disliked items, averaged
torch-rechub DIN          yes     no: it drops them,     liked items and disliked items,
                                  only their buckets     a unit each
DeepCTR-Torch DIN         yes     yes                    item, semantic ID, stars, surprise
                                                         and age, one unit for all
FinalMLP, FuxiCTR's parts yes     a vector each          liked and disliked items, averaged
========================  ======  =====================  ==================================

Activations, embedding birth (deviation 1e-4) and batch norm are the libraries'. torch-rechub's and
DeepCTR-Torch's models return probabilities; their logit is taken.

Shapes: ``B`` rows, ``F`` numbers, ``L`` past ratings.
"""

import sys
import types
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.movielens_peers_ours import Knobs
from benchmarks.movielens_peers_rows import Batch, PeerRows

__all__ = ["PEERS"]

_PAST = {"liked": "item", "disliked": "item"}
_UNKNOWN = 1  # stars, surprise and age of the candidate itself


class Rechub(nn.Module):
    """A model of torch-rechub: a dictionary in, a probability out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        given = {**batch.ids, "genres": batch.genres, "numbers": batch.numbers}
        given |= {"item_again": batch.ids["item"]}
        return _logit(self.model(given | _liked_and_not(batch)))


class DeepCTR(nn.Module):
    """A model of DeepCTR-Torch: one matrix of floats in, a probability out."""

    def __init__(self, rows: PeerRows, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names, self.codes = model, names, rows.codes[:, 1]

    def forward(self, batch: Batch) -> Tensor:
        length = (batch.past_item > 0).sum(dim=1)
        own = {name: torch.full_like(length, _UNKNOWN) for name in ("stars", "above", "gap")}
        given = {**batch.ids, **own, "genres": batch.genres, "numbers": batch.numbers}
        given |= {"length": length, "hist_item": batch.past_item}
        given |= {"hist_code_1": self.codes[batch.past_raw]}
        given |= {"hist_stars": _shifted(batch.past_stars), "hist_gap": _shifted(batch.past_gap)}
        given |= {"hist_above": _shifted(batch.past_above_bucket)}
        columns = [given[n].float() for n in self.names]
        columns = [x.unsqueeze(1) if x.dim() == 1 else x for x in columns]
        return _logit(self.model(torch.cat(columns, dim=1))).squeeze(1)


class FinalMLP(nn.Module):
    """FuxiCTR's layers, put together as its model zoo does."""

    def __init__(self, rows: PeerRows, knobs: Knobs) -> None:
        super().__init__()
        block, width = _fuxictr(), knobs.width
        self.names = list(rows.ids)
        sizes = {**rows.sizes, "liked": rows.sizes["item"], "disliked": rows.sizes["item"]}
        self.fields = [*self.names, "genres", "liked", "disliked"]
        tables = [f for f in self.fields if f not in ("liked", "disliked")]
        self.tables = nn.ModuleDict(
            {f: nn.Embedding(sizes[f], width, padding_idx=0) for f in tables}
        )
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=1e-4)
            nn.init.zeros_(table.weight[0])
        self.numbers = nn.Parameter(torch.empty(rows.numbers.shape[1], width))
        nn.init.xavier_normal_(self.numbers)
        inputs = width * (len(self.fields) + len(self.numbers))
        units = list(knobs.hidden)
        self.context = nn.ParameterList([torch.zeros(1, width), torch.zeros(1, width)])
        self.gates = nn.ModuleList(
            block(width, [64], "ReLU", output_dim=inputs, output_activation="Sigmoid")
            for _ in range(2)
        )
        self.towers = nn.ModuleList(
            block(inputs, units, "ReLU", dropout_rates=knobs.dropout) for _ in range(2)
        )
        self.first = nn.ModuleList(nn.Linear(units[-1], 1) for _ in range(2))
        self.both = nn.Parameter(torch.empty(units[-1], units[-1]))
        nn.init.xavier_normal_(self.both)

    def forward(self, batch: Batch) -> Tensor:
        given = {**batch.ids, "genres": batch.genres} | _liked_and_not(batch)
        each = [_averaged(self.tables[_PAST.get(f, f)], given[f]) for f in self.fields]
        numbers = batch.numbers.unsqueeze(2) * self.numbers
        x = torch.cat([torch.stack(each, dim=1), numbers], dim=1).flatten(1)
        parts = zip(self.towers, self.gates, self.context, strict=True)
        one, two = (tower(x * 2 * gate(context)) for tower, gate, context in parts)
        both = ((one @ self.both) * two).sum(dim=1)
        return self.first[0](one).squeeze(1) + self.first[1](two).squeeze(1) + both


def _averaged(table: nn.Module, ids: Tensor) -> Tensor:
    if ids.dim() == 1:
        return table(ids)
    return table(ids).sum(dim=1) / (ids > 0).sum(dim=1, keepdim=True).clamp(min=1)


def _liked_and_not(batch: Batch) -> dict[str, Tensor]:
    liked = batch.past_stars >= 4
    chosen = {"liked": liked, "disliked": ~liked}
    return {name: torch.where(which, batch.past_item, 0) for name, which in chosen.items()}


def _shifted(ids: Tensor) -> Tensor:
    """One more where there is something: row 1 is what is not known, the candidate's own."""
    return torch.where(ids > 0, ids + 1, 0)


def _logit(probability: Tensor) -> Tensor:
    return torch.logit(probability, eps=1e-6)


def _rechub_features(
    rows: PeerRows, width: int, pooling: str = "mean"
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Ids, bags, past and numbers as torch-rechub's feature classes."""
    kinds = import_module("torch_rechub.basic.features")
    # histories share these tables: without a padding row their padding would be read, and trained
    ids = [kinds.SparseFeature(n, rows.sizes[n], width, padding_idx=0) for n in rows.ids]
    bags = [kinds.SequenceFeature("genres", rows.sizes["genres"], width, padding_idx=0)]
    past = [
        kinds.SequenceFeature(
            name, rows.sizes[table], width, pooling=pooling, shared_with=table, padding_idx=0
        )
        for name, table in _PAST.items()
    ]
    return ids, bags, past, [kinds.DenseFeature("numbers", rows.numbers.shape[1])]


def deep_fm(rows: PeerRows, knobs: Knobs) -> nn.Module:
    ids, bags, past, _ = _rechub_features(rows, knobs.width)
    numbers = import_module("torch_rechub.basic.features").DenseFeature("numbers")
    numbers.embed_dim = rows.numbers.shape[1]
    mlp = {"dims": list(knobs.hidden), "dropout": knobs.dropout, "activation": "relu"}
    fields = [*ids, *bags, *past]
    model = import_module("torch_rechub.models.ranking.deepfm").DeepFM(
        [*fields, numbers], fields, mlp
    )
    return Rechub(model)


def dcn_v2(rows: PeerRows, knobs: Knobs) -> nn.Module:
    ids, bags, past, numbers = _rechub_features(rows, knobs.width)
    mlp = {"dims": list(knobs.hidden), "dropout": knobs.dropout, "activation": "relu"}
    made = import_module("torch_rechub.models.ranking.dcn_v2").DCNv2
    return Rechub(made([*ids, *bags, *past, *numbers], 2, mlp))


def rechub_din(rows: PeerRows, knobs: Knobs) -> nn.Module:
    """Its ``features`` are looked up without the dense ones, so those cannot be given."""
    kinds = import_module("torch_rechub.basic.features")
    ids, bags, past, _ = _rechub_features(rows, knobs.width, pooling="concat")
    item = next(f for f in ids if f.name == "item")
    # one candidate a history: the item for those liked, and again for the others
    size = item.vocab_size
    again = kinds.SparseFeature("item_again", size, knobs.width, "item", padding_idx=0)
    others = [f for f in ids if f is not item]
    mlp = {"dims": list(knobs.hidden), "dropout": knobs.dropout}
    made = import_module("torch_rechub.models.ranking.din").DIN
    return Rechub(made([*others, *bags], past, [item, again], mlp, {"dims": [32]}))


def deepctr_din(rows: PeerRows, knobs: Knobs) -> nn.Module:
    _bare("deepctr_torch")
    inputs = import_module("deepctr_torch.inputs")
    sizes = {**rows.sizes, "stars": 7, "above": 10, "gap": 9}
    columns = [
        inputs.SparseFeat(n, sizes[n], knobs.width) for n in (*rows.ids, "stars", "above", "gap")
    ]
    genres = inputs.SparseFeat("genres", sizes["genres"], knobs.width)
    columns.append(inputs.VarLenSparseFeat(genres, rows.genres.shape[1], "mean"))
    read = ["item", "code_1", "stars", "above", "gap"]
    for name in read:
        table = inputs.SparseFeat(f"hist_{name}", sizes[name], knobs.width, embedding_name=name)
        columns.append(
            inputs.VarLenSparseFeat(table, rows.past_item.shape[1], length_name="length")
        )
    columns.append(inputs.DenseFeat("numbers", rows.numbers.shape[1]))
    model = import_module("deepctr_torch.models.din").DIN(
        columns,
        read,
        dnn_hidden_units=knobs.hidden,
        att_hidden_size=(32,),
        dnn_dropout=knobs.dropout,
        seed=torch.initial_seed() % 2**31,
    )
    return DeepCTR(rows, model, list(model.feature_index))


def _fuxictr() -> Any:
    for package in ("fuxictr.pytorch.layers", "fuxictr.pytorch.layers.blocks"):
        _bare(package)
    return import_module("fuxictr.pytorch.layers.blocks.mlp_block").MLP_Block


def _bare(package: str) -> None:
    """A package whose own file does not run: it would load ``ray``, or ask the network."""
    if package not in sys.modules:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = list(spec.submodule_search_locations)


PEERS: dict[str, Callable[[PeerRows, Knobs], nn.Module]] = {
    "torch-rechub DeepFM": deep_fm,
    "torch-rechub DCNv2": dcn_v2,
    "torch-rechub DIN": rechub_din,
    "DeepCTR-Torch DIN": deepctr_din,
    "FuxiCTR FinalMLP": FinalMLP,
}
