"""Sections of the benchmark page about compressed histories."""

from typing import Any

from benchmarks.tables import table


def compression_tokens(report: dict[str, Any]) -> str:
    """Requests over cached tokens, training segment by segment."""
    spread, slope = report["spread"], report["slope"]
    text = (
        f"A batch of {report['requests']} requests reads its users' {report['tokens']} cached"
        f" tokens and encodes {report['recent']} recent behaviours over them: `TokenKVCache.read`"
        f" and `CompressionTokens.recent`, {report['layers']} layers of width {report['width']},"
        f" {report['threads']} thread. Against the shortest past the cost is"
        f" {spread['least']:.2f} to {spread['most']:.2f} times as much. The same blocks over"
        " everything, without tokens, stand beside it; compressing happens off the request path."
    )
    rows = [
        [
            f"{row['old']:,}",
            f"{row['milliseconds']:.2f}",
            "" if row["full"] is None else f"{row['full']:,.1f}",
            f"{row['offline_seconds']:.2f}",
        ]
        for row in report["online"]
    ]
    header = ["past behaviours", "online ms", "all of it, ms", "compressing, s"]
    parts = [f"## Compression tokens\n\n{text}", table(header, rows)]
    parts.append(
        f"Training on whole histories, {report['segment_tokens']} tokens after every"
        f" {report['segment']} behaviours, forward and backward: segment by segment, and in one"
        " pass under the mask; the answers are equal. Slope of log time over log length:"
        f" {slope['segments']:.2f} and {slope['masked']:.2f}."
    )
    rows = [
        [f"{row['length']:,}", f"{row['segments']:.1f}", f"{row['masked']:.1f}"]
        for row in report["training"]
    ]
    parts.append(table(["behaviours", "segments ms", "masked ms"], rows))
    return "\n\n".join(parts)
