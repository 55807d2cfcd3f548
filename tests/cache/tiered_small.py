"""One table of twenty rows, and batches of one id each."""

import torch
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.tiered import TieredEmbeddingBagCollection

SGD = RowOptimizer(torch.optim.SGD, lr=0.5)


def table(name="t", dim=4, rows=20, **more):
    return EmbeddingBagConfig(
        name=name, embedding_dim=dim, num_embeddings=rows, feature_names=["f"], **more
    )


def small(slots=4, **more):
    return TieredEmbeddingBagCollection([table()], slots=slots, optimizer=SGD, **more)


def asked(*ids, dtype=torch.int64):
    """One row of the batch for each id."""
    lengths = torch.ones(len(ids), dtype=torch.int32)
    return KeyedJaggedTensor(["f"], torch.tensor(ids, dtype=dtype), lengths=lengths)
