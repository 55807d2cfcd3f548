"""Load a host's checkpoint into the same host with semantic IDs added.

The order is build, shard, load: ``DistributedModelParallel`` draws table weights anew, so what
was loaded before is lost. The mapping of names (``host_names``):

==================================================  ========================================
in the upgraded model                               in the host's checkpoint
==================================================  ========================================
``<hybrid>.ebc.embedding_bags.<t>.weight``          ``<hybrid>.embedding_bags.<t>.weight``
``<wide_and_deep>.host.<name>``                     ``<wide_and_deep>.<name>``
anything else of ours                               absent: keeps its birth value
every other name                                    the same
==================================================  ========================================

Optimiser state follows its parameter. Everything is compared first (names, shapes) and only
then written, in place, so a checkpoint that does not fit changes nothing. ``strict=False``
is never used: TorchRec's ``load_state_dict`` changes the dict it is given, and a second
try with ``strict=False`` then loads no dense weight and says nothing.

A host's table must keep its compute kernel: state of a fused optimiser is not that of a dense one.

Source: ours.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.shards_wrapper import LocalShardsWrapper
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from sidrank.embeddings.hybrid import HybridEmbeddingBagCollection
from sidrank.embeddings.memorization import MemorizationBranch, WideAndDeep

__all__ = ["host_names", "load_host_checkpoint"]


def host_names(model: nn.Module) -> dict[str, str | None]:
    """Where each entry of the model's ``state_dict`` stood in the host's.

    Args:
        model: A model that holds our modules, sharded or not.

    Returns:
        The host's name of each entry; None for what the host did not have.
    """
    module = model.module if isinstance(model, DistributedModelParallel) else model
    hybrids: dict[str, set[str]] = {}
    wides: list[str] = []
    branches: list[str] = []
    for path, part in module.named_modules(remove_duplicate=False):
        dotted = f"{path}." if path else ""
        if isinstance(part, HybridEmbeddingBagCollection):
            hybrids[dotted] = {config.name for config in part.embedding_bag_configs()}
        elif isinstance(part, WideAndDeep):
            wides.append(dotted)
        elif isinstance(part, MemorizationBranch):
            branches.append(dotted)
    return {
        name: None if name.startswith(tuple(branches)) else _host_name(name, hybrids, wides)
        for name in model.state_dict()
    }


def load_host_checkpoint(
    model: nn.Module,
    checkpoint: Mapping[str, Any] | str | Path,
    *,
    optimizer: KeyedOptimizer | None = None,
    keys: tuple[str, str] = ("model", "optimizer"),
) -> list[str]:
    """Load a host's weights, and its optimiser's state, into the upgraded model, in place.

    Args:
        model: The upgraded model, sharded by ``DistributedModelParallel`` or not.
        checkpoint: A directory written by ``torch.distributed.checkpoint`` (tables are then
            resharded to any number of ranks; every rank calls), or a mapping in memory. Either
            holds the host's ``state_dict()`` and, if ``optimizer`` is given, its optimiser's.
        optimizer: The upgraded model's optimiser: ``fused_optimizer``, a
            ``KeyedOptimizerWrapper``, or a ``CombinedOptimizer`` of both under empty prefixes.
            Parameters the host did not have keep fresh state; hyper-parameters (learning rate,
            decay) stay those of this optimiser.
        keys: Under which names the checkpoint holds the two.

    Returns:
        Names of the entries the host did not have: what is new and starts from birth.

    Raises:
        TypeError: If ``checkpoint`` is neither, or ``optimizer`` is not keyed by parameter names.
        ValueError: If the checkpoint lacks an entry, has one the model does not use, or has it in
            another shape, kind or sharding, or if a file of the directory is short. All ranks
            refuse together and nothing has been changed then. (A file damaged inside is found
            by the reading itself: build the model anew after that.)
    """
    if not isinstance(checkpoint, Mapping | str | Path):
        raise TypeError(
            f"checkpoint must be a mapping or a directory, got {type(checkpoint).__name__}"
        )
    if optimizer is not None and not isinstance(optimizer, KeyedOptimizer):
        raise TypeError(
            "optimizer must be a torchrec KeyedOptimizer (wrap it in KeyedOptimizerWrapper),"
            f" got {type(optimizer).__name__}"
        )
    born = [] if optimizer is None else _ensure_state(optimizer)
    keep: set[int] = set()
    try:
        new, keep = _load(model, checkpoint, optimizer, keys)
    finally:  # state that no checkpoint filled is born at its first step, as ever
        for part, param in born:
            if id(param) not in keep:
                cast(dict[Any, Any], part.state).pop(param, None)
    return new


def _load(
    model: nn.Module,
    checkpoint: Mapping[str, Any] | str | Path,
    optimizer: KeyedOptimizer | None,
    keys: tuple[str, str],
) -> tuple[list[str], set[int]]:
    names = host_names(model)
    keep: set[int] = set()
    own = model.state_dict()
    targets = {host: own[name] for name, host in names.items() if host is not None}
    new = [name for name, host in names.items() if host is None]
    states: dict[str, Any] = {}
    if optimizer is not None:
        parameters = {key: names.get(key) for key in optimizer.params}
        keep = {id(param) for key, param in optimizer.params.items() if parameters[key]}
        current = optimizer.state_dict()["state"]
        states = {host: current[k] for k, host in parameters.items() if host and k in current}
    wanted = {f"{keys[0]}.{name}": value for name, value in targets.items()}
    wanted.update((f"{keys[1]}.state.{name}", value) for name, value in _leaves(states))

    def set_extra_state(given: Mapping[str, Any]) -> None:
        module = model.module if isinstance(model, DistributedModelParallel) else model
        for name, host in names.items():
            if host is not None and name.endswith(_EXTRA):
                owner = module.get_submodule(name.removesuffix(_EXTRA).rstrip("."))
                owner.set_extra_state(given[f"{keys[0]}.{host}"])

    sharded = any(_shards(value) is not None for value in targets.values())
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        _check_directory(path, wanted, keys, sharded)
        extra = {name: value for name, value in wanted.items() if name.endswith(_EXTRA)}
        if extra:
            _read(path, extra)
            set_extra_state(extra)  # first: it may refuse
        _read(path, {name: value for name, value in wanted.items() if name not in extra})
    else:
        given = {f"{keys[0]}.{name}": v for name, v in _section(checkpoint, keys[0]).items()}
        if optimizer is not None:
            state = _section(_section(checkpoint, keys[1]), "state")
            given.update((f"{keys[1]}.state.{name}", v) for name, v in _leaves(state))
        _require_same(wanted, {name: _size(value) for name, value in given.items()}, sharded)
        pairs: list[tuple[Tensor, Tensor]] = []
        problems: list[str] = []
        for name in wanted:
            try:
                pairs += _pairs(name, wanted[name], given[name])
            except ValueError as error:
                problems.append(str(error))
        _refuse_together(problems, sharded)
        set_extra_state(given)  # first: it may refuse
        with torch.no_grad():
            for target, source in pairs:
                target.copy_(source)
    return new, keep


def _host_name(name: str, hybrids: Mapping[str, set[str]], wides: list[str]) -> str | None:
    for path, tables in sorted(hybrids.items(), key=lambda item: len(item[0]), reverse=True):
        if name.startswith(path):
            rest = name.removeprefix(path)
            table = rest.removeprefix("ebc.embedding_bags.").rsplit(".", 1)[0]
            if not rest.startswith("ebc.embedding_bags.") or table not in tables:
                return None
            name = path + rest.removeprefix("ebc.")
            break
    for path in sorted(wides, key=len, reverse=True):
        if name.startswith(path):
            rest = name.removeprefix(path)
            if not rest.startswith("host."):
                return None
            name = path + rest.removeprefix("host.")
    return name


def _ensure_state(optimizer: KeyedOptimizer) -> list[tuple[KeyedOptimizer, Tensor]]:
    """Make lazily created state exist, without the step that creates it leaving a trace."""
    if isinstance(optimizer, CombinedOptimizer):
        return [pair for _, part in optimizer.optimizers for pair in _ensure_state(part)]
    trainable = {
        key: param
        for key, param in optimizer.params.items()
        if not isinstance(param, ShardedTensor) and param.requires_grad  # fused state exists
    }
    born = [param for param in trainable.values() if not optimizer.state.get(param)]
    if not born:
        return []
    grads = {key: param.grad for key, param in trainable.items()}
    values = {key: param.detach().clone() for key, param in trainable.items()}
    optimizer.init_state()
    with torch.no_grad():
        for key, param in trainable.items():
            param.copy_(values[key])
            param.grad = grads[key]
    return [(optimizer, param) for param in born]


def _section(checkpoint: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key not in checkpoint:
        raise ValueError(f"checkpoint must hold {key!r}, got {list(checkpoint)}")
    return checkpoint[key]


def _leaves(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_directory(
    path: Path, wanted: dict[str, Any], keys: tuple[str, str], sharded: bool
) -> None:
    stored: dict[str, Any] = {}
    problems: list[str] = []
    try:
        metadata = dcp.FileSystemReader(path).read_metadata()
        stored = metadata.state_dict_metadata
        for info in metadata.storage_data.values():
            file = path / info.relative_path
            if not file.is_file() or file.stat().st_size < info.offset + info.length:
                problems.append(f"checkpoint must be readable, got a short or missing {file}")
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        problems.append(f"checkpoint must be a DCP directory, got {path}: {error}")
    _refuse_together(problems, sharded)  # one rank alone would leave the others waiting
    sections = {name.split(".", 1)[0] for name in wanted} | {keys[0]}
    given = {
        name: tuple(meta.size) if isinstance(meta, TensorStorageMetadata) else None
        for name, meta in stored.items()
        if name.split(".", 1)[0] in sections and not name.startswith(f"{keys[1]}.param_groups")
    }
    _require_same(wanted, given, sharded)


def _read(path: Path, wanted: dict[str, Any]) -> None:
    try:
        dcp.load(wanted, checkpoint_id=path)
    except CheckpointException as error:  # a BaseException: nobody's `except Exception` sees it
        raise ValueError(f"checkpoint must be readable, got {path}: {error}") from error


def _require_same(
    wanted: Mapping[str, Any], given: Mapping[str, tuple[int, ...] | None], sharded: bool
) -> None:
    # A rank's fused optimiser knows only the tables that it holds a part of.
    used = {name for rank in _on_every_rank(list(wanted), sharded) for name in rank}
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} has no place in the model" for name in given if name not in used]
    for name in wanted:
        expected = _size(wanted[name])
        if name in given and not name.endswith(_EXTRA) and given[name] != expected:
            problems.append(f"{name} must have shape {expected}, got {given[name]}")
    problems = list(dict.fromkeys(p for rank in _on_every_rank(problems, sharded) for p in rank))
    if problems:
        shown = "; ".join(problems[:5])
        raise ValueError(
            f"checkpoint must be the host's, got {len(problems)} difference(s): {shown}"
        )


def _refuse_together(problems: list[str], sharded: bool) -> None:
    found = [problem for rank in _on_every_rank(problems, sharded) for problem in rank]
    if found:
        raise ValueError(found[0])


def _on_every_rank(mine: list[str], sharded: bool) -> list[list[str]]:
    """The lists of all ranks, so that all accept or all refuse."""
    if not (sharded and dist.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def _size(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, ShardedTensor):
        return tuple(value.metadata().size)
    return tuple(value.size()) if isinstance(value, Tensor) else None


def _shards(value: Any) -> list[tuple[tuple[int, ...], Tensor]] | None:
    """Local parts of a sharded tensor with their offsets; None for an ordinary tensor."""
    if isinstance(value, ShardedTensor):
        return [(tuple(s.metadata.shard_offsets), s.tensor) for s in value.local_shards()]
    if isinstance(value, DTensor):
        local = value.to_local()
        if isinstance(local, LocalShardsWrapper):
            offsets = local.local_offsets()
            parts = local.local_shards()
            return [(tuple(o), part) for o, part in zip(offsets, parts, strict=True)]
        _, offset = compute_local_shape_and_global_offset(
            value.shape, value.device_mesh, value.placements
        )
        return [(tuple(offset), local)]
    return None


def _pairs(name: str, target: Any, source: Any) -> list[tuple[Tensor, Tensor]]:
    """What to copy where, on this rank, so that ``target`` holds ``source``."""
    if name.endswith(_EXTRA):
        return []
    if not isinstance(target, Tensor | ShardedTensor):
        raise ValueError(f"{name} must be a tensor, got {type(target).__name__}")
    targets, sources = _shards(target), _shards(source)
    if sources is None:
        if targets is None:
            return [(cast(Tensor, target), source)]
        return [(part, source[_region(offset, part)]) for offset, part in targets]
    found = {(offset, tuple(part.shape)): part for offset, part in sources}
    wanted = [((0,) * target.dim(), target)] if targets is None else targets
    if not all((offset, tuple(part.shape)) in found for offset, part in wanted):
        raise ValueError(
            f"{name} must be sharded as in the model, got other shards on this rank: save the host"
            " with torch.distributed.checkpoint and pass the directory, which reshards"
        )
    return [(part, found[offset, tuple(part.shape)]) for offset, part in wanted]


def _region(offset: tuple[int, ...], part: Tensor) -> tuple[slice, ...]:
    return tuple(slice(o, o + size) for o, size in zip(offset, part.shape, strict=True))


_EXTRA = "_extra_state"
