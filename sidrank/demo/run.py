"""The main job on real data: a DLRM gains semantic IDs, beside its controls.

Source: the arms are those of SID-Coord's ablation (arXiv 2604.10471) and of our controls; the
protocols are ours (``sidrank.demo.protocols``).

Shapes: none; see the modules it calls.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sidrank.data import read_movielens
from sidrank.demo.arms import ARMS, DEFAULT_ARMS
from sidrank.demo.evaluation import PAIRS, Judged, arm_figures, by_frequency, paired_figures
from sidrank.demo.gate_study import gate_by_decile, gate_range
from sidrank.demo.protocols import PROTOCOLS, make_split
from sidrank.demo.report import write_report
from sidrank.demo.tables import print_tables
from sidrank.demo.work import GATE_TASKS, Result, Task, run_tasks

__all__ = ["make_report", "make_tasks", "run"]

_DEFAULT_SEEDS = 3
_CURVES = ("hybrid_vs_host", "hybrid_shuffled_vs_host", "host_vector_vs_host")
_PACKAGES = ("sidrank", "torch", "torchrec", "fbgemm-gpu-cpu", "numpy", "scikit-learn")


def run(
    *,
    out: Path = Path("sidrank-demo"),
    seeds: int | None = None,
    data: Path | None = None,
    full: bool = False,
) -> dict[str, object]:
    """Train the arms, compare them, print the tables and write the report.

    Args:
        out: Folder for ``report.html`` and ``report.json``.
        seeds: Paired seeds of each arm, in ``cold_items`` also folds; 3 if not given.
        data: Folder with the user's own MovieLens-100K files; the recbole wheel's if not given.
        full: Every arm on every protocol.

    Returns:
        The report, as ``report.json`` holds it.

    Raises:
        FileNotFoundError: If there is no data.
        ValueError: If ``seeds`` is below one, the data cannot be read or are too few, or ids do
            not match the semantic IDs.
    """
    start = time.perf_counter()
    seeds = _DEFAULT_SEEDS if seeds is None else seeds
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    log = read_movielens(
        data
    )  # here, so that a wrong folder is one line and not a pool's traceback
    tasks = make_tasks(seeds=seeds, full=full, data=None if data is None else str(data))
    for protocol in {task.protocol for task in tasks}:
        make_split(log, protocol)
    results: list[Result] = []
    with tqdm(total=len(tasks), unit="arm", desc="starting", dynamic_ncols=True) as bar:
        for result in run_tasks(tasks):
            results.append(result)
            bar.set_description(f"{result.task.protocol} {result.task.arm}")
            bar.update()
    report = make_report(results)
    report["settings"] = {
        "dataset": "MovieLens-100K",
        "label": "rating >= 4",
        "seeds": seeds,
        "draws": 1000,
        "full": full,
        "total_seconds": time.perf_counter() - start,
    }
    write_report(report, out)
    print_tables(report)
    return report


def make_tasks(*, seeds: int, full: bool, data: str | None) -> list[Task]:
    """The work of a run, long folds first.

    Args:
        seeds: Paired seeds of each arm.
        full: Every arm on every protocol.
        data: Folder of the user's own files, or None.

    Returns:
        Tasks; those of one fold stand together, so that a process reuses what it prepared.
    """
    protocols = PROTOCOLS if full else ("per_user", "cold_items")
    arms = ARMS if full else DEFAULT_ARMS
    tasks: list[Task] = []
    for protocol in protocols:
        for seed in range(seeds):
            tasks += [Task(protocol, seed, arm, data) for arm in arms]
            if protocol == "cold_items":
                tasks += [Task(protocol, seed, arm, data) for arm in (*GATE_TASKS, "upgrade")]
                tasks += [Task(protocol, seed, "sid", data)] if seed == 0 else []
    return tasks


def make_report(results: Sequence[Result]) -> dict[str, object]:
    """Compare the arms.

    Args:
        results: Of all tasks, in any order.

    Returns:
        ``splits``, ``upgrade``, ``sid``, ``gate`` and ``environment`` of the report.
    """
    report: dict[str, object] = {"splits": {}, "environment": _environment()}
    ordered = sorted(results, key=lambda result: (result.task.protocol, result.task.seed))
    splits: dict[str, object] = {}
    for protocol in PROTOCOLS:
        mine = [result for result in ordered if result.task.protocol == protocol]
        arms = [result for result in mine if result.task.arm in ARMS]
        if arms:
            splits[protocol] = _split(arms, cold=protocol == "cold_items")
        gates = [result for result in mine if result.task.arm in GATE_TASKS]
        if gates:
            convex = [result for result in mine if result.task.arm == "hybrid_convex"]
            report["gate"] = {**_gate(gates, convex), "split": protocol, "arm": "hybrid_convex"}
        upgrades = [result for result in mine if result.upgraded is not None]
        if upgrades:
            report["upgrade"] = {**_upgrade(upgrades), "split": protocol}
        for result in mine:
            if result.sid:
                report["sid"] = result.sid
    report["splits"] = splits
    return report


def _split(results: Sequence[Result], *, cold: bool) -> dict[str, object]:
    runs = _merged(results)
    names = [arm for arm in ARMS if arm in runs[0].logits]
    arms: dict[str, dict[str, float | None]] = {}
    for arm in names:
        mine = [result for result in results if result.task.arm == arm]
        arms[arm] = arm_figures(runs, arm, cold=cold)
        arms[arm]["parameters"] = float(np.mean([result.parameters for result in mine]))
        arms[arm]["seconds"] = float(np.mean([result.seconds for result in mine]))
    pairs = [(a, b) for a, b in PAIRS if a in names and b in names]
    curves = [(a, b) for a, b in pairs if f"{a}_vs_{b}" in _CURVES]
    counts = {name: [result.rows[name] for result in results] for name in results[0].rows}
    return {
        "rows": {name: round(float(np.mean(values))) for name, values in counts.items()},
        "arms": arms,
        "paired": {f"{a}_vs_{b}": paired_figures(runs, a, b, cold=cold) for a, b in pairs},
        "by_frequency": {f"{a}_vs_{b}": by_frequency(runs, a, b) for a, b in curves},
    }


def _upgrade(results: Sequence[Result]) -> dict[str, object]:
    done = [result.upgraded for result in results if result.upgraded is not None]
    runs = _merged(results)
    arms = list(runs[0].logits)
    return {
        "max_abs_delta_logit_step0": max(one.delta for one in done),
        "steps": max(one.steps for one in done),
        "parameters_new": min(one.new for one in done),
        "parameters_moved": min(one.moved for one in done),
        "arms": {arm: arm_figures(runs, arm, cold=True) for arm in arms},
        "paired": {
            f"{arm}_vs_host_continued": paired_figures(runs, arm, "host_continued", cold=True)
            for arm in arms
            if arm != "host_continued"
        },
    }


def _gate(results: Sequence[Result], convex: Sequence[Result]) -> dict[str, object]:
    true, null = ([result for result in results if result.task.arm == arm] for arm in GATE_TASKS)
    runs, gates = [result.judged for result in true], [result.gate for result in true]
    shuffled = [result.gate for result in null]
    found: dict[str, object] = {
        "true": gate_by_decile(runs, gates),
        "shuffled": gate_by_decile(runs, shuffled),
        "range": gate_range(runs, gates),
        "range_shuffled": gate_range(runs, shuffled),
    }
    if convex:
        told = [result.gate for result in convex]
        found["host_told_item_statistics"] = gate_by_decile(runs, told)
    return found


def _merged(results: Sequence[Result]) -> list[Judged]:
    """One ``Judged`` for each seed, with the logits of all its arms."""
    merged: dict[int, Judged] = {}
    for result in results:
        held = merged.get(result.task.seed, replace(result.judged, logits={}))
        logits = {**held.logits, **result.judged.logits}
        merged[result.task.seed] = replace(held, logits=logits)
    return [merged[seed] for seed in sorted(merged)]


def _environment() -> Mapping[str, object]:
    versions: dict[str, object] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
