"""``plain_dlrm.py`` with semantic IDs for one of its features: compare the two with ``diff``.

torchrun --nproc-per-node 2 examples/plain_dlrm.py --save checkpoints/host
torchrun --nproc-per-node 2 examples/hybrid_dlrm.py --load checkpoints/host --sids items-v1

Without ``--sids`` the bundle is made up; without ``--load`` the tables start untrained.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.optim import _apply_optimizer_in_backward as fuse  # pyright: ignore
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RawIDSource,
    SIDExpander,
    check_coverage,
    load_host_checkpoint,
)
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, load_bundle
from sidrank.sharding import verify_pipeline

NAMES = [f"cat_{index}" for index in range(26)]
ROWS, DIM, DENSE, BATCH, CPU = 1000, 16, 13, 256, torch.device("cpu")


def batches(rank: int) -> Iterator[Batch]:
    random = torch.Generator().manual_seed(rank)
    while True:
        logged = torch.randint(0, 5000, (len(NAMES), BATCH), generator=random) * 2654435761
        columns = dict(zip(NAMES, logged % ROWS, strict=True))
        columns["cat_2_raw"] = logged[2]  # the id before it was hashed
        columns["cat_2_shown"] = logged[2] % 97  # stands for a count of earlier rows
        sparse = KeyedJaggedTensor(
            keys=list(columns),
            values=torch.cat(list(columns.values())),
            lengths=torch.ones(len(columns) * BATCH, dtype=torch.int32),
        )
        labels = logged[2] // 2654435761 % 7 < 3
        yield Batch(torch.randn(BATCH, DENSE, generator=random), sparse, labels.float())


def item_sids(bundle: str) -> SIDTable:
    if bundle:
        return load_bundle(bundle).table
    items = np.arange(5000) * 2654435761  # made up: what is alike shares its first code
    codes = np.stack([items // 2654435761 % 7, np.arange(5000) % 16], axis=1)
    return SIDTable(items, codes, spec=SIDSpec((7, 16)))


def build(sids: SIDTable) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    tables = [EmbeddingBagConfig(ROWS, DIM, f"t_{n}", feature_names=[n]) for n in NAMES]
    collection = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    expander = SIDExpander({"cat_2": RawIDSource("cat_2_raw", SIDLookup(sids))})
    hybrid = HybridEmbeddingBagCollection(
        collection,
        expander.embedding_bag_configs(embedding_dim=DIM),
        expander=expander,
        gates={"cat_2": ResidualGate(statistics=["cat_2_shown"])},
    )
    model = DLRM(hybrid, DENSE, [64, DIM], [64, 1])  # pyright: ignore[reportArgumentType]
    fuse(RowWiseAdagrad, hybrid.ebc.parameters(), {"lr": 0.02})  # tables: gates are dense
    sharded = DistributedModelParallel(DLRMTrain(model), device=CPU)
    rest = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    dense = KeyedOptimizerWrapper(rest, lambda parameters: torch.optim.Adagrad(parameters, lr=0.02))
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def train(steps: int, save: str, load: str, bundle: str) -> list[float]:
    torch.manual_seed(0)
    model, optimizer = build(item_sids(bundle))
    if load:  # after sharding, which draws the weights anew
        load_host_checkpoint(model, load, optimizer=optimizer)
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU, pipeline_postproc=True)
    # no more than are trained on: the pipeline reads ahead, and would leave with a batch under way
    rows, losses = islice(batches(dist.get_rank()), steps), []
    for step in range(steps):
        loss, _, _ = pipeline.progress(rows)
        verify_pipeline(pipeline, model)
        losses.append(loss.item())
        if dist.get_rank() == 0 and step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    check_coverage(model, floor=0.9)
    if save:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        dcp.save(state, checkpoint_id=save)
    return losses


def main(arguments: Sequence[str] | None = ()) -> list[float]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--save", default="")
    parser.add_argument("--load", default="")
    parser.add_argument("--sids", default="")
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:  # without torchrun
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    losses = train(given.steps, given.save, given.load, given.sids)
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main(None)
