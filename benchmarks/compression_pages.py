"""Sections of the benchmark page about compressed histories."""

import math
import statistics
from typing import Any

from benchmarks.paired_seeds import (
    auc_of,
    half_closed,
    interval,
    labelled,
    paired,
    share_of,
    shown,
    spans,
    verdict,
)
from benchmarks.sequence_arms_compression import TOKENS
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


ARMS = {
    "compression_recent": "recent events alone",
    "compression_strangers": "tokens after another user's old events",
    "compression_segments": "as many tokens, after four segments",
    "compression_tokens": "tokens after the old events",
    "compression_full": "every event reads all earlier ones",
}
RECENT, STRANGERS, SEVERAL, ONE, FULL = ARMS


def compression_study(report: dict[str, Any]) -> str:
    """What recent events learn of old ones through tokens, against nothing and everything."""
    done = {run["setting"] for run in report["runs"]}
    recipe = report["runs"][0]["recipe"]
    weight = share_of("long_brief", "long")
    text = (
        "One stack of blocks and one host in all arms; the host reads the newest states alone, so"
        " what it knows of old events went through the attention of recent ones."
        f" `long_brief` is planted ({report['users']:,} users, a log a seed), {weight:.0%} of the"
        " variance of its logit hangs on topics of long ago; MovieLens is one log, cut by user."
        " The control has the tokens, and so the same parameters, after another user's old events."
        f" The tokens are {TOKENS} in all. At most"
        f" {recipe['epochs']} passes, Adam {recipe['step']:g}, the pass chosen by validation. AUC"
        " of planted rows is by the true probabilities. In brackets: 95% over paired seeds, and by"
        " labels over users and seeds. Width of the stack, number of tokens, step and batch were"
        " chosen on validation rows of another seed."
    )
    parts = [f"## What compression tokens pass on\n\n{text}"]
    for setting in ("long_brief", "movielens_per_user"):
        if setting in done:
            parts.append(_compression_table(report, setting))
            parts.append(_compression_claims(report, setting))
    return "\n\n".join(parts)


def _compression_table(report: dict[str, Any], setting: str) -> str:
    rows: list[list[str]] = []
    for name, says in ARMS.items():
        reached = auc_of(report, setting, name)
        if not reached:
            continue
        runs = [r for r in report["runs"] if (r["setting"], r["arm"]) == (setting, name)]
        more = paired(report, setting, name, RECENT)
        over = "" if name == RECENT else shown(interval(more))
        by_labels = shown(labelled(report, setting, name, RECENT))
        share = half_closed(report, setting, name, RECENT, FULL)[0]
        closed = "" if name == RECENT or math.isnan(share) else f"{share:.0%}"
        rows.append([
            f"`{name.removeprefix('compression_')}`",
            says,
            str(len(reached)),
            f"{statistics.fmean(reached.values()):.4f}",
            over,
            by_labels,
            closed,
            f"{runs[0]['layers']:,}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
        ])  # fmt: skip
    header = [setting, "", "seeds", "AUC", "− recent, over seeds", "by labels", "gap closed"]
    return table([*header, "parameters of layers", "s"], rows)


def _compression_claims(report: dict[str, Any], setting: str) -> str:
    half = half_closed(report, setting, ONE, RECENT, FULL)[1]
    pairs = {
        "old events help: full above recent": (FULL, RECENT),
        "tokens above recent": (ONE, RECENT),
        "tokens above tokens of a stranger's past": (ONE, STRANGERS),
        "full above tokens": (FULL, ONE),
        "one segment above four": (ONE, SEVERAL),
    }
    rows: list[list[str]] = []
    for text, (one, other) in pairs.items():
        if paired(report, setting, one, other):
            found = spans(report, setting, one, other)
            rows.append([text, verdict(*found), shown(found[0])])
        if (one, other) == (ONE, RECENT) and half:
            deciding = interval(half)
            helped = spans(report, setting, FULL, RECENT)
            word = verdict(deciding)
            if verdict(*helped) != "confirmed":
                word = "nothing to close" if verdict(*helped) == "**denied**" else "open"
            rows.append(["tokens close half of the gap: what they close − half", word])
            rows[-1].append(shown(deciding))
    return table([f"claim on {setting}", "here", "difference in AUC"], rows)
