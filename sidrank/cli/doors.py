"""What `sidrank doctor` tries: each door is really used, once, on something tiny.

A door runs in a process of its own (`python -m sidrank.cli.doors NAME`), because a library of the
wrong pairing may end the process instead of raising. The last line it prints is a JSON object:
`{"error": null}` or `{"error": "OSError: ..."}`, with what it learnt about the machine.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Callable

__all__ = ["DOORS", "TORCH_ONLY_ROOMS", "evaluation", "planner", "torch_only", "torchrec"]

TORCH_ONLY_ROOMS = (
    "data",
    "layers",
    "losses",
    "metrics",
    "semantic_ids",
    "sequences",
    "tokenizers",
    "towers",
)


def torch_only() -> dict[str, str | None]:
    """Import every room that needs torch alone.

    Returns:
        The CUDA version torch was built for and the GPU it sees, each None without one.
    """
    import torch

    for room in TORCH_ONLY_ROOMS:
        importlib.import_module(f"sidrank.{room}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cuda": torch.version.cuda, "gpu": gpu}


def evaluation() -> dict[str, str | None]:
    """Ask for the AUC of tied scores.

    Returns:
        Nothing more.

    Raises:
        ArithmeticError: If the answer is not one half.
    """
    import numpy as np

    from sidrank.metrics import auc

    value = float(auc(np.array([0, 1, 0, 1]), np.full(4, 0.5)))
    if value != 0.5:
        raise ArithmeticError(f"AUC of four tied scores must be 0.5, got {value}")
    return {}


def torchrec() -> dict[str, str | None]:
    """Run an embedding bag collection of two rows.

    Returns:
        Nothing more.

    Raises:
        ArithmeticError: If the pooled value is not the sum of the rows.
    """
    import torch
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    importlib.import_module("sidrank.embeddings")
    table = EmbeddingBagConfig(
        name="table", num_embeddings=2, embedding_dim=4, feature_names=["feature"]
    )
    collection = EmbeddingBagCollection(tables=[table])
    batch = KeyedJaggedTensor(
        keys=["feature"], values=torch.tensor([0, 1]), lengths=torch.tensor([2])
    )
    pooled = collection(batch)["feature"].detach()
    expected = collection.embedding_bags["table"].weight.detach().sum(0, keepdim=True)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    if not torch.allclose(pooled, expected):
        raise ArithmeticError(f"pooled rows must be {expected.tolist()}, got {pooled.tolist()}")
    return {}


def planner() -> dict[str, str | None]:
    """Plan a table for two GPUs; none is needed for that.

    Returns:
        Nothing more.

    Raises:
        PlanError: If the plan leaves the table out.
    """
    import torch
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology

    from sidrank.sharding import verify_plan

    table = EmbeddingBagConfig(
        name="table", num_embeddings=1000, embedding_dim=16, feature_names=["feature"]
    )
    model = torch.nn.Sequential(EmbeddingBagCollection([table], device=torch.device("meta")))
    topology = Topology(world_size=2, compute_device="cuda")
    sharders = [EmbeddingBagCollectionSharder()]
    plan = EmbeddingShardingPlanner(topology=topology).plan(model, sharders)  # pyright: ignore[reportArgumentType]
    verify_plan(model, plan)
    return {}


DOORS: dict[str, Callable[[], dict[str, str | None]]] = {
    "torch_only": torch_only,
    "evaluation": evaluation,
    "torchrec": torchrec,
    "planner": planner,
}


def _answer(name: str) -> dict[str, str | None]:
    try:
        return {"error": None, **DOORS[name]()}
    except Exception as error:
        reason = " ".join(str(error).split()) or _place(error)
        return {"error": f"{type(error).__name__}: {reason}"}


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_answer(sys.argv[1])) + "\n")
