"""A hybrid DLRM trains for weeks: sharded, killed, resumed, on as many ranks as there are.

torchrun --nproc-per-node 2 examples/train_distributed.py --out run
torchrun --nproc-per-node 1 examples/train_distributed.py --out run --steps 240  # goes on
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch.distributed.optim import _apply_optimizer_in_backward as fuse  # pyright: ignore
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter
from tqdm import tqdm

from sidrank.data import (
    ExposureStatistics,
    ExposureStream,
    PlantedSettings,
    RowColumns,
    RowPlan,
    RowStream,
    plant_log,
)
from sidrank.embeddings import HybridEmbeddingBagCollection, RawIDSource, SIDExpander, features_of
from sidrank.layers import ResidualGate
from sidrank.metrics import StreamingAUC
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, load_bundle, save_bundle
from sidrank.sharding import TrainingCheckpoints, verify_pipeline, verify_plan

ROWS, BATCH, DIM, CPU = {"user": 300, "item": 2000}, 256, 16, torch.device("cpu")
LANES, HOUR, COUNTS = 8, 3_600_000, ["shown", "liked"]


def plant(folder: Path, steps: int = 320) -> None:
    log = plant_log(PlantedSettings(rows=steps * BATCH, users=ROWS["user"], items=ROWS["item"]))
    columns = {"user": log.user_index, "item": log.item % ROWS["item"], "item_raw": log.item}
    columns |= {"time": log.timestamp, "hour": log.timestamp // HOUR % 24, "label": log.label}
    folder.mkdir(parents=True, exist_ok=True)
    for lane in range(LANES):  # as a queue's partitions: together they are in the order of time
        rows = pa.table({name: column[lane::LANES] for name, column in columns.items()})
        pq.write_table(rows, folder / f"log-{lane}.parquet", row_group_size=1000)
    save_bundle(folder / "sids", SIDTable(log.item_ids, log.item_codes, spec=SIDSpec((8, 8, 8))))


def build(sids: SIDTable) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    tables = [EmbeddingBagConfig(n, DIM, f"t_{f}", feature_names=[f]) for f, n in ROWS.items()]
    host = EmbeddingBagCollection(tables=tables)
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))})
    added, gate = expander.embedding_bag_configs(embedding_dim=DIM), ResidualGate(statistics=COUNTS)
    hybrid = HybridEmbeddingBagCollection(host, added, expander=expander, gates={"item": gate})
    model = DLRMTrain(DLRM(hybrid, 1, [DIM], [32, 1]))  # pyright: ignore[reportArgumentType]
    fuse(RowWiseAdagrad, hybrid.ebc.parameters(), {"lr": 0.02})
    # Not column-wise: the state of a row-wise Adagrad does not reshard from or to it.
    ways = ParameterConstraints(["table_wise", "row_wise"], ["fused"])
    constraints = {table.name: ways for table in [*tables, *added]}
    plan = EmbeddingShardingPlanner(constraints=constraints).collective_plan(model)
    verify_plan(model, plan)
    sharded = DistributedModelParallel(model, device=CPU, plan=plan)
    rest = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    dense = KeyedOptimizerWrapper(rest, lambda parameters: torch.optim.Adagrad(parameters, lr=0.1))
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def warm_up(step: int) -> float:
    """Of the step alone: TorchRec's optimisers do not save their rates."""
    return min(1.0, step / 30)


def train(out: Path, data: Path, steps: int, every: int) -> dict[str, list[list[float]]]:
    columns = RowColumns(["label"], dense=["hour"], sparse=["user", "item", "item_raw", "time"])
    plan, rank = RowPlan(data, batch_rows=BATCH, lanes=LANES, seed=None), dist.get_rank()
    steps = min(steps, plan.steps)  # each row once, as they come
    stream = ExposureStream(
        RowStream(plan, columns, rank=rank, world_size=dist.get_world_size()),
        # a label is known an hour after its row
        ExposureStatistics(statistics=COUNTS, window=7 * 24 * HOUR, delay=HOUR),
        item="item_raw",
        timestamp="time",
        labels={"liked": "label"},
    )
    torch.manual_seed(rank)
    model, optimizer = build(load_bundle(data / "sids").table)
    rates = [group["lr"] for group in optimizer.param_groups]
    checkpoints, auc = TrainingCheckpoints(out), StreamingAUC()
    found: list[list[float]] = []
    if progress := checkpoints.load(model, optimizer):  # refuses what does not fit
        stream.load_state_dict(progress["stream"])  # refuses other rows
        found = progress["auc"]
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU, pipeline_postproc=True)
    batches = (Batch(each.dense, features_of(each), each.labels[:, 0]) for each in stream)
    for step in (bar := tqdm(range(stream.step + 1, steps + 1), disable=rank > 0)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warm_up(step)
        _, logits, labels = pipeline.progress(batches)
        verify_pipeline(pipeline, model)
        auc.update(labels, logits)  # of rows that were not trained on yet
        if step % every == 0 or step == steps:
            auc.all_reduce()
            found.append([step, auc.compute()])
            bar.set_postfix(auc=auc.compute())
            auc.reset()
            state = {"stream": stream.state_dict(step), "auc": found}  # the pipeline read further
            checkpoints.save(step, model, optimizer, state)
    return {"auc": found}


def main(arguments: Sequence[str] | None = ()) -> dict[str, list[list[float]]]:
    parser = argparse.ArgumentParser()
    for name, default in {"out": "", "data": "", "steps": 120, "every": 20}.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    given, begun = parser.parse_args(arguments), dist.is_initialized()
    if not begun and "RANK" in os.environ:
        restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
        if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            told = "1 for --max-restarts, else new ranks wait for the dead at their addresses"
            raise ValueError(f"TORCH_DISABLE_SHARE_RDZV_TCP_STORE must be {told}")
        dist.init_process_group("gloo")
    elif not begun:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as scratch:
        out = [given.out or scratch]
        dist.broadcast_object_list(out)
        data = Path(given.data or Path(out[0]) / "rows")
        if dist.get_rank() == 0 and not (data / "sids").exists():
            plant(data)
        dist.barrier()
        found = train(Path(out[0]), data, given.steps, given.every)
        dist.barrier()  # the folder is rank 0's
    if not begun:
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    main(None)
