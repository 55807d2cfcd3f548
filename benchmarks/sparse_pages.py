"""Section of the benchmark page about sparse attention."""

import statistics
from typing import Any

from benchmarks.paired_seeds import (
    auc_of,
    interval,
    labelled,
    paired,
    share_of,
    shown,
    spans,
    verdict,
)
from benchmarks.sequence_arms_sparse import CHUNKS, LAST, LENGTH, REFRESH, WINDOW
from benchmarks.tables import table


def evolutionary_attention(report: dict[str, Any]) -> str:
    """Pairs, operations and time of a layer as histories grow."""
    slopes = report["slope"]
    text = (
        f"`EvolutionarySparseAttention`, width {report['dim']}, {report['heads']} heads,"
        f" {report['chunks']} time chunks, the last {report['last']} behaviours of each, a window"
        f" of {report['window']}, {report['candidates']} candidates: forward and backward of one"
        f" row, processor time of {report['threads']} thread, {report['rounds']} rounds, with"
        " sorting and chunking. The peers are dense causal attention behind the same projections:"
        " fused, without a bias, and with the same bias of moments as its"
        " mask, which no fused kernel takes with a gradient and which does not fit beyond"
        f" {max(r['length'] for r in report['rows'] if 'dense with bias' in r['milliseconds']):,}."
        " First, with a chunk for each behaviour and a window over all, every branch equals dense"
        " attention.\n\n"
        "The bound is `L (P + m P + w)`; *visible* is what the definition lets behaviours see,"
        " *computed* what went through a softmax: windows are read in blocks. Slope of log cost"
        f" over log length: visible pairs {slopes['visible']:.2f}, computed"
        f" {slopes['computed']:.2f}, dense {slopes['dense']:.2f}; floating-point operations"
        f" {slopes['flops, sparse']:.2f} against {slopes['flops, dense, fused']:.2f}; milliseconds"
        f" {slopes['milliseconds, sparse']:.2f} against"
        f" {slopes['milliseconds, dense, fused']:.2f}."
    )
    rows = []
    for row in report["rows"]:
        pairs = (f"{row[name]:,}" for name in ("bound", "visible", "computed", "dense"))
        flops = (f"{row['flops'][name] / 1e6:,.0f}" for name in ("sparse", "dense, fused"))
        spent = row["milliseconds"]
        sparse = spent["sparse"]
        times = [f"{spent[name]:.1f}" for name in ("sparse", "dense, fused")]
        times.append(f"{spent['dense with bias']:.1f}" if "dense with bias" in spent else "")
        faster = f"{spent['dense, fused'] / sparse:.2f}"
        rows.append([f"{row['length']:,}", *pairs, *flops, *times, faster])
    header = ["behaviours", "bound", "visible", "computed", "dense pairs", "Mflop", "dense Mflop"]
    header += ["ms", "dense, fused ms", "dense with bias ms", "dense, fused ÷ sparse"]
    return f"## Sparse attention\n\n{text}\n\n{table(header, rows)}"


ARMS = {
    "sparse_equal": "chunks of equal numbers of events",
    "sparse_shuffled": "as many, cut by shuffled times",
    "sparse_time": "chunks between the largest gaps",
    "sparse_dense": "dense, one layer",
    "sparse_dense_deep": "dense, two layers",
}
EQUAL, SHUFFLED, TIME, DENSE, DEEP = ARMS
WORSE = 0.001  # of AUC, that sparse attention may lose against dense


def sparse_study(report: dict[str, Any]) -> str:
    """Where a history is cut, and what dense attention would reach."""
    done = {run["setting"] for run in report["runs"]}
    recipe = report["runs"][0]["recipe"]
    weight = share_of("session", "session")
    sparse = CHUNKS + LAST * CHUNKS + WINDOW
    text = (
        f"A candidate and its page read the newest {LENGTH} behaviours, as they were at the last"
        f" refresh (every {REFRESH} of the user), through one layer: {CHUNKS} chunks, the last"
        f" {LAST} of each, a window of {WINDOW}. That is {sparse} pairs a query where dense"
        f" attention has {LENGTH}: {sparse / LENGTH:.0%}. The arms with chunks have the same"
        " parameters, and the same bias of true moments; the control cuts by times shuffled within"
        f" the history. `session` is planted ({report['users']:,} users, a log a seed): which two"
        f" topics share a session, which only the gaps tell, makes {weight:.0%} of the variance of"
        " its logit;"
        " MovieLens is one log, cut by user. At most"
        f" {recipe['epochs']} passes, Adam {recipe['step']:g}, the pass chosen by validation. AUC"
        " of planted rows is by the true probabilities. In brackets: 95% over paired seeds, and by"
        " labels over users and seeds. Chunks, heads, layers, birth of the queries and batch were"
        " chosen on training and validation rows of another seed."
    )
    parts = [f"## Where sparse attention cuts\n\n{text}"]
    for setting in ("session", "movielens_per_user"):
        if setting in done:
            parts += [_sparse_table(report, setting), _sparse_claims(report, setting)]
    return "\n\n".join(parts)


def _sparse_table(report: dict[str, Any], setting: str) -> str:
    rows: list[list[str]] = []
    for name, says in ARMS.items():
        reached = auc_of(report, setting, name)
        if not reached:
            continue
        runs = [r for r in report["runs"] if (r["setting"], r["arm"]) == (setting, name)]
        more = paired(report, setting, name, EQUAL)
        rows.append([
            f"`{name.removeprefix('sparse_')}`",
            says,
            str(len(reached)),
            f"{statistics.fmean(reached.values()):.4f}",
            "" if name == EQUAL else shown(interval(more)),
            shown(labelled(report, setting, name, EQUAL)),
            f"{runs[0]['layers']:,}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
        ])  # fmt: skip
    header = [setting, "", "seeds", "AUC", "− equal, over seeds", "by labels"]
    return table([*header, "parameters of layers", "s"], rows)


def _sparse_claims(report: dict[str, Any], setting: str) -> str:
    claims = (
        ("chunks between gaps above equal ones", TIME, EQUAL, 0.0),
        ("and above chunks by shuffled times", TIME, SHUFFLED, 0.0),
        (f"no worse than dense, one layer, by {WORSE}", TIME, DENSE, -WORSE),
        (f"no worse than dense, two layers, by {WORSE}", TIME, DEEP, -WORSE),
    )
    rows: list[list[str]] = []
    for text, one, other, above in claims:
        if paired(report, setting, one, other):
            found = spans(report, setting, one, other)
            rows.append([text, verdict(*found, above=above), shown(found[0])])
    left = interval(paired(report, setting, SHUFFLED, EQUAL))
    gain = interval(paired(report, setting, TIME, EQUAL))
    if left is not None and gain is not None:
        # small beside the gain, not merely unproven
        word = verdict((-left[0], -left[2], -left[1]), above=-0.5 * gain[0])
        rows.append(["with shuffled times less than half of the gain is left", word, shown(left)])
    return table([f"claim on {setting}", "here", "difference in AUC"], rows)
