"""Whether a checkpoint is that of a model and its optimiser, entry by entry.

Names are those of ``torch.distributed.checkpoint`` (DCP): ``model.<name>``,
``optimizer.state.<parameter>.<name>``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torchrec.optim.fused import FusedOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from sidrank.sharding._together import on_all_ranks

__all__ = ["Size", "bear_state", "require_fit", "size_of"]

Size: TypeAlias = list[int] | None
_COMPARED = ("model.", "optimizer.state.")  # rates, if they were saved, depend on the sharding
_SHOWN = 4


def size_of(value: Any) -> Size:
    """The size of a tensor, sharded or not, or of what DCP knows of one.

    Args:
        value: Anything.

    Returns:
        The whole tensor's size; None for any other value.
    """
    if isinstance(value, ShardedTensor):
        return list(value.metadata().size)
    size: Any = getattr(value, "size", None)
    return None if size is None else list(cast(Any, size() if callable(size) else size))


def bear_state(optimizer: KeyedOptimizer, saved: Mapping[str, Size], prefix: str = "") -> None:
    """Make state exist that comes with the first step, or there is nothing to read it into.

    Parameters that had none when the checkpoint was written go without it still.

    Args:
        optimizer: Any; values and gradients of its parameters stay as they are.
        saved: Names that the checkpoint holds.
        prefix: Of the optimiser within others.
    """
    if isinstance(optimizer, CombinedOptimizer):
        for name, part in optimizer.optimizers:
            bear_state(part, saved, CombinedOptimizer.prepend_opt_key(name, prefix))
        return
    if isinstance(optimizer, FusedOptimizer):
        return  # born with its tables
    lazy = {
        f"optimizer.state.{CombinedOptimizer.prepend_opt_key(key, prefix)}.": parameter
        for key, parameter in optimizer.params.items()
        if not optimizer.state.get(parameter)
    }
    had = {name for name in lazy if any(entry.startswith(name) for entry in saved)}
    if not had:
        return
    before = [(each, each.detach().clone(), each.grad) for each in optimizer.params.values()]
    optimizer.init_state()  # a step with gradients of zero
    with torch.no_grad():
        for parameter, value, gradient in before:
            parameter.copy_(value)
            parameter.grad = gradient
    for name in lazy.keys() - had:
        cast(dict[Any, Any], optimizer.state).pop(lazy[name], None)


def require_fit(place: Path, state: dict[str, Any], saved: Mapping[str, Size]) -> None:
    """Refuse a checkpoint of other entries, or of entries of another size, on every rank.

    Args:
        place: The checkpoint, for the message.
        state: What is to be read on this rank.
        saved: Names that the checkpoint holds, with sizes.

    Raises:
        ValueError: If they differ: which, what the model has, what the checkpoint has.
    """
    mine = {name: size_of(value) for name, value in flatten_state_dict(state)[0].items()}
    # a rank's fused optimiser knows only the tables that it holds a part of
    everyone = on_all_ranks(mine)
    own = {k: size for rank in everyone for k, size in rank.items() if k.startswith(_COMPARED)}
    has = {name: size for name, size in saved.items() if name.startswith(_COMPARED)}
    facts = [
        f"{name} must {_told(name, own)}, got {_found(name, has)}"
        for name in dict.fromkeys([*own, *has])
        if (name in own) != (name in has) or own[name] != has[name]
    ]
    if facts:
        more = f"; and {len(facts) - _SHOWN} more" if len(facts) > _SHOWN else ""
        raise ValueError(f"{place}: {'; '.join(facts[:_SHOWN])}{more}")


def _told(name: str, own: Mapping[str, Size]) -> str:
    return f"have shape {own[name]}" if name in own else "not be there"


def _found(name: str, has: Mapping[str, Size]) -> str:
    return f"{has[name]}" if name in has else "nothing of that name"
