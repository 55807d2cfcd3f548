"""What a user wants depends on the hour, the place and what kind of thing is being done.

The log is planted: each user has four topics and a table that says which one is wanted at which
hour, place and kind of behaviour. A ranker that attends to items alone learns whose topic it is, a
situation tower also when and where. It has two tasks, likes and what follows some of them, and one
control: the situations of each user's behaviours dealt anew, with which it can know no more than
the other. Everything goes in as a ``KeyedJaggedTensor`` and through stock TorchRec tables.

    python examples/situation_ctr.py
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec import EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingConfig

from sidrank.data.planted_situations import PlantedSituations, SituationSettings, plant_situations
from sidrank.metrics import auc, bayes_auc, expected_auc
from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.situation_behaviours import SituationBehaviours
from sidrank.models.situation_ctr import SituationCTR
from sidrank.towers import DIN, SituationFields, SituationTower

USERS, VISITS, REQUESTS = 2_000, 2, 6
LENGTH, ITEM, DIM, HIDDEN = 12 * VISITS, 16, 8, 32
BATCH, PASSES, STEP = 125, 3, 0.01
TABLES = {"item": (25, ITEM), "hour": (4, DIM), "place": (3, DIM), "type": (3, DIM)}
SITUATION = ("hour", "place", "type")
SEEN = ("item", *SITUATION, "time")


def jagged(log: PlantedSituations, rows: Tensor) -> KeyedJaggedTensor:
    """A batch: one candidate and one situation a row, and the behaviours of its user."""
    users = log.user[rows]
    columns = {name: getattr(log, name)[rows] for name in SEEN}
    columns |= {f"seen_{name}": getattr(log, f"seen_{name}")[users] for name in SEEN}
    columns["seen_kind"] = columns["seen_type"]  # read as numbers beside the table of types
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    lengths = [torch.full((len(rows),), column.numel() // len(rows)) for column in tensors.values()]
    return KeyedJaggedTensor(
        keys=list(tensors),
        values=torch.cat([column.flatten() for column in tensors.values()]),
        lengths=torch.cat(lengths).int(),
    )


def drawn(table: Tensor) -> Tensor:
    """Larger than the collection's own, which suits large tables."""
    return nn.init.normal_(table, std=1.0 if table.shape[1] == ITEM else DIM**-0.5)


def read(*names: str) -> ItemBehaviours:
    """Tables that the request and the behaviours share."""
    tables = [
        EmbeddingConfig(
            name=f"{name}_table",  # a collection cannot hold one named "type"
            num_embeddings=TABLES[name][0],
            embedding_dim=TABLES[name][1],
            feature_names=[name, f"seen_{name}"],
            init_fn=drawn,
        )
        for name in names
    ]
    collection = EmbeddingCollection(tables=tables)
    history = [f"seen_{name}" for name in names]
    return ItemBehaviours(collection, target=list(names), history=history, max_length=LENGTH)


def situation_ranker() -> SituationCTR:
    behaviours = SituationBehaviours(
        read("item"),
        read(*SITUATION),
        own=SituationFields(dim=DIM, categories=[3], numbers=1),  # type and time passed
        types="seen_kind",
    )
    tower = SituationTower.of(
        item_dim=ITEM, dim=DIM, num_fields=5, num_request_fields=3, num_types=3
    )
    heads = [nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 1)]
    return SituationCTR(behaviours, tower=tower, heads=heads, hidden=HIDDEN)


class ItemRanker(nn.Module):
    """DIN over items; the request's situation in the last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.situations, self.din = read("item"), read(*SITUATION), DIN(dim=ITEM)
        width = 2 * ITEM + len(SITUATION) * DIM
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Logits, and nothing to press on."""
        target, history, mask = self.items(features)
        request, _, _ = self.situations(features)
        answer = self.din(target, history, mask)
        return self.head(torch.cat([target, answer, request], dim=2)), torch.zeros(len(target))


def trained(
    model: nn.Module, log: PlantedSituations, labels: Tensor, seed: int
) -> dict[str, float]:
    """AUC on users the model has never seen."""
    torch.manual_seed(seed)
    train = torch.from_numpy(log.user < USERS * 3 // 4)
    learn, test = train.nonzero().flatten(), (~train).nonzero().flatten()
    optimizer = torch.optim.Adam(model.parameters(), lr=STEP)
    for _ in range(PASSES):
        for rows in learn[torch.randperm(len(learn))].split(BATCH):
            optimizer.zero_grad()
            logits, _ = model(jagged(log, rows))
            binary_cross_entropy_with_logits(logits.squeeze(1), labels[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(jagged(log, rows))[0] for rows in test.split(500)]).squeeze(1)
    return {
        "likes": float(expected_auc(log.probability[test], logits[:, 0].numpy())),
        "conversions": float(auc(labels[test, 1].numpy(), logits[:, 1].numpy())),
    }


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    settings = SituationSettings(
        seed=seed, users=USERS, visits=VISITS, requests=REQUESTS, accidents=0.1, spread=4.0
    )
    log = plant_situations(settings)
    converted = log.label * (np.random.default_rng(seed).random(len(log.label)) < log.probability)
    labels = torch.from_numpy(np.stack([log.label, converted], axis=1)).float()
    arms = {
        "items": (ItemRanker, log),
        "situations, dealt anew": (situation_ranker, log.shuffled(seed)),
        "situations": (situation_ranker, log),
    }
    found = {}
    for name, (build, rows) in arms.items():
        torch.manual_seed(seed)
        found[name] = trained(build(), rows, labels, seed)
        print(f"{name:<24}{found[name]['likes']:.4f}{found[name]['conversions']:>10.4f}")
    found["best possible"] = {"likes": float(bayes_auc(log.probability))}
    print(f"{'best possible':<24}{found['best possible']['likes']:.4f}")
    return found


if __name__ == "__main__":
    main()
