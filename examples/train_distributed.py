"""A hybrid DLRM trains for weeks: sharded, killed, resumed, on as many ranks as there are.

torchrun --nproc-per-node 2 examples/train_distributed.py --out run
torchrun --nproc-per-node 1 examples/train_distributed.py --out run --steps 240  # goes on
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.optim import _apply_optimizer_in_backward as fuse  # pyright: ignore
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter
from tqdm import tqdm

from sidrank.data import PlantedSettings, RowColumns, RowPlan, RowStream, plant_log
from sidrank.embeddings import HybridEmbeddingBagCollection, RawIDSource, SIDExpander, features_of
from sidrank.layers import ResidualGate
from sidrank.metrics import StreamingAUC
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, load_bundle, save_bundle
from sidrank.sharding import verify_pipeline, verify_plan

ROWS, BATCH, DIM, CPU = {"user": 300, "item": 2000}, 256, 16, torch.device("cpu")


def plant(folder: Path) -> None:
    log = plant_log(PlantedSettings(rows=100 * BATCH, users=ROWS["user"], items=ROWS["item"]))
    columns = {"user": log.user_index, "item": log.item % ROWS["item"], "item_raw": log.item}
    columns |= {"hour": log.timestamp // 3_600_000 % 24, "label": log.label}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "log.parquet", row_group_size=1000)
    save_bundle(folder / "sids", SIDTable(log.item_ids, log.item_codes, spec=SIDSpec((8, 8, 8))))


def build(sids: SIDTable) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    tables = [EmbeddingBagConfig(n, DIM, f"t_{f}", feature_names=[f]) for f, n in ROWS.items()]
    host = EmbeddingBagCollection(tables=tables)
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))})
    added, gate = expander.embedding_bag_configs(embedding_dim=DIM), ResidualGate(statistics=[])
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


def save(folder: Path, state: dict[str, Any], progress: dict[str, Any]) -> None:
    half = folder.with_name(f"writing-{folder.name}")  # a name that is never loaded
    dcp.save(state | {f"rng{dist.get_rank()}": torch.get_rng_state()}, checkpoint_id=half)
    dist.barrier()
    if dist.get_rank() == 0:
        (half / "progress.json").write_text(json.dumps(progress))
        os.sync()  # for a power cut
        half.rename(folder)


def load(folder: Path, model: torch.nn.Module, optimizer: CombinedOptimizer) -> None:
    state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    has = {n: list(getattr(v, "size", [])) for n, v in saved.items() if n.startswith("model.")}
    own = {f"model.{n}": list(getattr(v, "shape", [])) for n, v in state["model"].items()}
    wrong = [n for n in own | has if own.get(n) != has.get(n)]  # DCP skips what the model lacks
    if facts := "; ".join(f"{n} must be {own.get(n)}, got {has.get(n)}" for n in wrong):
        raise ValueError(f"{folder}: {facts}")
    if (key := f"rng{dist.get_rank()}") in saved:  # there may be more ranks than then
        state[key] = torch.get_rng_state()
    dcp.load(state, checkpoint_id=folder)  # resharded, into the tensors themselves
    torch.set_rng_state(state.get(key, torch.get_rng_state()))
    model.load_state_dict(state["model"])  # refuses another SID table


def train(out: Path, data: Path, steps: int, every: int) -> dict[str, Any]:
    columns = RowColumns(["label"], dense=["hour"], sparse=["user", "item", "item_raw"])
    plan, rank, world = RowPlan(data, batch_rows=BATCH), dist.get_rank(), dist.get_world_size()
    stream, auc = RowStream(plan, columns, rank=rank, world_size=world), StreamingAUC()
    torch.manual_seed(rank)
    model, optimizer = build(load_bundle(data / "sids").table)
    progress: dict[str, Any] = {"auc": []}
    newest = [max(out.glob("step-*"), default=None)]
    dist.broadcast_object_list(newest)
    if newest[0]:
        progress = json.loads((newest[0] / "progress.json").read_text())
        stream.load_state_dict(progress["stream"])  # refuses other rows
        load(newest[0], model, optimizer)
    pipeline = TrainPipelineSparseDist(model, optimizer, CPU, pipeline_postproc=True)
    rows = chain.from_iterable(repeat(stream))  # epochs without end
    batches = (Batch(each.dense, features_of(each), each.labels[:, 0]) for each in rows)
    for step in (bar := tqdm(range(stream.step + 1, steps + 1), disable=rank > 0)):
        _, logits, labels = pipeline.progress(batches)
        verify_pipeline(pipeline, model)
        auc.update(labels, logits)  # of rows that were not trained on yet
        if step % every == 0 or step == steps:
            auc.all_reduce()
            progress["auc"].append([step, auc.compute()])
            bar.set_postfix(auc=auc.compute())
            auc.reset()
            progress["stream"] = stream.state_dict(step)  # the pipeline has read further
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save(out / f"step-{step:08}", state, progress)
    return progress


def main(arguments: Sequence[str] | None = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    for name, default in {"out": "", "data": "", "steps": 120, "every": 40}.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    given, begun = parser.parse_args(arguments), dist.is_initialized()
    if not begun and "RANK" in os.environ:
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
