"""A ranker goes on serving while it goes on learning: what changed is swapped in every few steps.

Items that come up get semantic IDs, appended to the table. Only what changed goes into a file; the
server makes the next version beside the running one, probes it, and swaps. A request that is under
way ends on the version it began with.

    python examples/serve_while_training.py
"""

import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM

from sidrank.data import PlantedSettings, plant_log
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ResidualGate
from sidrank.metrics import auc
from sidrank.models import DLRMRanking
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.serving import (
    CandidateScorer,
    ProbeCheck,
    RankerVersion,
    Versions,
    apply_delta,
    delta_between,
    load_delta,
    save_delta,
)

LOG = plant_log(PlantedSettings(rows=60_000, items=3_000, users=300))
SPEC, DIM, BATCH, ROUNDS = SIDSpec((8, 8, 8)), 16, 256, 8


def jagged(**columns: np.ndarray) -> KeyedJaggedTensor:
    """Features with one id a row."""
    rows = len(next(iter(columns.values())))
    values = torch.from_numpy(np.concatenate(list(columns.values())))
    return KeyedJaggedTensor(list(columns), values, lengths=torch.ones(len(columns) * rows).int())


def item_features(items: np.ndarray) -> dict[str, np.ndarray]:
    return {"item": items % 5_000, "item_raw": items}  # hashed for the host, raw for its SID


def build(sids: SIDTable) -> DLRMRanking:
    rows = {"user": 300, "item": 5_000}
    tables = [EmbeddingBagConfig(n, DIM, f"t_{f}", feature_names=[f]) for f, n in rows.items()]
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))}, mode="prefix")
    hybrid = HybridEmbeddingBagCollection(
        EmbeddingBagCollection(tables=tables),
        expander.embedding_bag_configs(embedding_dim=DIM),
        expander=expander,
        gates={"item": ResidualGate(statistics=[])},
    )
    return DLRMRanking(DLRM(hybrid, 1, [DIM], [32, 1]))  # pyright: ignore[reportArgumentType]


def codes_of(items: np.ndarray) -> np.ndarray:
    """A tokenizer would say them; here they are planted."""
    return LOG.item_codes[np.searchsorted(LOG.item_ids, items)]


def append_items(model: DLRMRanking, sids: SIDTable, items: np.ndarray) -> SIDTable:
    """Give items that came up a SID, in the model that is trained."""
    sids = sids.append(items, codes_of(items))  # an item that has its codes already keeps them
    for part in model.modules():
        if isinstance(part, RawIDSource):
            part.lookup = SIDLookup(sids)
    return sids


def train(model: DLRMRanking, optimizer: torch.optim.Optimizer, rows: np.ndarray) -> None:
    model.train()
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        sparse = jagged(user=LOG.user_index[some], **item_features(LOG.item[some]))
        logits = model(torch.ones(len(some), 1), sparse).squeeze(1)
        labels = torch.from_numpy(LOG.label[some]).float()
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()


def requests_of(rows: np.ndarray, candidates: int = 50) -> RankingRequests:
    """One request for each 50 rows, by the user of the first; their items are the candidates."""
    users, items = LOG.user_index[rows[::candidates]], item_features(LOG.item[rows])
    counts = torch.full((len(users),), candidates)
    return RankingRequests(torch.ones(len(users), 1), jagged(user=users), jagged(**items), counts)


def auc_of(model: RankerVersion, rows: np.ndarray) -> float:
    logits = torch.cat(CandidateScorer(model).score(requests_of(rows, candidates=1))).squeeze(1)
    return auc(torch.from_numpy(LOG.label[rows]), logits)


def main() -> dict[str, object]:
    torch.manual_seed(0)
    parts, test = np.array_split(np.arange(50_000), ROUNDS + 1), np.arange(50_000, 60_000)
    known = np.unique(LOG.item[parts[0]])
    sids = SIDTable(known, codes_of(known), spec=SPEC)
    model = build(sids)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    train(model, optimizer, parts[0])
    published = RankerVersion.first(model)  # what the trainer compares with: a copy
    probe = ProbeCheck(requests_of(test[:500]), largest_shift=0.3)
    # the server's; elsewhere it begins with a checkpoint of the same weights
    versions = Versions(RankerVersion.first(model), check=probe)
    found: dict[str, object] = {"first": auc_of(versions.current, test)}
    stop, answers = threading.Event(), []

    def client() -> None:
        scorer = CandidateScorer(versions, most_candidates=100)
        while not stop.is_set():
            answers.append(torch.cat(scorer.score(probe.requests)))  # several calls, one version

    serving = threading.Thread(target=client)
    serving.start()
    with tempfile.TemporaryDirectory() as folder:
        for rows in parts[1:]:
            sids = append_items(model, sids, np.unique(LOG.item[rows]))
            train(model, optimizer, rows)
            delta = delta_between(published, model)
            published = apply_delta(published, delta)
            save_delta(file := Path(folder, f"delta-{delta.number}"), delta)
            versions.publish(apply_delta(versions.current, load_delta(file)))
            print(f"version {delta.number}: {delta.nbytes / 1024:.0f} KiB, {len(sids)} items")
    stop.set()
    serving.join()
    found["last"] = auc_of(versions.current, test)
    found["same"] = published.hash == versions.current.hash
    found["finite"] = all(bool(each.isfinite().all()) for each in answers)
    found["living"] = versions.living()
    print(f"{len(answers)} answers meanwhile; AUC {found['first']:.4f} -> {found['last']:.4f}")
    print(f"rolled back to version {versions.rollback().number}")
    return found


if __name__ == "__main__":
    main()
