"""Models of a few tables on meta, and curves of traffic to go with them."""

import numpy as np
import torch
import torchrec.optim
from torch import nn
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from sidrank.cache.miss_ratio_curve import MissRatioCurve

GIB = 2**30


def curve(rows, *, lookups=1000.0, skew=0.7, cold=0.2, batches=10, points=40):
    """Misses that fall as a power of the slots: the smaller ``skew``, the steeper."""
    accesses = lookups * batches
    first = min(cold * accesses, rows)
    slots = np.unique(np.geomspace(1, rows, points).astype(np.int64))
    misses = first + (accesses - first) * (1 - (slots / slots[-1]) ** skew)
    misses = np.clip(misses, first, accesses)
    return MissRatioCurve(
        rows=rows, batches=batches, accesses=accesses, cold=first, slots=slots, misses=misses
    )


def collection(rows, *, dim=64, optimizer=torchrec.optim.RowWiseAdagrad, dtype=DataType.FP32):
    """A model with tables of these rows by name, each with one feature."""
    dims = dim if isinstance(dim, dict) else dict.fromkeys(rows, dim)
    bags = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=name,
                embedding_dim=dims[name],
                num_embeddings=count,
                feature_names=[f"f_{name}"],
                data_type=dtype,
            )
            for name, count in rows.items()
        ],
    )
    if optimizer is not None:
        apply_optimizer_in_backward(optimizer, bags.parameters(), {"lr": 0.1})
    return nn.ModuleDict({"sparse": bags})
