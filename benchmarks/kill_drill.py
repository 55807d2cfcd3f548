"""Kills of a training job whose tables are in files: what it ends with, against no kill.

The job: two tables behind a small cache, row-wise Adagrad, a dense head with Adam, a random
generator; `tests/cache/crash_job.py`. Three drills, all by SIGKILL:

- after each operation of a commit that reaches the system, and in the midst of each that writes;
- the same for the recovery of a killed commit;
- at times drawn at random, again and again; here a worker prefetches.

After each, the digest of all weights, optimiser states and generators must be that of the job that
was left alone; the committed step must never go back, and no more than one interval be lost.

    python -m benchmarks.kill_drill
"""

import argparse
import json
import os
import platform
import random
import signal
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.cache import crash_job

RESULTS = Path(__file__).parent / "results" / "kill_drill.json"
COMMIT = 8  # the step whose commit is hit
LONG = {"steps": 1500, "every": 25, "scale": 200, "depth": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="at random times")
    parser.add_argument("--folder", type=Path, default=None, help="for the tables; any disk")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.time()
    report = {
        "command": "python -m benchmarks.kill_drill",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": in_a_commit(options.folder),
        "recovery": in_the_recovery(options.folder),
        "random": at_random(options.folder, options.kills),
    }
    report["kills"] = sum(report[part]["kills"] for part in ("commit", "recovery", "random"))
    report["seconds"] = time.time() - started
    print(json.dumps(report, indent=2))
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def in_a_commit(place: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        whole = finished(folder, within=COMMIT)
    went_on = 0
    for at, torn in drills(whole.operations):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            killed(folder, within=COMMIT, at=at, torn=torn)
            step = committed(folder)
            assert step in (COMMIT - crash_job.EVERY, COMMIT), (at, step)
            went_on += step == COMMIT
            assert finished(folder).digest == whole.digest, (at, torn)
        print(f"commit: operation {at} of {len(whole.operations)}", flush=True)
    kills = len(drills(whole.operations))
    return {"operations": whole.operations, "kills": kills, "after_the_commit": went_on}


def in_the_recovery(place: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        whole = finished(folder, within=COMMIT)
    last_write = max(at for at, name in enumerate(whole.operations, 1) if name == "rows")
    kill = {"within": COMMIT, "at": last_write}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        killed(folder, **kill)
        recovery = finished(folder, within="recovery")
    for at, torn in drills(recovery.operations):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            killed(folder, **kill)
            killed(folder, within="recovery", at=at, torn=torn)
            assert committed(folder) == COMMIT - crash_job.EVERY, at
            assert finished(folder).digest == whole.digest, (at, torn)
        print(f"recovery: operation {at} of {len(recovery.operations)}", flush=True)
    return {"operations": recovery.operations, "kills": 2 * len(drills(recovery.operations))}


def at_random(place: Path | None, wanted: int) -> dict[str, Any]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        whole = finished(folder, **LONG)
    life = (time.monotonic() - started) / 6  # about so many kills to a job
    draw = random.Random(0)
    lost: list[int] = []
    journals: list[int] = []
    jobs = 0
    while len(lost) < wanted:
        jobs += 1
        with tempfile.TemporaryDirectory(dir=place) as folder:
            before = 0
            while True:
                progress = get_context("forkserver").Value("q", 0)
                process, answer = crash_job.begin(folder, progress=progress, **LONG)
                if len(lost) < wanted:
                    process.join(draw.uniform(0.0, 2 * life))
                    process.kill()
                code, end = crash_job.end(process, answer)
                if end is not None:
                    break
                assert code == -signal.SIGKILL, code
                step = committed(folder)
                assert step >= before, (before, step)
                before = step
                lost.append(max(0, progress.value - step))
                assert lost[-1] <= LONG["every"], lost[-1]
                ranks = (Path(folder) / "checkpoint" / "rank-0").glob("journal-*")
                journals.append(max((path.stat().st_size for path in ranks), default=0))
                print(f"kill {len(lost)} of {wanted}: {lost[-1]} steps lost", flush=True)
            assert end.digest == whole.digest
    return {
        **LONG,
        "kills": len(lost),
        "jobs": jobs,
        "evictions": whole.evictions,
        "steps_lost": {"largest": max(lost), "mean": sum(lost) / len(lost)},
        "journal_bytes": {"largest": max(journals), "mean": sum(journals) / len(journals)},
    }


def drills(operations: list[str]) -> list[tuple[int, bool]]:
    """Where to kill: after each operation, and in the midst of each that writes."""
    after = [(at, False) for at in range(1, len(operations) + 1)]
    amid = [(at, True) for at, name in enumerate(operations) if name in ("pwrite", "rows")]
    return after + amid


def finished(folder: str, **options: Any) -> crash_job.Answer:
    code, answer = crash_job.start(folder, **options)
    assert code == 0, code
    return answer


def killed(folder: str, **options: Any) -> None:
    code, _ = crash_job.start(folder, **options)
    assert code == -signal.SIGKILL, code


def committed(folder: str) -> int:
    manifest = Path(folder) / "checkpoint" / "manifest.json"
    return json.loads(manifest.read_text())["step"] if os.path.exists(manifest) else 0


if __name__ == "__main__":
    main()
