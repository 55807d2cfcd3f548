"""Sections of the benchmark page about sequences."""

from typing import Any

from benchmarks.tables import table


def windowed_attention(report: dict[str, Any]) -> str:
    """Against dense attention, then growth with the length."""
    growth = report["growth"]
    text = (
        f"Exact attention within a window of {report['window']}, forward and backward, one thread,"
        f" median of {report['rounds']} interleaved rounds of that thread's CPU time; outputs and"
        " gradients first compared with dense attention under the window's mask (largest"
        f" difference {max(row['difference'] for row in report['rows']):.0e}). The peers are"
        " `scaled_dot_product_attention` with that mask, ready made, and causal over everything,"
        " which answers another question as soon as the sequence is longer than the window, and"
        " ignores padding. `padded`: one place in five, anywhere, is padding."
    )
    rows = [
        [
            f"{row['length']:,}",
            f"{row['rows']} x {row['heads']} x {row['width']}",
            "yes" if row["padded"] else "",
            *(f"{row['milliseconds'][name]:.2f}" for name in ("ours", "masked", "causal")),
            f"{row['masked / ours']:.2f}",
            f"{row['causal / ours']:.2f}",
        ]
        for row in report["rows"]
    ]
    header = ["length", "rows x heads x width", "padded", "ours ms", "masked ms", "causal ms"]
    parts = [f"## Windowed attention\n\n{text}", table([*header, "masked ÷", "causal ÷"], rows)]
    times, memory = growth["time_slope"], growth["memory_slope"]
    parts.append(
        f"One row of {growth['heads']} heads x {growth['width']} as it grows; memory is the peak of"
        " PyTorch's allocator, inputs included. Slope of the logarithm over that of the length:"
        f" time {times['windowed']:.2f}, memory {memory['windowed']:.2f}; jagged, two rows in one:"
        f" time {times['jagged']:.2f}, memory {memory['jagged']:.2f}."
    )
    ways = ("windowed", "jagged")
    rows = [
        [
            f"{length:,}",
            *(f"{growth['milliseconds'][way][place]:.2f}" for way in ways),
            *(f"{growth['peak_mib'][way][place]:.1f}" for way in ways),
        ]
        for place, length in enumerate(growth["lengths"])
    ]
    parts.append(table(["length", "ms", "jagged ms", "peak MiB", "jagged peak MiB"], rows))
    return "\n\n".join(parts)


def token_former(report: dict[str, Any]) -> str:
    """A whole encoder's training step, tokens that matter and all tokens."""
    windows = " / ".join(map(str, report["windows"]))
    text = (
        f"Training steps of four layers of width {report['dim']}: one full layer, then windows of"
        f" {windows}; tokens a second, median of {report['rounds']} interleaved rounds,"
        f" {report['threads']} threads, target states and gradients first compared with a dense"
        f" decoder under boolean masks (largest difference"
        f" {report['largest_relative_difference']:.0e}). `BFTSEncoder` computes above its full"
        " layer only the tokens that a target can still reach, which is where most of its gain"
        " comes from; *windows* computes every token to the top. Its bounds: one full layer and"
        " three whose tokens read themselves alone (*no scores*), or three without any attention"
        " sublayer (*no attention*)."
    )
    rows = [
        [
            f"{row['length']:,}",
            row["encoder"],
            f"{row['tokens_per_second']:,.0f}",
            *(f"{row[name]:.2f}" for name in ("x_full", "x_no_scores", "x_no_attention")),
        ]
        for row in report["rows"]
    ]
    header = ["length", "encoder", "tokens/s", "× full", "× no scores", "× no attention"]
    return f"## A unified encoder\n\n{text}\n\n{table(header, rows)}"
