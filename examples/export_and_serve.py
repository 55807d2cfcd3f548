"""A trained ranker leaves Python behind: exported, checked, served, and refused when it is wrong.

A hybrid DLRM learns which items a user likes. It is exported with its tables as they are and as
bytes, read back, and scores the candidates of requests as it did before. Then somebody exchanges
two lines of its self-test, and it does not start.

    python examples/export_and_serve.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ConvexGate
from sidrank.metrics import auc
from sidrank.models import DLRMRanking
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.serving import CandidateScorer, export_ranker, int8_tables, load_ranker
from sidrank.serving.manifest import write_manifest

USERS, ITEMS, TASTES, DIM, BATCH, STEPS = 200, 1000, 8, 16, 512, 150
GENERATOR = np.random.default_rng(0)
TASTE = GENERATOR.integers(0, TASTES, ITEMS)
LIKES = GENERATOR.normal(size=(USERS, TASTES))


def features(columns: dict[str, np.ndarray]) -> KeyedJaggedTensor:
    """A batch with one id a row in each feature."""
    values = torch.from_numpy(np.concatenate(list(columns.values())))
    return KeyedJaggedTensor(list(columns), values, lengths=torch.ones(len(values)).int())


def items(drawn: np.ndarray) -> dict[str, np.ndarray]:
    """An item is a row of a hashed table and, as what it is, in the SID table."""
    return {"item": drawn * 2654435761 % 400, "item_raw": drawn}


def clicks(users: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return GENERATOR.random(len(users)) < 1 / (1 + np.exp(-2 * LIKES[users, TASTE[drawn]]))


def hybrid_dlrm(table: SIDTable) -> DLRM:
    torch.manual_seed(0)
    host = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                num_embeddings=rows, embedding_dim=DIM, name=f"t_{name}", feature_names=[name]
            )
            for name, rows in (("user", USERS), ("item", 400))
        ]
    )
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(table))})
    embeddings = HybridEmbeddingBagCollection(
        host,
        expander.embedding_bag_configs(embedding_dim=DIM, init_fn=None),
        expander=expander,
        gates={"item": ConvexGate(statistics=[])},
    )
    return DLRM(
        embeddings,  # pyright: ignore[reportArgumentType]  a collection in all but its class
        dense_in_features=1,
        dense_arch_layer_sizes=[DIM],
        over_arch_layer_sizes=[32, 1],
    )


def train(model: nn.Module) -> None:
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        users, drawn = GENERATOR.integers(0, USERS, BATCH), GENERATOR.integers(0, ITEMS, BATCH)
        logits = model(torch.ones(BATCH, 1), features({"user": users, **items(drawn)})).squeeze(1)
        labels = torch.from_numpy(clicks(users, drawn)).float()
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()


def requests(counts: np.ndarray) -> tuple[RankingRequests, np.ndarray]:
    """Users with as many candidates each, and who would click what."""
    users, drawn = (
        GENERATOR.integers(0, most, size)
        for most, size in ((USERS, len(counts)), (ITEMS, counts.sum()))
    )
    asked = RankingRequests(
        torch.ones(len(counts), 1),
        features({"user": users}),
        features(items(drawn)),
        torch.from_numpy(counts),
    )
    return asked, clicks(np.repeat(users, counts), drawn)


def poison(folder: Path) -> None:
    """What must never serve: a self-test with two logits exchanged, and a manifest that fits it."""
    tensors = safetensors.torch.load_file(folder / "self_test.safetensors")
    tensors["logits"][:2] = tensors["logits"][:2].flip(0)
    safetensors.torch.save_file(tensors, folder / "self_test.safetensors")
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    write_manifest(
        folder, {key: told[key] for key in told.keys() - {"format", "files", "checksum"}}
    )


def main() -> dict[str, float]:
    table = SIDTable(
        np.arange(ITEMS),
        np.stack([TASTE, GENERATOR.integers(0, 16, ITEMS)], 1),
        spec=SIDSpec((8, 16)),
    )
    dlrm = hybrid_dlrm(table)
    train(dlrm)
    model = DLRMRanking(dlrm).eval()
    tested, _ = requests(np.array([3, 1, 6]))
    asked, labels = requests(GENERATOR.integers(0, 60, 200))
    found = {"in Python": auc(labels, torch.cat(CandidateScorer(model).score(asked)).squeeze(1))}
    with tempfile.TemporaryDirectory() as place:
        for form, each in (("exported", model), ("with int8 tables", int8_tables(model))):
            folder = Path(place, form)
            export_ranker(each, tested, folder, tasks=["click"])
            ranker = load_ranker(folder, sids=table)
            logits = torch.cat(CandidateScorer(ranker).score(asked)).squeeze(1)
            found[form] = auc(labels, logits)
        for form, value in found.items():
            print(f"{form:<18} AUC {value:.4f}")
        poison(folder)
        try:
            load_ranker(folder)
        except ValueError as error:
            print(f"refused: {error}")
            found["refused"] = 1.0
    return found


if __name__ == "__main__":
    main()
