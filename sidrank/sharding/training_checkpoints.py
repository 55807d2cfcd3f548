r"""Checkpoints of a sharded training job: written whole, kept a few, refused if they do not fit.

``torch.distributed.checkpoint`` (DCP) writes and reshards tensors. What a job that is killed and
restarted needs beyond that is here. In the folder::

    step-0000000040/     a whole checkpoint; the newest one counts
        .metadata, __<rank>_<n>.distcp    DCP's: model.*, optimizer.state.*, rng.<rank>.*
        progress.pt                       what the trainer handed over, tensors and plain values
    writing-…, deleting-…                 left by a kill: never read, gone with the next checkpoint

- A checkpoint gets its name when every rank has written its part and the disk has it.
- Whatever does not fit is refused by all ranks together, before anything of the model has changed:
  a table that is larger, new or left out, another SID table, a file that is short or missing. DCP
  alone skips what the model lacks and says nothing.
- State that an optimiser makes at its first step is made first, or there would be nothing to read
  it into.

Learning rates are not in it: TorchRec's keyed optimisers leave them out of their state, and the
groups that hold them depend on the sharding. Make the rate a function of the step, or wrap the
dense optimiser in TorchRec's ``WarmupOptimizer``, whose count is state.

DCP's ``.metadata`` is a pickle: read only checkpoints that you wrote. No GPU has run this.

Source: ours.
"""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.serialization import get_unsafe_globals_in_checkpoint
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from sidrank._disk import sync
from sidrank.sharding._checkpoint_fit import Size, bear_state, require_fit, size_of
from sidrank.sharding._together import on_all_ranks, on_first_rank

__all__ = ["TrainingCheckpoints"]

_EXTRA, _PROGRESS = "_extra_state", "progress.pt"


class TrainingCheckpoints:
    """The checkpoints of a job in a folder that all ranks see.

    Every rank calls every method, in the default process group.

    Args:
        folder: Where; made with the first checkpoint.
        keep: How many to keep.

    Raises:
        ValueError: If ``keep`` is less than one.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there.

        Returns:
            Oldest first.
        """
        return on_first_rank(self._steps)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: KeyedOptimizer,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint, whole or not at all, and delete the oldest beyond ``keep``.

        Args:
            step: Which step is done.
            model: The model, usually under ``DistributedModelParallel``.
            optimizer: ``CombinedOptimizer`` of the fused and the dense one, or one of them.
            progress: What else goes on: position in the rows, statistics, metrics. Tensors, numbers
                and strings in dicts and lists; the first rank's is kept.

        Raises:
            TypeError: If ``progress`` holds something else.
            ValueError: If there is a checkpoint of this step or a later one.
            OSError: If a rank cannot write; the checkpoints before are as they were.
        """
        kept = io.BytesIO()  # the first rank's
        place = on_first_rank(lambda: self._begin(step, dict(progress or {}), kept))
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        try:
            dcp.save({**state, **_random_states()}, checkpoint_id=place)
        except CheckpointException as error:  # a BaseException: nobody's `except Exception` sees it
            raise OSError(f"{place} must be writable, got {_causes(error)}") from error
        on_first_rank(lambda: self._publish(place, kept))

    def load(self, model: nn.Module, optimizer: KeyedOptimizer) -> dict[str, Any] | None:
        """Go on from the newest checkpoint, of any number of ranks, if there is one.

        Weights and optimiser state are read into the tensors that are there, resharded. Random
        states are set on the ranks that were there then.

        Args:
            model: As in :meth:`save`, built anew.
            optimizer: As in :meth:`save`.

        Returns:
            What was handed over as ``progress``; None if there is no checkpoint.

        Raises:
            ValueError: If it does not fit (which entry, what the model has, what the checkpoint
                has), or if a file is missing or short. Nothing has been changed then. (Bytes that
                are wrong inside a file are found by the reading, if at all: build anew after it.)
            SIDVersionError: If it was trained with another SID table, a ValueError too.
        """
        found = on_first_rank(self._newest)
        if found is None:
            return None
        place, saved, progress = found
        bear_state(optimizer, saved)
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        require_fit(place, state, saved)
        _read_versions(place, model, state["model"])
        own = {name: value for name, value in _random_states().items() if name in saved}
        state.update(own)
        _read(place, state)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        _set_random_states(state)
        return progress

    def _steps(self) -> list[int]:
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:010}"

    def _begin(self, step: int, progress: dict[str, Any], kept: io.BytesIO) -> Path:
        last = max(self._steps(), default=-1)
        if step <= last:
            raise ValueError(f"step must be after the newest checkpoint, {last}, got {step}")
        torch.save(progress, kept)
        kept.seek(0)
        if strange := get_unsafe_globals_in_checkpoint(kept):
            raise TypeError(f"progress must hold tensors and plain values, got {strange}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        return self.folder / f"writing-{self._place(step).name}"

    def _publish(self, place: Path, progress: io.BytesIO) -> None:
        with (place / _PROGRESS).open("wb") as file:
            file.write(progress.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        sync(place)
        place.rename(self.folder / place.name.removeprefix("writing-"))
        sync(self.folder)
        for step in self._steps()[: -self.keep]:
            old = self._place(step)
            old.rename(old.with_name(f"deleting-{old.name}"))  # its name says that it is whole
        self._sweep()

    def _sweep(self) -> None:
        for kind in ("writing", "deleting"):
            for path in self.folder.glob(f"{kind}-step-*"):
                shutil.rmtree(path, ignore_errors=True)  # or the next time

    def _newest(self) -> tuple[Path, dict[str, Size], dict[str, Any]] | None:
        """Where it is, the names and sizes that it holds, and its progress; if it is whole."""
        steps = self._steps()
        if not steps:
            return None
        place, older = self._place(steps[-1]), steps[:-1]
        advice = f" (the one before is {self._place(older[-1]).name})" if older else ""
        try:
            metadata = dcp.FileSystemReader(place).read_metadata()
            progress = torch.load(place / _PROGRESS, weights_only=True)
        except Exception as error:  # a pickle or an archive that is cut off may raise anything
            raise ValueError(
                f"{place} must be a whole checkpoint{advice}, got {error!r}"
            ) from error
        need: dict[str, int] = {}
        for part in cast(Mapping[Any, Any], metadata.storage_data).values():
            end = part.offset + part.length
            need[part.relative_path] = max(end, need.get(part.relative_path, 0))
        for name, size in sorted(need.items()):
            file = place / name
            has = file.stat().st_size if file.is_file() else None
            if has is None or has < size:
                what = "none" if has is None else f"{has} bytes"
                raise ValueError(f"{file} must be there with {size} bytes{advice}, got {what}")
        saved = metadata.state_dict_metadata.items()
        return place, {name: size_of(value) for name, value in saved}, progress


def _random_states() -> dict[str, torch.Tensor]:
    name = f"rng.{dist.get_rank()}"
    states = {f"{name}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"{name}.cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(state: Mapping[str, Any]) -> None:
    name = f"rng.{dist.get_rank()}"
    if f"{name}.cpu" in state:
        torch.set_rng_state(state[f"{name}.cpu"])
    if f"{name}.cuda" in state:
        torch.cuda.set_rng_state(state[f"{name}.cuda"])


def _read_versions(place: Path, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Extra state alone, and first: that of a SID lookup refuses another table."""
    extra = {"model": {name: v for name, v in state.items() if name.endswith(_EXTRA)}}
    if not extra["model"]:
        return
    _read(place, extra)
    module = model.module if isinstance(model, DistributedModelParallel) else model
    refused: ValueError | None = None
    try:
        for name, value in extra["model"].items():
            owner = module.get_submodule(name.removesuffix(_EXTRA).rstrip("."))
            owner.set_extra_state(value)
    except ValueError as error:
        refused = error
    for error in on_all_ranks(refused):
        if error is not None:
            raise error


def _read(place: Path, state: dict[str, Any]) -> None:
    try:
        dcp.load(state, checkpoint_id=place)
    except CheckpointException as error:
        raise ValueError(f"{place} must be readable, got {_causes(error)}") from error


def _causes(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {wrapped[0]!r}" for rank, wrapped in error.failures.items())
