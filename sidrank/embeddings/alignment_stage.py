"""Teach an upgraded model its new parts first, with everything that was trained held still.

New SID tables, fusions and gates start from nothing; trained together with a host from the first
step on, they pull on weights that were right. The stage lets only what the host did not have
learn, for as long as a ``with`` block lasts; then everything learns as before.

A parameter is held still by taking away its gradient, not its learning rate: an optimiser skips
what has no gradient, whereas weight decay and momentum would move what has a gradient of zero.
So any optimiser of torch may be used, also one that already holds momentum, and the parameters
that wait, and the optimiser's state of them, stay as they were, bit for bit.

Source: OpenOneRec, arXiv 2512.24762, the alignment stage.
Differs from the source: what is new is what ``host_names`` finds in no host's checkpoint.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardedModule
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.embeddings.host_checkpoint import host_names
from sidrank.layers import FrozenRowsEmbedding

__all__ = ["alignment_stage"]


@contextmanager
def alignment_stage(model: nn.Module) -> Generator[list[str]]:
    """Let only the parameters that are new learn, within a ``with`` block.

    New is what the host's checkpoint does not hold (``host_names``): SID tables, fusions, gates,
    branches; and the new rows of a ``FrozenRowsEmbedding``. The host's buffers in the checkpoint
    (running statistics) are put back at the end. Gradients that wait in parameters of the host
    are dropped.

    The model must not be sharded, before the block or in it: a table that is fused into the
    backward pass updates itself, whether or not its parameter asks for a gradient.

    Args:
        model: An upgraded model, as it is before ``DistributedModelParallel``.

    Yields:
        Names of the parameters that learn.

    Raises:
        ValueError: If the model is sharded, wrapped by data parallelism, or holds a parameter
            of the host with an optimiser in the backward pass, or if it has no new parameter
            that may learn.

    Example:
        >>> model = nn.Sequential(FrozenRowsEmbedding(torch.ones(3, 2), num_new=2), nn.Linear(2, 1))
        >>> with alignment_stage(model) as names:
        ...     names, model[1].weight.requires_grad
        (['0.new'], False)
        >>> model[1].weight.requires_grad
        True
    """
    _refuse_wrapped(model)
    born = host_names(model)
    rows = {
        f"{path}.new" if path else "new"
        for path, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, FrozenRowsEmbedding)
    }
    learns: dict[str, nn.Parameter] = {}
    waits: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        new = name in rows or born.get(name, name) is None
        (learns if new else waits)[name] = parameter
    held = {id(parameter) for parameter in waits.values()}  # under any of its names
    learns = {
        name: parameter
        for name, parameter in learns.items()
        if id(parameter) not in held and parameter.requires_grad
    }
    if not learns:
        raise ValueError(
            f"model must have new parameters that may learn, got {type(model).__name__} without"
        )
    fused = [name for name, parameter in waits.items() if hasattr(parameter, _IN_BACKWARD)]
    if fused:
        raise ValueError(
            "model must not have an optimiser in the backward pass of what is to wait"
            f" (apply_optimizer_in_backward comes after the stage), got {fused}"
        )
    state = {name: value for name, value in model.state_dict().items() if born[name] is not None}
    buffers = {
        name: (buffer, buffer.detach().clone())
        for name, buffer in model.named_buffers()
        if name in state
    }
    asked = [(parameter, parameter.requires_grad) for parameter in waits.values()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield list(learns)
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)
        _put_back(buffers)


def _refuse_wrapped(model: nn.Module) -> None:
    kinds = (
        DistributedModelParallel,
        DistributedDataParallel,
        ShardedModule,
        FusedEmbeddingBagCollection,
    )
    found = [
        f"{type(part).__name__} at {path or 'the root'}"
        for path, part in model.named_modules()
        if isinstance(part, kinds)
    ]
    if found:
        raise ValueError(
            "model must not be sharded or wrapped yet: tables fused into the backward pass cannot"
            f" be held still, got {found}"
        )


def _put_back(buffers: dict[str, tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, before in buffers.values():
            buffer.copy_(before)


_IN_BACKWARD = "_in_backward_optimizers"
