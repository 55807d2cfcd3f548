"""Section of the generated pages about kills of a training job."""

from collections import Counter
from typing import Any

from benchmarks.tables import table


def kill_drill(report: dict[str, Any]) -> str:
    """Where the job was killed, how often, and what it lost."""
    commit, recovery, drawn = report["commit"], report["recovery"], report["random"]
    text = (
        f"{report['kills']:,} times SIGKILL, none lost: a job whose tables are in files ends each"
        " time with the bits of the job that was left alone (SHA-256 of weights, optimiser states"
        " and generators), and its committed step never goes back. *In a commit* and *in the"
        " recovery*: after each operation that reaches the system, and in the midst of each that"
        f" writes more than a counter. *At random*: jobs of {drawn['steps']:,} steps that commit"
        f" every {drawn['every']}, with a prefetching worker, killed at times drawn at random; a"
        f" kill costs {drawn['steps_lost']['mean']:.1f} steps in the mean,"
        f" {drawn['steps_lost']['largest']} at most. No plug was pulled: a loss of power is not"
        " part of the drill."
    )
    rows = [
        ["in a commit", f"{commit['kills']}", told(commit["operations"])],
        ["in the recovery", f"{recovery['kills']}", told(recovery["operations"])],
        ["at random", f"{drawn['kills']}", f"{drawn['evictions']:,} rows evicted on the way"],
    ]
    return f"## Kills\n\n{text}\n\n{table(['where', 'kills', 'operations'], rows)}"


def told(operations: list[str]) -> str:
    """How often each."""
    return ", ".join(f"{name} {count}" for name, count in Counter(operations).most_common())
