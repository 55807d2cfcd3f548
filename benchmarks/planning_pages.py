"""Section of the generated pages about planning."""

from typing import Any

from benchmarks.tables import table


def planning(report: dict[str, Any]) -> str:
    """Seconds and predicted step times against TorchRec's planner, growth, and full size."""
    full = report["command_at_full_size"]
    text = (
        f"Plans for simulated GPUs, TorchRec {report['torchrec']}, process time of"
        f" {report['threads']} thread. Both planners get the same tables, constraints and cluster"
        f" of {report['ranks']} GPUs; step times are TorchRec's estimates for both. *Roomy*"
        " clusters hold every table whole; on *scarce* ones both get the same caches."
    )
    rows = [
        [
            f"{row['tables']} tables, {row['room']}",
            f"{row['seconds']['sidrank']:.1f}",
            f"{row['seconds']['TorchRec']:.1f}",
            f"{row['seconds_ratio']:.3f}",
            f"{row['step_ms']['sidrank']:.2f}",
            f"{row['step_ms']['TorchRec']:.2f}",
            f"{row['step_ratio']:.3f}",
        ]
        for row in report["against"]
    ]
    header = ["what", "sidrank s", "TorchRec s", "ratio", "sidrank ms", "TorchRec ms", "ratio"]
    grown = [
        [f"{row['tables']}", f"{row['ranks']:,}", f"{row['seconds']:.1f}"]
        for row in [*report["growth"], *report["clusters"]]
    ]
    ends = (
        f"Sizing, planning and verifying together grow as the {report['slope']:.2f}th power of the"
        f" tables. `sidrank plan` itself, on {full['tables']} tables of {full['rows']:,} rows"
        f" ({full['table_gib']:,.0f} GiB of weights) and {full['ranks']} GPUs with"
        f" {full['hbm_gib']:g} GiB of HBM each, took {full['seconds']:.0f} s of wall time and"
        f" {full['memory_gib']:.2f} GiB; {full['cached']} tables are cached and the fullest GPU"
        f" is {full['fullest_rank']:.1%} full."
    )
    return (
        f"## Planning\n\n{text}\n\n{table(header, rows)}\n\n"
        f"{table(['tables', 'GPUs', 'seconds'], grown)}\n\n{ends}"
    )
