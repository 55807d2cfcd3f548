"""A past impression is more than the id of its item: keep what a source ranker made of all of it.

The log is made up. Whether an impression is bold depends on item and context together, on neither
alone. Bold ones are clicked more, and tire: after several of them a user clicks less. A history of
item ids, labels and all, cannot say what was bold. A source ranker learns it from the fields; its
interaction vector, compressed to an instance token and kept in a store, carries it to the later
requests of the user. Clicks are known some time after the impression; the store gives each request
what it could have known. The users of the test are new. A stranger's tokens are the control.

    python examples/instance_tokens.py
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from sidrank.layers import CrossAttention
from sidrank.metrics import auc
from sidrank.sequences.instance_rows import InstanceSpec, instance_ids
from sidrank.sequences.instance_sequence import InstanceSequence
from sidrank.sequences.instance_store import InMemoryInstanceStore
from sidrank.sequences.instance_tokens import InstanceTokenizer

USERS, EACH, ITEMS, CONTEXTS = 1000, 30, 60, 4
LENGTH, DIM, WIDTH, BATCH = 6, 8, 32, 250


def planted_log(seed: int) -> dict[str, np.ndarray]:
    """``EACH`` impressions of every user in the order of time; labels known up to 5 later."""
    rng = np.random.default_rng(seed)
    rows = USERS * EACH
    log = {
        "user": np.repeat(np.arange(USERS), EACH),
        "time": np.tile(np.arange(EACH), USERS),
        "item": rng.integers(0, ITEMS, rows),
        "context": rng.integers(0, CONTEXTS, rows),
    }
    bold = rng.permutation(np.arange(ITEMS) % 2)[log["item"]] ^ (log["context"] % 2)
    shown = np.pad(bold.reshape(USERS, EACH), ((0, 0), (LENGTH + 1, 0))).cumsum(axis=1)
    recent = (shown[:, LENGTH:-1] - shown[:, :EACH]).ravel()  # bold ones among the last LENGTH
    log["label"] = rng.random(rows) < 1 / (1 + np.exp(1 - 2 * bold + recent - LENGTH / 2))
    log["known"] = log["time"] + rng.integers(1, 6, rows)
    return log


class Ranker(nn.Module):
    """Two fields, their product, a history if there is one, a small network."""

    def __init__(self, history: nn.Module | None = None) -> None:
        super().__init__()
        self.item, self.context = nn.Embedding(ITEMS, DIM), nn.Embedding(CONTEXTS, DIM)
        self.history = history
        self.inside = nn.Sequential(nn.Linear(4 * DIM, 48), nn.ReLU())
        self.head = nn.Linear(48, 1)

    def interaction(self, item: Tensor, context: Tensor, *past: Tensor) -> Tensor:
        """What the ranker makes of an impression, ``[B, 48]``."""
        one, two = self.item(item), self.context(context)
        fields = torch.cat([one, two, one * two], dim=1)
        token = torch.zeros(len(item), DIM)
        if self.history is not None:  # its token enters before the fields interact
            token = self.history(fields.unsqueeze(1), *past).squeeze(1)
        return self.inside(torch.cat([fields, token], dim=1))

    def forward(self, item: Tensor, context: Tensor, *past: Tensor) -> Tensor:
        """Logits ``[B]``."""
        return self.head(self.interaction(item, context, *past)).flatten()


class ItemHistory(nn.Module):
    """The usual history: ids of the items, and how each went."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.side = nn.Embedding(ITEMS, 16), nn.Embedding(3, 16)
        self.query, self.out = nn.Linear(3 * DIM, WIDTH), nn.Linear(WIDTH, DIM)
        self.read = CrossAttention(dim=WIDTH, query_dim=WIDTH, key_dim=32, num_heads=2)

    def forward(self, query: Tensor, items: Tensor, sides: Tensor, mask: Tensor) -> Tensor:
        """One token, ``[B, 1, DIM]``."""
        keys = torch.cat([self.item(items), self.side(sides[:, :, 0] + 1)], dim=2)
        return self.out(self.read(self.query(query), keys, mask))


def trained(model: nn.Module, inputs: list[Tensor], label: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        for rows in torch.randperm(len(label)).split(BATCH):
            optimizer.zero_grad()
            logits = model(*(column[rows] for column in inputs))
            logits = logits[0].flatten() if isinstance(logits, tuple) else logits
            binary_cross_entropy_with_logits(logits, label[rows]).backward()
            optimizer.step()
    return model.eval()


def instance_vectors(fields: list[Tensor], label: Tensor, train: Tensor) -> Tensor:
    """A source ranker, then a tokenizer that predicts the same from 16 numbers."""
    source = trained(Ranker(), [field[train] for field in fields], label[train])
    with torch.no_grad():
        h = source.interaction(*fields).unsqueeze(1)
    tokenizer = InstanceTokenizer(input_dim=48, dim=16, mode="temporal", hidden=32)
    trained(tokenizer, [h[train], torch.ones_like(h[train][:, :, 0]).bool()], label[train])
    return tokenizer.tokens(h[:, 0]).detach()


def main(seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    log = planted_log(seed)
    fields = [torch.from_numpy(log[name]) for name in ("item", "context")]
    label = torch.from_numpy(log["label"]).float()
    train = torch.from_numpy(log["user"] < USERS * 3 // 4)
    vectors = instance_vectors(fields, label, train)
    store = InMemoryInstanceStore(InstanceSpec(model_version="source-1", dim=16))
    ids = instance_ids(log["user"], log["item"], log["time"])
    outcome = {"label_times": log["known"][:, None], "sides": 1 * log["label"][:, None]}
    store.put(users=log["user"], instances=ids, event_times=log["time"], **outcome,
              vectors=vectors, model_version="source-1")  # fmt: skip
    past = store.as_of(log["user"], log["time"], LENGTH, model_version="source-1")
    item_of = dict(zip(ids.tolist(), log["item"].tolist(), strict=True)) | {0: 0}  # 0: padding
    items = past.instances.clone().apply_(item_of.__getitem__)
    stranger = torch.arange(len(ids)).roll(EACH)  # the same time of the user before

    def reader() -> InstanceSequence:
        target = CrossAttention(dim=WIDTH, query_dim=WIDTH, key_dim=32, num_heads=2)
        return InstanceSequence(sequence=target, query_dim=3 * DIM, token_dim=DIM,
                                side_sizes=[2], dim=16, width=WIDTH)  # fmt: skip

    own = [past.vectors, past.sides, past.mask]
    arms = {
        "host": (lambda: None, []),
        "host + item ids": (ItemHistory, [items, *own[1:]]),
        "host + a stranger's instances": (reader, [column[stranger] for column in own]),
        "host + instances": (reader, own),
    }
    found = {}
    for name, (make, columns) in arms.items():
        torch.manual_seed(seed)
        inputs = [*fields, *columns]
        model = trained(Ranker(make()), [x[train] for x in inputs], label[train])
        with torch.no_grad():
            logits = model(*(x[~train] for x in inputs))
        found[name] = float(auc(label[~train], logits))
        print(f"{name:<32}{found[name]:.4f}")
    return found


if __name__ == "__main__":
    main()
