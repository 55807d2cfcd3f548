"""Sections of the generated pages about caches: what traffic says of them, and what it is worth."""

from typing import Any

from benchmarks.tables import table


def curves(report: dict[str, Any]) -> str:
    """Misses by the curve and by caches that ran, and how far samples and halves are off."""
    flat = report["flattening"]
    text = (
        f"Two kinds of made-up traffic on a table of {report['rows']:,} rows, {report['batches']:,}"
        f" batches of {report['lookups']:,} lookups: skewed and stationary, and with two fifths in"
        " a window of recent rows that wanders. *Cache* is a simulated one, least recently used"
        " out, looked up a batch at a time; rates count distinct rows of a batch, first accesses"
        " included."
    )
    header = ["traffic", "slots, share of rows", "cache", "curve", "half: `curves`"]
    header += ["half: `recent`", "other half: cache, empty", "cache, running"]
    rows: list[list[str]] = []
    notes: list[str] = []
    for name, found in report["curves"].items():
        held, recent = found["held_out"], report["recent"][name]
        columns = (found["simulated"], found["curve"], held["predicted"], recent["predicted"])
        columns += (held["empty_cache"], held["running_cache"])
        for share, *rates in zip(report["sizes"], *columns, strict=True):
            rows.append([name, f"{share:.1%}", *(f"{rate:.4f}" for rate in rates)])
        notes.append(
            f"- {name}: largest error of the curve {found['error']:.4f}; of the first half's for"
            f" the second, run from an empty cache, {held['error']:.4f}; run on from the cache that"
            f" the first half left, {recent['error']:.4f} of `recent` and"
            f" {held['error_running']:.4f} of `curves`, which count first accesses of the start;"
            f" {samples(found['samples'])}; halves differ by {found['drift']['halves_differ']:.4f}"
        )
    notes.append(
        "- traffic whose skew falls from 1.2 to 0.8 in the middle: halves differ by"
        f" {flat['halves_differ']:.4f}, which is {'warned of' if flat['warned'] else 'not told'}"
    )
    cost = report["collector"]
    spent = cost["milliseconds"]
    notes.append(
        f"- collecting a batch takes {spent['observe']:.2f} ms of one thread, a training step with"
        f" as many lookups (eight features of width 64, head 512-64-1) {spent['step']:.1f} ms, in"
        f" the same run: {cost['share_of_step']:.1%}; `np.unique` of the batch alone takes"
        f" {spent['unique']:.2f} ms; memory {cost['bytes_a_row']:.2f} bytes a row"
    )
    return f"## Miss-ratio curves\n\n{text}\n\n{table(header, rows)}\n\n" + "\n".join(notes)


def samples(found: dict[str, Any]) -> str:
    """Largest errors of curves from samples of the rows, over the samples that were drawn."""
    told: list[str] = []
    for share, each in found.items():
        right, wrong = each["adjusted"], each["unadjusted"]
        told.append(
            f"samples of {float(share):.0%} of the rows, {len(right)} of them, are off by"
            f" {mean(right):.4f} in the mean and {max(right):.4f} at most, without the adjustment"
            f" by {mean(wrong):.4f} and {max(wrong):.4f}"
        )
    return "; ".join(told)


def division(report: dict[str, Any]) -> str:
    """Misses on held-out batches by budget, for three ways to divide it."""
    found = report["division"]
    text = (
        f"{len(found['tables'])} tables of {found['tables'][-1][0]:,} to"
        f" {max(rows for rows, *_ in found['tables']):,} rows, widths 32 to 128, skews 0.2 to 1.3."
        f" Curves are of the first {found['batches'] // 2:,} batches, misses of the"
        f" {found['batches'] // 2:,} after, as a share of their distinct rows: in caches that keep"
        " running, and in caches that start empty. The budget is a share of the weights' bytes"
        " beside what the maps of all rows and the optimizer take in any case. *TorchRec* is"
        f" `EmbeddingOffloadScaleupProposer.allocate_budget` of {report['torchrec']} with the same"
        " curves and the same bytes; *evenly* is one load factor for all; *recent* is sidrank by"
        " the curves of `recent` instead of `curves`."
    )
    header = ["budget", "sidrank", "recent", "TorchRec", "evenly", "to TorchRec", "to evenly"]
    header += ["from empty: sidrank", "recent", "TorchRec", "evenly"]
    rows: list[list[str]] = []
    for row in found["rows"]:
        ways = [row[way] for way in ("sidrank", "recent", "torchrec", "uniform")]
        ours, _, torchrec, even = (way["running"] for way in ways)
        rows.append(
            [f"{row['budget']:.0%}", *(f"{way['running']:.4f}" for way in ways)]
            + [f"{ours / torchrec:.3f}", f"{ours / even:.3f}"]
            + [f"{way['empty']:.4f}" for way in ways]
        )
    brute = found["brute_force"]
    note = (
        f"Against the best of all divisions of 20 sizes a table, three tables at a time"
        f" ({brute['compared']} cases): at worst {brute['worst_ratio']:.4f} of its expected misses."
        " Miss rates of the curves at a load factor of 0.05, against caches that ran: at most"
        f" {max(found['miss_rate_at_0.05']):.4f} apart over the tables."
    )
    return f"## A budget divided\n\n{text}\n\n{table(header, rows)}\n\n{note}"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
