"""A state's tensors as one string of bytes, and its way to the other ranks.

Ranks hold different numbers of rows, of 32 or of 64 bits. One vector of bytes that says what is
in it travels through any collective, and every rank learns what all hold before the first large
transfer, so that ranks that do not fit together refuse together instead of waiting for ever.

Nothing is unpickled: the head is JSON, the rest plain numbers.

Shapes: ``[w]`` bytes.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "pack", "read_columns", "signed", "unpack", "unsigned"]

_DTYPES = {name: np.dtype(name) for name in ("bool", "uint8", "int32", "int64", "float64")}
_KIND = 32  # bytes for the name of what a rank holds


def pack(tensors: Mapping[str, Tensor]) -> Tensor:
    """Write vectors into one.

    Args:
        tensors: Vectors by name.

    Returns:
        Bytes, shape ``[w]``.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    head = json.dumps({name: [a.dtype.name, len(a)] for name, a in arrays.items()}).encode()
    size = np.array([len(head)], np.int64)
    parts = [size.view(np.uint8), np.frombuffer(head, np.uint8)]
    return torch.from_numpy(np.concatenate([*parts, *(a.view(np.uint8) for a in arrays.values())]))


def unpack(wire: Tensor) -> dict[str, Tensor]:
    """Read what :func:`pack` wrote.

    Args:
        wire: Bytes, shape ``[w]``.

    Returns:
        Vectors by name, in memory of their own.

    Raises:
        ValueError: If the bytes are not such a state, or end too early.
    """
    data = wire.detach().cpu().numpy()
    try:
        end = 8 + int(data[:8].view(np.int64)[0])
        head = {n: (_DTYPES[d], int(r)) for n, (d, r) in json.loads(bytes(data[8:end])).items()}
        tensors: dict[str, Tensor] = {}
        for name, (dtype, rows) in head.items():
            start, end = end, end + rows * dtype.itemsize
            if rows < 0 or end > len(data):
                raise ValueError
            tensors[name] = torch.from_numpy(data[start:end].copy().view(dtype))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"state must be the bytes of a streaming metric, got {len(data)} others"
        ) from None
    return tensors


def read_columns(
    state: Mapping[str, Tensor], dtypes: Mapping[str, tuple[torch.dtype, ...]]
) -> dict[str, npt.NDArray[Any]]:
    """Copy vectors out of a state dictionary.

    Args:
        state: Tensors by name.
        dtypes: The names there must be, and the dtypes that each may have.

    Returns:
        Arrays by name.

    Raises:
        ValueError: If a name is missing or unknown, or a tensor is not such a vector.
    """
    if set(state) != set(dtypes):
        raise ValueError(f"state must have the tensors {sorted(dtypes)}, got {sorted(state)}")
    for name, tensor in state.items():
        if tensor.dim() != 1 or tensor.dtype not in dtypes[name]:
            wanted = " or ".join(str(dtype) for dtype in dtypes[name])
            raise ValueError(
                f"state must hold {name} as a vector of {wanted}, "
                f"got {tensor.dtype} of shape {list(tensor.shape)}"
            )
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in state.items()}


def signed(keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same bits as a dtype that every collective and file format moves.

    Args:
        keys: Integers of 32 or 64 bits, signed or not.

    Returns:
        int32 or int64 that share memory.
    """
    return keys.view(np.int32 if keys.dtype.itemsize == 4 else np.int64)


def unsigned(bits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Undo :func:`signed` for keys.

    Args:
        bits: int32 or int64.

    Returns:
        uint32 or uint64 that share memory.
    """
    return bits.view(np.uint32 if bits.dtype.itemsize == 4 else np.uint64)


def gathered(
    tensors: Mapping[str, Tensor], kind: str, group: dist.ProcessGroup | None
) -> Iterator[dict[str, Tensor]]:
    """Give the state of every rank, this one's included, in the order of the ranks.

    Take all of them: each is a collective.

    Args:
        tensors: This rank's state.
        kind: What it is; at most 32 bytes.
        group: The ranks, on a backend that moves CPU tensors; None for the default group.

    Yields:
        States, the same on every rank.

    Raises:
        ValueError: If there is no process group, this rank is not in it, or ranks hold states of
            different kinds; the last on all of them.
    """
    if not dist.is_initialized():
        raise ValueError(
            "process_group must exist, got none (call torch.distributed.init_process_group first)"
        )
    here = dist.get_rank(group)
    if here < 0:
        raise ValueError(f"process_group must contain this rank, got {group}")
    wire = pack(tensors)
    label = np.frombuffer(kind.encode().ljust(_KIND), np.uint8)
    head = torch.from_numpy(np.append(label, np.array([len(wire)]).view(np.uint8)))
    heads = [torch.empty_like(head) for _ in range(dist.get_world_size(group))]
    dist.all_gather(heads, head, group=group)
    kinds = [bytes(head[:_KIND].numpy()).decode().strip() for head in heads]
    if len(set(kinds)) > 1:
        raise ValueError(f"ranks must hold states of one kind, got {', '.join(kinds)}")
    for rank, head in enumerate(heads):
        size = int(head[_KIND:].numpy().view(np.int64)[0])
        given = wire if rank == here else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(given, group=group, group_src=rank)
        yield unpack(given)
