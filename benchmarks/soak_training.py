"""The trainer of ``benchmarks/serving_soak.py``: a hybrid DLRM learns from a planted stream.

Every tick it trains on the next slice of the log, gives the items that came up a SID, counts what
was shown and liked, and writes what changed as a delta. Beside it lie the logits that the model
being trained gives to fixed requests: what every answer of the server is compared with.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.data import ExposureStatistics, PlantedSettings, plant_log
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ResidualGate
from sidrank.models import DLRMRanking
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, load_bundle, save_bundle
from sidrank.serving.candidate_scorer import CandidateScorer
from sidrank.serving.counted_ranker import CountedRanker
from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.delta_file import save_delta
from sidrank.serving.ranker_version import RankerVersion

SPEC, DIM, BATCH, HISTORY = SIDSpec((8, 8, 8)), 32, 512, 20
DAY = 86_400_000
STATISTICS = ["shown", "liked"]
MOST_CANDIDATES = 150  # so that a request needs several calls of the model


class Size(NamedTuple):
    """What is trained and asked."""

    rows: int = 672_000
    items: int = 20_000
    users: int = 2_000
    item_rows: int = 200_000
    ticks: int = 240
    requests: int = 16


def ranker(size: Size, sids: SIDTable) -> CountedRanker:
    """Before training; the same for the trainer and the server."""
    tables = {"user": size.users, "item": size.item_rows, "history": size.item_rows // 2}
    host = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{name}", embedding_dim=DIM, num_embeddings=rows, feature_names=[name]
            )
            for name, rows in tables.items()
        ]
    )
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))}, mode="prefix")
    hybrid = HybridEmbeddingBagCollection(
        host,
        expander.embedding_bag_configs(embedding_dim=DIM),
        expander=expander,
        gates={"item": ResidualGate(statistics=STATISTICS)},
    )
    dlrm = DLRM(
        hybrid,  # pyright: ignore[reportArgumentType]
        dense_in_features=1,
        dense_arch_layer_sizes=[DIM],
        over_arch_layer_sizes=[64, 1],
    )
    return CountedRanker(DLRMRanking(dlrm), item="item_raw", statistics=STATISTICS)


def jagged(features: dict[str, tuple[Tensor, Tensor]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.cat([values for values, _ in features.values()]),
        lengths=torch.cat([lengths for _, lengths in features.values()]).int(),
    )


class Trainer:
    """Trains and writes deltas into a folder.

    Args:
        size: How much.
        folder: Holds what a server begins with, and one file a version.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        torch.manual_seed(0)
        self.size, self.folder = size, folder
        self.log = plant_log(PlantedSettings(rows=size.rows, items=size.items, users=size.users))
        self.statistics = ExposureStatistics(statistics=STATISTICS, window=7 * DAY)
        self.tick = 0
        known = np.unique(self.log.item[: size.rows // 4])
        self.sids = SIDTable(known, self._codes(known), spec=SPEC)
        self.model = ranker(size, self.sids)
        dlrm = self.model.ranker.host
        self.optimizer = torch.optim.SGD(dlrm.parameters(), lr=0.05)
        self.requests = self._requests()
        self.train()
        self._write_first()
        self.version = RankerVersion.first(self.model)
        self._write_expected()

    def train(self) -> float:
        """One slice of the log; returns the mean loss."""
        begin = self.size.rows // 4
        slices = (self.size.rows - begin) // (self.size.ticks + 1)
        start = begin + self.tick % (self.size.ticks + 1) * slices
        self.tick += 1
        rows = np.arange(start, start + slices)
        items, times = self.log.item[rows], self.log.timestamp[rows]
        self._learn_items(items)
        self.statistics.update(
            items, times, {"shown": np.ones(len(rows), np.int64), "liked": self.log.label[rows]}
        )
        counts = self.statistics.as_of(items, times)  # strictly before each row
        dlrm = self.model.ranker.host.train()
        losses: list[float] = []
        for at in range(0, len(rows), BATCH):
            dense, sparse, labels = self._batch(rows[at : at + BATCH], counts[at : at + BATCH])
            self.optimizer.zero_grad()
            logits = dlrm(dense, sparse).squeeze(1)
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        now = int(times[-1])
        ids = self.sids.item_ids
        self.model.set_counts(
            torch.from_numpy(ids.copy()),
            torch.from_numpy(self.statistics.as_of(ids, np.full(len(ids), now))),
        )
        return sum(losses) / len(losses)

    def publish(self) -> dict[str, Any]:
        """Write the delta since the last call, and what the model answers."""
        delta = delta_between(self.version, self.model)
        self.version = apply_delta(self.version, delta)
        self._write_expected()
        save_delta(self.folder / f"delta-{delta.number:06}", delta)
        return {
            "bytes": delta.nbytes,
            "rows": sum(len(part.rows) for part in delta.rows.values()),
            "items": sum(len(part.items) for part in delta.items.values()),
        }

    @torch.inference_mode()
    def answers(self) -> list[Tensor]:
        """Logits of the fixed requests by the model that is being trained."""
        scorer = CandidateScorer(self.model.eval(), most_candidates=MOST_CANDIDATES)
        return [torch.cat(scorer.score(request)) for request in self.requests]

    def _learn_items(self, items: np.ndarray[Any, Any]) -> None:
        new = np.setdiff1d(items, self.sids.item_ids)
        if len(new):
            self.sids = self.sids.append(new, self._codes(new))
            lookup = SIDLookup(self.sids)
            for part in self.model.modules():
                if isinstance(part, RawIDSource):
                    part.lookup = lookup

    def _codes(self, items: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.log.item_codes[np.searchsorted(self.log.item_ids, items)]

    def _batch(
        self, rows: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]
    ) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
        one = torch.ones(len(rows), dtype=torch.int64)
        features = self._user(rows) | self._item(self.log.item[rows])
        features |= {
            name: (torch.from_numpy(counts[:, place].copy()), one)
            for place, name in enumerate(STATISTICS)
        }
        dense = torch.from_numpy(self.log.timestamp[rows] // 3_600_000 % 24 / 24).float()
        labels = torch.from_numpy(self.log.label[rows]).float()
        return dense.unsqueeze(1), jagged(features), labels

    def _user(self, rows: np.ndarray[Any, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        liked = self.log.liked_before(HISTORY, rows=rows)
        seen = torch.from_numpy(liked[liked >= 0] % (self.size.item_rows // 2))
        one = torch.ones(len(rows), dtype=torch.int64)
        return {
            "user": (
                torch.from_numpy(np.searchsorted(self.log.user_ids, self.log.user[rows])),
                one,
            ),
            "history": (seen, torch.from_numpy((liked >= 0).sum(axis=1))),
        }

    def _item(self, items: np.ndarray[Any, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        one = torch.ones(len(items), dtype=torch.int64)
        hashed = torch.from_numpy(items % self.size.item_rows)
        return {"item": (hashed, one), "item_raw": (torch.from_numpy(items.copy()), one)}

    def _requests(self) -> list[RankingRequests]:
        """One user each; candidates of all times, so that some have no SID yet."""
        drawn = np.random.default_rng(1)
        made: list[RankingRequests] = []
        for count in drawn.integers(50, 201, self.size.requests):
            row = drawn.integers(0, self.size.rows, 1)
            items = self.log.item[drawn.integers(0, self.size.rows, count)]
            made.append(
                RankingRequests(
                    torch.rand(1, 1),
                    jagged(self._user(row)),
                    jagged(self._item(items)),
                    torch.tensor([int(count)]),
                )
            )
        return made

    def _write_first(self) -> None:
        save_bundle(self.folder / "sids", self.sids)
        torch.save(self.model.state_dict(), self.folder / "first.pt")
        parts: dict[str, Tensor] = {}
        for place, request in enumerate(self.requests):
            parts[f"{place}.dense"], parts[f"{place}.counts"] = request.dense, request.counts
            for side in ("features", "candidates"):
                sparse: KeyedJaggedTensor = getattr(request, side)
                parts[f"{place}.{side}.values"] = sparse.values()
                parts[f"{place}.{side}.lengths"] = sparse.lengths()
        safetensors.torch.save_file(parts, self.folder / "requests")

    def _write_expected(self) -> None:
        parts = {str(place): logits for place, logits in enumerate(self.answers())}
        safetensors.torch.save_file(parts, self.folder / f"expected-{self.version.number:06}")


def first_model(size: Size, folder: Path) -> CountedRanker:
    """What a server begins with."""
    model = ranker(size, load_bundle(folder / "sids").table)
    model.load_state_dict(torch.load(folder / "first.pt", weights_only=True))
    return model.eval()


def read_requests(folder: Path) -> list[RankingRequests]:
    parts = safetensors.torch.load_file(folder / "requests")
    keys = {"features": ["user", "history"], "candidates": ["item", "item_raw"]}
    made: list[RankingRequests] = []
    for place in range(len(parts) // 6):
        sides = {
            side: KeyedJaggedTensor(
                keys=names,
                values=parts[f"{place}.{side}.values"],
                lengths=parts[f"{place}.{side}.lengths"],
            )
            for side, names in keys.items()
        }
        made.append(
            RankingRequests(
                parts[f"{place}.dense"],
                sides["features"],
                sides["candidates"],
                parts[f"{place}.counts"],
            )
        )
    return made


def expected(folder: Path, number: int) -> list[Tensor]:
    """Logits of each request by the trainer's own model of one version."""
    parts = safetensors.torch.load_file(folder / f"expected-{number:06}")
    return [parts[str(place)] for place in range(len(parts))]
