"""Section of the benchmark page about listwise losses."""

from typing import Any

from benchmarks.tables import table


def neural_ndcg(report: dict[str, Any]) -> str:
    """Against a loop over lists, then growth with their number."""
    growth, rows = report["growth"], report["rows"]
    text = (
        f"Forward and backward, temperature {report['temperature']:g}, one thread, median of"
        f" {report['rounds']} interleaved rounds of that thread's CPU time. The peer is the"
        " formula written down list by list, differentiated by autograd; losses differ by at most"
        f" {max(row['loss_difference'] for row in rows):.0e} and gradients by"
        f" {max(row['slope_difference'] for row in rows):.0e} of their largest entry."
    )
    cells = [
        [
            row["lists"],
            f"{1000 * row['seconds']['ours']:.0f}",
            f"{1000 * row['seconds']['loop']:.0f}",
            f"{row['loop / ours']:.1f}",
        ]
        for row in rows
    ]
    header = ["lists x rows", "ours ms", "loop ms", "loop ÷"]
    parts = [f"## NeuralNDCG\n\n{text}", table(header, cells)]
    parts.append(
        f"Lists of {growth['length']} rows as their number grows. The peer is all lists as one"
        " padded batch, equal results first; beyond its last line it was not run for its memory."
        " Memory is the peak of PyTorch's allocator, inputs included."
        f" Slope of the logarithm over that of the number of lists: time"
        f" {growth['time_slope']:.2f}, memory {growth['memory_slope']:.2f}."
    )
    cells = []
    for place, count in enumerate(growth["lists"]):
        spent = growth["seconds"][place]
        known = place < len(growth["padded_peak_mib"])
        cells.append(
            [
                f"{count:,}",
                f"{1000 * spent['ours']:.1f}",
                f"{1000 * spent['padded']:.1f}" if known else "",
                f"{growth['peak_mib'][place]:.1f}",
                f"{growth['padded_peak_mib'][place]:,.0f}" if known else "",
            ]
        )
    header = ["lists", "ms", "padded ms", "peak MiB", "padded peak MiB"]
    parts.append(table(header, cells))
    return "\n\n".join(parts)
