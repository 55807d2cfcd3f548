"""A ranker in the manner of FuxiCTR's model zoo, on its classes and on classes with their face.

Source of the face: fuxictr 2.3.10, ``pytorch.models.BaseModel`` and
``pytorch.layers.FeatureEmbedding`` (an ``nn.Embedding`` a feature in
``embedding_layer.embedding_layers``, one shared by features that say so, averages of histories
that take a zero vector for padding). Batches are dictionaries of tensors with the label inside.
"""

import torch
from torch import nn

ITEMS, USERS, LENGTH, DIM = 30, 9, 4, 8
FEATURES = {
    "user": {"type": "categorical", "source": "", "vocab_size": USERS},
    "item": {"type": "categorical", "source": "", "vocab_size": ITEMS, "padding_idx": 0},
    "history": {
        "type": "sequence", "source": "", "vocab_size": ITEMS, "padding_idx": 0,
        "max_len": LENGTH, "share_embedding": "item",
        "feature_encoder": "layers.MaskedAveragePooling()",
    },
}  # fmt: skip


def batch(size=32, seed=0):
    """The same ids, users and labels as FuxiCTR's loaders give them."""
    random = torch.Generator().manual_seed(seed)
    history = torch.randint(1, ITEMS, (size, LENGTH), generator=random)
    lengths = torch.randint(0, LENGTH + 1, (size, 1), generator=random)
    return {
        "user": torch.randint(0, USERS, (size,), generator=random),
        "item": torch.randint(1, ITEMS, (size,), generator=random),
        "history": history * (torch.arange(LENGTH) < lengths),
        "click": torch.randint(0, 2, (size,), generator=random).float(),
    }


class _Ranker:
    """What the two models share: every pair of fields, and a layer over all of them."""

    def forward(self, inputs):
        fields = self.embedding_layer(self.get_inputs(inputs))
        pairs = fields @ fields.transpose(1, 2)
        logits = self.top(torch.cat([fields.flatten(1), pairs.flatten(1)], dim=1))
        return {"y_pred": self.output_activation(logits)}


def of_fuxictr(fuxictr, folder):
    """A model on FuxiCTR's own classes."""
    models, layers, features = fuxictr

    class Model(_Ranker, models.BaseModel):
        def __init__(self, feature_map):
            super().__init__(
                feature_map, metrics=["AUC"], verbose=0, model_root=str(folder),
                embedding_regularizer=1e-4,
            )  # fmt: skip
            self.embedding_layer = layers.FeatureEmbedding(feature_map, DIM)
            self.top = nn.Linear(3 * DIM + 9, 1)
            self.compile("adam", "binary_crossentropy", 0.01)
            self.reset_parameters()
            self.model_to_device()

    feature_map = features.FeatureMap("clicks", str(folder))
    feature_map.features.update(FEATURES)
    feature_map.labels = ["click"]
    model = Model(feature_map)
    model._max_gradient_norm = 10.0  # which fit() would set
    return model


class _FeatureEmbeddingDict(nn.Module):
    def __init__(self):
        super().__init__()
        tables = {
            name: nn.Embedding(spec["vocab_size"], DIM, padding_idx=spec.get("padding_idx"))
            for name, spec in FEATURES.items()
            if "share_embedding" not in spec
        }
        self.embedding_layers = nn.ModuleDict(tables | {"history": tables["item"]})

    def forward(self, inputs):
        found = {name: self.embedding_layers[name](ids.long()) for name, ids in inputs.items()}
        real = found["history"].sum(-1) != 0
        count = real.float().sum(-1, keepdim=True) + 1e-12
        return found | {"history": found["history"].sum(1) / count}


class _FeatureEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_layer = _FeatureEmbeddingDict()

    def forward(self, inputs):
        return torch.stack(list(self.embedding_layer(inputs).values()), dim=1)


class StandIn(_Ranker, nn.Module):
    """The face of ``BaseModel`` as far as a swap of an embedding meets it."""

    def __init__(self):
        super().__init__()
        self.embedding_layer = _FeatureEmbedding()
        self.top = nn.Linear(3 * DIM + 9, 1)
        self.output_activation = nn.Sigmoid()
        self.compile("adam", "binary_crossentropy", 0.01)

    def compile(self, optimizer, loss, lr):
        self.optimizer = {"adam": torch.optim.Adam}[optimizer](self.parameters(), lr=lr)
        self.loss_fn = {"binary_crossentropy": nn.functional.binary_cross_entropy}[loss]

    def get_inputs(self, inputs):
        return {name: value for name, value in inputs.items() if name in FEATURES}

    def train_step(self, batch_data):
        self.optimizer.zero_grad()
        predicted = self.forward(batch_data)["y_pred"]
        self.loss_fn(predicted, batch_data["click"].view(-1, 1)).backward()
        self.optimizer.step()

    def save_weights(self, checkpoint):
        torch.save(self.state_dict(), checkpoint)

    def load_weights(self, checkpoint):
        self.load_state_dict(torch.load(checkpoint, map_location="cpu"))
