"""What of a checkpoint can be read under another sharding, on one rank and on two.

Two tables under a dense layer, trained for three steps, saved and read into a model of another
seed: by `torch.distributed.checkpoint` (DCP) the weights alone, then weights and optimiser state,
each compared bit for bit with what was saved; then by `TrainingCheckpoints`.

    python -m benchmarks.reshard_matrix
"""

import argparse
import itertools
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.optim import _apply_optimizer_in_backward as fuse
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.sharding.training_checkpoints import TrainingCheckpoints
from tests.ranks import Ranks

RESULTS = Path(__file__).parent / "results" / "reshard_matrix.json"
WAYS = ["table_wise", "row_wise", "column_wise", "data_parallel"]
OPTIMIZERS = {"row-wise Adagrad": RowWiseAdagrad, "Adagrad": torch.optim.Adagrad}
TABLES = {"t": 12, "u": 9}
DIM = 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=DIM, feature_names=[n])
            for n, rows in TABLES.items()
        ]
        self.ebc = EmbeddingBagCollection(tables=tables)
        self.over = nn.Linear(DIM * len(TABLES), 1)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        return self.over(self.ebc(features).values()).sum()


def build(way: str, optimizer: str, seed: int) -> tuple[nn.Module, CombinedOptimizer]:
    torch.manual_seed(seed)
    net, world = Net(), dist.get_world_size()
    if way != "data_parallel":
        fuse(OPTIMIZERS[optimizer], net.ebc.parameters(), {"lr": 0.1})
    halves = [0, world - 1]  # of the columns: on one rank both are there
    on = {
        "table_wise": lambda at: table_wise(rank=at % world),
        "row_wise": lambda _: row_wise(compute_kernel="fused"),
        "column_wise": lambda _: column_wise(ranks=halves),
        "data_parallel": lambda _: data_parallel(),
    }[way]
    plan = construct_module_sharding_plan(
        net.ebc,
        per_param_sharding={name: on(at) for at, name in enumerate(TABLES)},
        sharder=EmbeddingBagCollectionSharder(),
        local_size=world,
        world_size=world,
        device_type="cpu",
    )
    model = DistributedModelParallel(
        net, device=torch.device("cpu"), plan=ShardingPlan({"ebc": plan})
    )
    rest = dict(in_backward_optimizer_filter(model.named_parameters()))
    dense = KeyedOptimizerWrapper(rest, lambda parameters: torch.optim.Adagrad(parameters, lr=0.1))
    return model, CombinedOptimizer([model.fused_optimizer, dense])


def save(folder: Path, way: str, optimizer: str) -> None:
    model, both = build(way, optimizer, seed=0)
    for step in range(3):
        ids = torch.tensor([step, 3, 4 + dist.get_rank(), 8] * len(TABLES))
        features = KeyedJaggedTensor([*TABLES], ids, lengths=torch.ones_like(ids).int())
        both.zero_grad()
        model(features).backward()
        both.step()
    TrainingCheckpoints(folder).save(3, model, both)


def load(folder: Path, way: str, optimizer: str) -> dict[str, str]:
    place = next(folder.glob("step-*"))
    found: dict[str, str] = {}
    for what, reads in {"weights": ["model"], "with_state": ["model", "optimizer"]}.items():
        parts = dict(zip(["model", "optimizer"], build(way, optimizer, seed=1), strict=True))
        state = {name: parts[name].state_dict() for name in reads}
        try:
            dcp.load(state, checkpoint_id=place)
            for name in reads:
                parts[name].load_state_dict(state[name])
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            found[what] = f"refused: {_cause(error)}"
            continue
        again = {name: parts[name].state_dict() for name in reads}
        found[what] = _compared(place, again, reads)
    model, both = build(way, optimizer, seed=1)
    try:
        TrainingCheckpoints(folder).load(model, both)
        found["ours"] = "goes on"
    except ValueError as error:
        found["ours"] = f"refused: {str(error).removeprefix(f'{place}: ')}"
    return found


def _compared(place: Path, state: dict[str, Any], reads: list[str]) -> str:
    top = [tempfile.mkdtemp()]
    dist.broadcast_object_list(top)
    dcp.save(state, checkpoint_id=(again := Path(top[0]) / "again"))
    dist.barrier()
    one, other = (_whole(each, reads) for each in (place, again))
    if one.keys() != other.keys():
        return "other names"
    same = all(torch.equal(one[name], other[name]) for name in one)
    return "exact" if same else "other values"


def _whole(place: Path, reads: list[str]) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(place, file := Path(folder) / "whole.pt")
        state = torch.load(file, weights_only=False)
    flat = dict(_leaves({name: state[name] for name in reads}, ""))
    return {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}


def _leaves(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}")
    else:
        yield name, value


def _cause(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    started, rows = time.time(), []
    groups = {world: Ranks(world_size=world) for world in (1, 2)}
    with tempfile.TemporaryDirectory() as top:
        for optimizer, way, ranks in itertools.product(OPTIMIZERS, WAYS, groups):
            folder = Path(top) / optimizer / way / str(ranks)
            groups[ranks].run(save, folder, way, optimizer)
            for to, on in itertools.product(WAYS, groups):
                found = groups[on].run(load, folder, to, optimizer)[0]
                case = {"optimizer": optimizer, "saved": [way, ranks], "loaded": [to, on]}
                rows.append(case | found)
                print(rows[-1], flush=True)
    for group in groups.values():
        group.close()
    report = {
        "command": "python -m benchmarks.reshard_matrix",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seconds": time.time() - started,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
