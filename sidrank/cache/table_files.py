"""Tiered tables out to, and in from, the files of ordinary ones, block by block.

A directory of ``weights.safetensors``, with the names and shapes of an ``EmbeddingBagCollection``'s
``state_dict``, and, if the optimiser has a state, ``optimizer.safetensors``: the first moment of
each table under the name of its weight. Nothing is held in memory but a block of rows, on either
way; ranks that have parts of the tables write them into one file, so another number of ranks, or
one with all in memory, can go on from it.

An ``EmbeddingBagCollection`` loads what ``safetensors.torch.load_file`` makes of the weights, and
``torch.distributed.checkpoint`` saves it: the tensors are mapped, not read. The other way, let it
load into ``torch.from_file(path, shared=True, size=rows * dim)`` and give that to
`sidrank.cache.row_optimizer.weight_rows`.

Source: the safetensors format (https://github.com/huggingface/safetensors); written by hand, since
the library wants whole tensors.

Shapes: ``D`` width of a table.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank._disk import scratch_path, sync, write_all
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import SlowTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

__all__ = ["export_tables", "exported_rows"]

_BLOCK_BYTES = 1 << 24
_WEIGHTS, _STATES = "weights.safetensors", "optimizer.safetensors"


def export_tables(
    directory: str | os.PathLike[str],
    collection: TieredEmbeddingBagCollection,
    *,
    process_group: dist.ProcessGroup | None = None,
) -> None:
    """Write the tables of a collection as those of an ordinary one.

    The directory is there whole or not at all.

    Args:
        directory: Where; must not be there.
        collection: The tables; flushed here.
        process_group: The ranks that have the rows, in order, each calling this; None: all of them
            are in ``collection``.

    Raises:
        ValueError: If ``directory`` is there.
        CacheError: If a tier has failed.
        OSError: If the disk refuses.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> table = EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=10, feature_names=["f"])
        >>> sgd = RowOptimizer(torch.optim.SGD, lr=0.1)
        >>> directory = Path(tempfile.mkdtemp()) / "export"
        >>> export_tables(directory, TieredEmbeddingBagCollection([table], slots=4, optimizer=sgd))
        >>> {name: list(each.shape) for name, each in load_file(directory / _WEIGHTS).items()}
        {'embedding_bags.t.weight': [10, 4]}
        >>> exported_rows(directory, table, sgd)(2, 5).shape
        torch.Size([3, 4])
    """
    final = Path(directory).absolute()
    if final.exists():
        raise ValueError(f"directory must not be there, got {final}")
    collection.flush()
    rank = 0 if process_group is None else dist.get_rank(process_group)
    counts: list[Any] = [{table.name: table.num_embeddings for table in _tables(collection)}]
    scratch: list[Any] = [scratch_path(final)]
    if process_group is not None:
        mine = counts[0]
        counts = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(counts, mine, group=process_group)
        dist.broadcast_object_list(scratch, group=process_group, group_src=0)
    whole = {name: sum(each[name] for each in counts) for name in counts[0]}
    first = {name: sum(each[name] for each in counts[:rank]) for name in counts[0]}
    folder: Path = scratch[0]
    files = _headers(collection, whole)
    try:
        if rank == 0:
            folder.mkdir()
            for name, (header, size) in files.items():
                _make(folder / name, header, size)
        _wait(process_group)
        for name, (header, _) in files.items():
            _write(folder / name, header, collection, first)
        _wait(process_group)
        if rank == 0:
            sync(folder)
            os.rename(folder, final)
            sync(final.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _wait(process_group)


def exported_rows(
    directory: str | os.PathLike[str],
    table: EmbeddingBagConfig,
    optimizer: RowOptimizer,
    *,
    rows: range | None = None,
) -> Callable[[int, int], Tensor]:
    """The first content of a tier, from an export: weights and optimiser state.

    Args:
        directory: The export.
        table: The whole table.
        optimizer: What the export was trained with.
        rows: Those of the tier; None: all.

    Returns:
        ``fill`` for `MemoryTier` and `FileTier`.

    Raises:
        ValueError: If the export has no such table, one of another shape, or no such state.
        OSError: If there is no export.
    """
    first = 0 if rows is None else rows.start
    shape = [table.num_embeddings, table.embedding_dim]
    weight = _slice(Path(directory) / _WEIGHTS, table.name, shape)
    width = optimizer.state_width(table.embedding_dim)
    if not width:
        return lambda start, stop: weight[first + start : first + stop]
    if not (Path(directory) / _STATES).exists():
        raise ValueError(f"directory must hold {_STATES}, got {directory} without")
    state = _slice(Path(directory) / _STATES, table.name, shape if width > 1 else shape[:1])

    def fill(start: int, stop: int) -> Tensor:
        these = slice(first + start, first + stop)
        return torch.cat([weight[these], state[these].view(stop - start, width)], dim=1)

    return fill


def _slice(path: Path, table: str, shape: list[int]) -> Any:
    file: Any = safe_open(path, "pt")
    name = f"embedding_bags.{table}.weight"
    if name not in file.keys():  # noqa: SIM118 (it is no dict)
        raise ValueError(f"table must be of the export, got {table!r} ({path})")
    found = file.get_slice(name)
    if found.get_shape() != shape or found.get_dtype() != "F32":
        raise ValueError(
            f"{name} must be F32 {shape}, got {found.get_dtype()} {found.get_shape()} ({path})"
        )
    return found


def _tables(collection: TieredEmbeddingBagCollection) -> list[EmbeddingBagConfig]:
    return collection.embedding_bag_configs()


def _headers(
    collection: TieredEmbeddingBagCollection, whole: Mapping[str, int]
) -> dict[str, tuple[bytes, int]]:
    """The files, with what they start with and how long they are."""
    shapes: dict[str, dict[str, list[int]]] = {_WEIGHTS: {}, _STATES: {}}
    for table in _tables(collection):
        name, dim = f"embedding_bags.{table.name}.weight", table.embedding_dim
        width = collection.optimizer.state_width(dim)
        shapes[_WEIGHTS][name] = [whole[table.name], dim]
        if width:
            shapes[_STATES][name] = [whole[table.name], width][: 1 if width == 1 else 2]
    files: dict[str, tuple[bytes, int]] = {}
    for file, tensors in shapes.items():
        told: dict[str, Any] = {}
        end = 0
        for name, shape in tensors.items():
            size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            told[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(told).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        if told:
            files[file] = (len(text).to_bytes(8, "little") + text, end)
    return files


def _make(path: Path, header: bytes, size: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(file, 0, len(header) + size)
        write_all(file, header, 0)
    finally:
        os.close(file)


def _write(
    path: Path, header: bytes, collection: TieredEmbeddingBagCollection, first: Mapping[str, int]
) -> None:
    told = json.loads(header[8:])
    file = os.open(path, os.O_WRONLY)
    try:
        for table in _tables(collection):
            entry = told[f"embedding_bags.{table.name}.weight"]
            weights, states = slice(table.embedding_dim), slice(table.embedding_dim, None)
            columns = weights if path.name == _WEIGHTS else states
            width = entry["shape"][1] if len(entry["shape"]) > 1 else 1
            start = len(header) + entry["data_offsets"][0] + 4 * first[table.name] * width
            _write_rows(file, start, collection.tiers[table.name], columns)
        os.fsync(file)
    finally:
        os.close(file)


def _write_rows(file: int, offset: int, tier: SlowTier, columns: slice) -> None:
    step = max(1, _BLOCK_BYTES // (4 * tier.width))
    block = torch.empty(min(step, tier.rows), tier.width)
    for start in range(0, tier.rows, step):
        rows = torch.arange(start, min(start + step, tier.rows))
        part = block[: len(rows)]
        tier.read(rows, part)
        content = part[:, columns].contiguous().numpy().tobytes()
        write_all(file, content, offset)
        offset += len(content)


def _wait(process_group: dist.ProcessGroup | None) -> None:
    if process_group is not None:
        dist.barrier(process_group)
