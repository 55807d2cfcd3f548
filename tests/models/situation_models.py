"""A small SituationCTR and batches for it."""

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.situation_behaviours import SituationBehaviours
from sidrank.models.situation_ctr import SituationCTR
from sidrank.towers.situation_fields import SituationFields
from sidrank.towers.situation_tower import SituationTower
from tests.embeddings import hosts

ROWS, TYPES, NOW = 20, 3, 1000


def read(names, width, max_length=5, num_candidates=1):
    tables = [
        EmbeddingConfig(
            name=name,
            embedding_dim=width,
            num_embeddings=ROWS,
            feature_names=[name, f"seen_{name}"],
        )
        for name in names
    ]
    return ItemBehaviours(
        EmbeddingCollection(tables=tables),
        target=list(names),
        history=[f"seen_{name}" for name in names],
        max_length=max_length,
        num_candidates=num_candidates,
    )


def behaviours(max_length=5, num_candidates=1, **given):
    parts = {
        "items": read(["item"], 8, max_length, num_candidates),
        "situations": read(["hour", "place"], 4, max_length),
        "own": SituationFields(dim=4, categories=[TYPES], numbers=2, bins=4),
        "numbers": ["seen_seconds"],
    }
    parts |= given
    return SituationBehaviours(parts.pop("items"), parts.pop("situations"), **parts)


def tower(**given):
    sizes = {"item_dim": 8, "dim": 4, "num_fields": 5, "num_request_fields": 2}
    return SituationTower.of(**{**sizes, "num_types": TYPES, **given})


def fields():
    config = EmbeddingBagConfig(
        name="user", embedding_dim=4, num_embeddings=ROWS, feature_names=["user"]
    )
    return EmbeddingBagCollection(tables=[config])


def ranker(seed=1, max_length=5, num_candidates=1, tasks=2):
    """In evaluation: what it draws in training no two copies would share."""
    torch.manual_seed(seed)
    model = SituationCTR(
        behaviours(max_length, num_candidates),
        tower=tower(),
        heads=[nn.Linear(12, 1) for _ in range(tasks)],
        fields=fields(),
        hidden=12,
    )
    return model.eval()


def batch(size=6, seed=0, candidates=1, longest=8):
    """Features and the labels of two tasks; the first history is empty."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count, high=ROWS):
        return torch.randint(high, (count,), generator=generator).tolist()

    lengths = [0, *torch.randint(0, longest + 1, (size - 1,), generator=generator).tolist()]
    features = {"item": [ids(candidates) for _ in lengths]}
    for name in ("user", "hour", "place"):
        features[name] = [ids(1) for _ in lengths]
    features["time"] = [[NOW + each] for each in ids(size)]
    for name, high in (("item", ROWS), ("hour", ROWS), ("place", ROWS)):
        features[f"seen_{name}"] = [ids(length, high) for length in lengths]
    features["seen_type"] = [ids(length, TYPES + 2) for length in lengths]  # some never seen
    features["seen_seconds"] = [[n - 2 for n in ids(length, 60)] for length in lengths]
    features["seen_time"] = [sorted(ids(length, NOW)) for length in lengths]
    labels = torch.randint(2, (size, 2), generator=generator).float()
    return hosts.jagged(features), labels


def loss(model, examples, budget=0.01):
    features, labels = examples
    logits, kept = model(features)
    wanted = labels[:, : logits.shape[2]].unsqueeze(1).expand_as(logits)
    value = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    return value + budget * kept.mean()


def train(model, optimizer, *, steps, size=16):
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, batch(size, seed=step)).backward()
        optimizer.step()


def trained(**options):
    """Away from birth, where a dropped part would not be missed."""
    model = ranker(**options)
    train(model, torch.optim.Adagrad(model.parameters(), lr=0.1), steps=3)
    with torch.no_grad():  # about half of the behaviours are kept, and not the same by all
        denoise = model.tower.denoise
        denoise.bias.zero_()
        denoise.hidden.weight.normal_()
        denoise.out.weight.normal_()
    return model
