"""The demo's work, cut into tasks that two processes share.

A task is one arm, or the upgrade path, on one fold. Each process runs one thread (the tables
are tiny, so two processes beat two threads) and keeps the folds that it has prepared.

Shapes: ``n`` judged rows of one fold.
"""

import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sidrank.data import read_movielens
from sidrank.demo.arms import build_arm
from sidrank.demo.evaluation import Judged
from sidrank.demo.gate_study import gate_weights, run_gate_study
from sidrank.demo.preparation import Fold, prepare
from sidrank.demo.regression import fit_regression
from sidrank.demo.settings import VectorRecipe, read_settings
from sidrank.demo.training import fit, predict
from sidrank.demo.upgrade import Upgraded, run_upgrade
from sidrank.embeddings import SIDExpander, check_coverage
from sidrank.semantic_ids import quality

__all__ = ["GATE_TASKS", "Result", "Task", "run_tasks", "sid_quality"]

GATE_TASKS = ("gate", "gate_null")
_MOST_PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work.

    Attributes:
        protocol: One of ``protocols.PROTOCOLS``.
        seed: Seed, and in ``cold_items`` the fold.
        arm: One of ``arms.ARMS``; ``upgrade``; ``sid``, the quality of the fold's codes;
            ``gate`` or ``gate_null``, the gate study (``gate_study``).
        data: Folder of the user's own files, or None.
    """

    protocol: str
    seed: int
    arm: str
    data: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a task gives.

    Attributes:
        task: The task.
        judged: The judged rows with the logits of this task's arms.
        rows: Number of rows by kind.
        parameters: Number of weights.
        seconds: Training time.
        gate: The gate's ``g`` of each judged row, shape ``[n]``; empty without a gate.
        upgraded: Of the upgrade path.
        sid: Quality of the fold's semantic IDs, from the first task of the demo.
    """

    task: Task
    judged: Judged
    rows: dict[str, int]
    parameters: int = 0
    seconds: float = 0.0
    gate: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    upgraded: Upgraded | None = None
    sid: dict[str, object] = field(default_factory=dict[str, object])


def run_tasks(tasks: Sequence[Task]) -> Iterator[Result]:
    """Run tasks in processes, in no fixed order.

    Args:
        tasks: What to do.

    Yields:
        Results as they come.
    """
    processes = max(1, min(os.cpu_count() or 1, _MOST_PROCESSES, len(tasks)))
    # A forked child of a process that has run torch can deadlock: spawn.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_start) as pool:
        yield from pool.imap_unordered(_run, tasks)


@lru_cache(maxsize=8)
def _fold(protocol: str, seed: int, data: str | None, vectors: VectorRecipe) -> Fold:
    """A prepared fold, kept for the next arm."""
    log = read_movielens(None if data is None else Path(data))
    return prepare(log, protocol, seed, vectors)


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")


def _run(task: Task) -> Result:
    settings = read_settings()
    made = "gate" if task.arm in GATE_TASKS else task.protocol
    fold = _fold(task.protocol, task.seed, task.data, settings.vectors[made])
    rows = _row_counts(fold)
    if task.arm == "sid":
        return Result(task, _judged(fold, {}), rows, sid=sid_quality(fold))
    if task.arm == "lr":
        penalty = settings.regression[task.protocol]
        logits, size, seconds = fit_regression(
            fold.features, fold.learn, fold.judge, inverse_penalty=penalty
        )
        return Result(task, _judged(fold, {"lr": logits}), rows, size, seconds)
    if task.arm == "upgrade":
        done = run_upgrade(fold, settings.recipe(task.protocol, "hybrid"), seed=task.seed)
        return Result(task, _judged(fold, done.logits), rows, upgraded=done)
    if task.arm in GATE_TASKS:
        gate = run_gate_study(fold, seed=task.seed, null=task.arm == "gate_null")
        return Result(task, _judged(fold, {}), rows, gate=gate)
    recipe = settings.recipe(task.protocol, task.arm)
    model = build_arm(
        task.arm,
        features=fold.features,
        table=fold.table,
        vectors=fold.vectors,
        recipe=recipe,
        seed=task.seed,
    )
    seconds = fit(model, fold.batches, fold.learn, recipe, seed=task.seed)
    logits = predict(model, fold.batches, fold.judge)
    if any(isinstance(module, SIDExpander) for module in model.modules()):
        check_coverage(model)
    convex = task.arm == "hybrid_convex"
    return Result(
        task,
        _judged(fold, {task.arm: logits}),
        rows,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=seconds,
        gate=gate_weights(model, fold) if convex else np.zeros(0),
    )


def _judged(fold: Fold, logits: dict[str, NDArray[np.float64]]) -> Judged:
    return Judged(
        users=fold.users,
        labels=fold.labels,
        frequency=fold.frequency,
        head=fold.head,
        exposure=fold.features.single["item_impressions"][fold.judge],
        logits=logits,
    )


def _row_counts(fold: Fold) -> dict[str, int]:
    return {
        "train": len(fold.learn),
        "test": len(fold.judge),
        "test_users": len(np.unique(fold.users)),
        "cold": int((fold.frequency == 0).sum()),
        "new_tail": int((~fold.head).sum()),
        "head": int(fold.head.sum()),
        "vector_log": len(fold.split.vector_rows),
    }


def sid_quality(fold: Fold) -> dict[str, object]:
    """Quality of a fold's semantic IDs, and what one more item costs with and without them.

    Args:
        fold: The fold.

    Returns:
        The keys of ``sidrank inspect``, code usage by level, and bytes.
    """
    table, vectors = fold.table, fold.vectors.vectors
    found = quality(table, vectors=vectors, tokenizer=fold.tokenizer)
    usage = [
        np.bincount(codes, minlength=size).tolist()
        for codes, size in zip(table.codes.T, table.spec.codebook_sizes, strict=True)
    ]
    code_bytes = 4 * table.spec.num_levels
    return {
        **found.to_dict(),
        "usage": usage,
        "sid_bytes_per_item": code_bytes,
        "vector_bytes_per_item": 4 * vectors.shape[1],
        "codes_bytes": code_bytes * len(table),
        "vectors_bytes": vectors.nbytes,
    }
