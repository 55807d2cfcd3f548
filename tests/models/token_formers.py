"""A small TokenFormer and batches for it."""

import torch
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.token_former import TokenFormer
from sidrank.sequences.bfts import BFTSEncoder
from tests.embeddings import hosts

DENSE, ROWS = 3, 20


def behaviours(max_length=5, num_candidates=1):
    """Items have an id and a kind; the tables of both serve candidates and history."""
    tables = [
        EmbeddingConfig(
            name=name,
            embedding_dim=width,
            num_embeddings=ROWS,
            feature_names=[name, f"seen_{name}"],
        )
        for name, width in (("item", 8), ("kind", 8))
    ]
    return ItemBehaviours(
        EmbeddingCollection(tables=tables),
        target=["item", "kind"],
        history=["seen_item", "seen_kind"],
        max_length=max_length,
        num_candidates=num_candidates,
    )


def fields(widths=(8, 8)):
    tables = [
        EmbeddingBagConfig(
            name=name, embedding_dim=width, num_embeddings=ROWS, feature_names=[name]
        )
        for name, width in zip(("user", "context"), widths, strict=True)
    ]
    return EmbeddingBagCollection(tables=tables)


def former(seed=1, max_length=5, num_candidates=1):
    torch.manual_seed(seed)
    return TokenFormer(
        fields(),
        behaviours(max_length, num_candidates),
        encoder=BFTSEncoder(dim=8, num_heads=2, hidden=12, windows=(4, 2)),
        dense_in_features=DENSE,
    )


def batch(size=6, seed=0, candidates=1, longest=8):
    """Dense and sparse features and labels; the first history is empty."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return torch.randint(ROWS, (count,), generator=generator).tolist()

    lengths = torch.randint(0, longest + 1, (size,), generator=generator).tolist()
    lengths = [0, *lengths[1:]]
    features = {"user": [ids(1) for _ in lengths], "context": [ids(n % 3) for n in range(size)]}
    for kind in ("item", "kind"):
        features[kind] = [ids(candidates) for _ in lengths]
        features[f"seen_{kind}"] = [ids(length) for length in lengths]
    labels = torch.randint(2, (size,), generator=generator).float()
    return torch.rand(size, DENSE, generator=generator), hosts.jagged(features), labels


def loss(model, examples):
    dense, sparse, labels = examples
    logits = model(dense, sparse)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels.unsqueeze(1).expand_as(logits)
    )


def train(model, optimizer, *, steps, size=16):
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, batch(size, seed=step)).backward()
        optimizer.step()


def trained(**options):
    """Away from birth, where a dropped part would not be missed."""
    model = former(**options)
    train(model, torch.optim.Adagrad(model.parameters(), lr=0.2), steps=3)
    return model
