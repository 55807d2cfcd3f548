"""A DLRM as it is before: 13 numbers and 26 hashed ids a row, TorchRec alone, nothing of sidrank.

torchrun --nproc-per-node 2 examples/plain_dlrm.py --save checkpoints/host

``hybrid_dlrm.py`` is this script with semantic IDs: compare the two with ``diff``.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import islice

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

NAMES = [f"cat_{index}" for index in range(26)]
ROWS, DIM, DENSE, BATCH, CPU = 1000, 16, 13, 256, torch.device("cpu")


def batches(rank: int) -> Iterator[Batch]:
    random = torch.Generator().manual_seed(rank)
    while True:
        logged = torch.randint(0, 5000, (len(NAMES), BATCH), generator=random) * 2654435761
        columns = dict(zip(NAMES, logged % ROWS, strict=True))
        sparse = KeyedJaggedTensor(
            keys=list(columns),
            values=torch.cat(list(columns.values())),
            lengths=torch.ones(len(columns) * BATCH, dtype=torch.int32),
        )
        labels = logged[2] // 2654435761 % 7 < 3
        yield Batch(torch.randn(BATCH, DENSE, generator=random), sparse, labels.float())


def build() -> tuple[DistributedModelParallel, CombinedOptimizer]:
    tables = [EmbeddingBagConfig(ROWS, DIM, f"t_{n}", feature_names=[n]) for n in NAMES]
    collection = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    model = DLRM(collection, DENSE, [64, DIM], [64, 1])
    fuse(RowWiseAdagrad, model.sparse_arch.parameters(), {"lr": 0.02})
    sharded = DistributedModelParallel(DLRMTrain(model), device=CPU)
    rest = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    dense = KeyedOptimizerWrapper(rest, lambda parameters: torch.optim.Adagrad(parameters, lr=0.02))
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def train(steps: int, save: str) -> list[float]:
    torch.manual_seed(0)
    model, optimizer = build()
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU)
    # no more than are trained on: the pipeline reads ahead, and would leave with a batch under way
    rows, losses = islice(batches(dist.get_rank()), steps), []
    for step in range(steps):
        loss, _, _ = pipeline.progress(rows)
        losses.append(loss.item())
        if dist.get_rank() == 0 and step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    if save:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        dcp.save(state, checkpoint_id=save)
    return losses


def main(arguments: Sequence[str] | None = ()) -> list[float]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--save", default="")
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:  # without torchrun
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    losses = train(given.steps, given.save)
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main(None)
