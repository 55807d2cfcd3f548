"""The next version of a large table, against a copy of it: seconds and memory.

A table of a ranker changed in some rows. ``delta_between`` compares all of it with the version that
serves, ``apply_delta`` makes the next version beside that. What they take, thread time of one
thread, is told beside a copy of the table (``Tensor.copy_`` into memory that is there), and their
memory beside that of a second table. Rows are drawn without a pattern, which for pages is the worst
there is, or lie together, as new items do.

    python -m benchmarks.version_swap
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sidrank.embeddings import RankingRequests
from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.ranker_version import RankerVersion

RESULTS = Path(__file__).parent / "results" / "version_swap.json"
ROWS, WIDTH = 2_000_000, 64
CASES = [("scattered", 2_000), ("scattered", 20_000), ("together", 20_000)]


class Table(nn.Module):
    """A table and nothing else."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, WIDTH))

    def rank(self, requests: RankingRequests) -> Tensor:
        return self.table[requests.candidates.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(options.rows, *case, rounds=options.rounds) for case in CASES]
    report = {
        "command": "python -m benchmarks.version_swap",
        "rows": options.rows,
        "width": WIDTH,
        "table_mib": options.rows * WIDTH * 4 / 2**20,
        "rounds": options.rounds,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cases": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(rows: int, how: str, changed: int, *, rounds: int) -> dict[str, Any]:
    """A chain of versions; each is the model's of that moment, and one before it is kept."""
    draw = torch.Generator().manual_seed(0)
    model = Table(rows)
    other = torch.zeros(rows, WIDTH)
    spent: dict[str, list[float]] = {"copy": [], "compare": [], "apply": []}
    held: list[float] = []
    current = RankerVersion.first(model)
    kept = current
    resident(current.module)
    begin = shared_and_own()
    for turn in range(1, rounds + 2):
        if how == "together":
            some = torch.arange(changed) + (turn - 1) * changed
        else:
            some = torch.randint(0, rows, (changed,), generator=draw)
        with torch.no_grad():
            model.table[some] = float(turn)
        seconds = {"copy": timed(other.copy_, model.table.detach())[0]}
        seconds["compare"], delta = timed(delta_between, current, model)
        seconds["apply"], new = timed(apply_delta, current, delta)
        assert torch.equal(new.module.table, model.table)
        kept, current = current, new
        del new
        assert kept.number == turn
        held.append(shared_and_own() - begin)
        if turn > 1:  # the first one warms up
            for name, value in seconds.items():
                spent[name].append(value)
    middle = {name: statistics.median(values) for name, values in spent.items()}
    table = rows * WIDTH * 4 / 2**20
    return {
        "how": how,
        "changed": changed,
        "seconds": middle,
        "compare_over_copy": middle["compare"] / middle["copy"],
        "apply_over_copy": middle["apply"] / middle["copy"],
        "delta_mib": delta.nbytes / 2**20,
        "more_mib": held[-1],
        "more_of_table": held[-1] / table,
    }


def timed(work: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Processor seconds of this thread, and what came out."""
    start = time.thread_time()
    found = work(*given)
    return time.thread_time() - start, found


def resident(model: nn.Module) -> float:
    """Touch every page."""
    return sum(float(parameter.sum()) for parameter in model.parameters())


def shared_and_own() -> float:
    """MiB of this process, each page once however many mappings show it."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise OSError("smaps_rollup must tell Pss, got none")


if __name__ == "__main__":
    main()
