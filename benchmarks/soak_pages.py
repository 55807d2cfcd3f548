"""Sections of the generated page about serving while training: the soak, and what a swap costs."""

from typing import Any

from benchmarks.tables import table


def serving_soak(report: dict[str, Any]) -> str:
    """What twenty minutes of train, serve and swap came to."""
    size, swap, gaps = report["size"], report["swap"], report["gaps"]
    memory = report["memory"]
    text = (
        f"A hybrid DLRM ({report['parameters_mib']:.0f} MiB) is trained by one process and served"
        f" by another for {report['seconds'] / 60:.0f} minutes, beside other work on two cores. A"
        f" delta is due every {report['every_seconds']:.0f} s; {report['versions'] - 1} came, the"
        f" median {gaps['median']:.1f} s after the one before, the latest {gaps['largest']:.0f} s."
        f" {report['clients']} clients ask again as soon as they have an answer"
        f" ({size['requests']} requests of 50 to 200 candidates, each in several calls of the"
        f" model). All {report['answers']:,} answers were compared, bit for bit, with those of the"
        " trainer's own model of exactly the version that answered."
    )
    rows = [
        ["answers that were not those of their version", str(report["wrong_answers"])],
        ["errors", str(len(report["errors"]))],
        ["versions that answered", str(report["versions_met"])],
        ["versions alive at once, at most", str(report["most_living"])],
        ["rolled back and published again", str(report["rollbacks"])],
        ["refused: NaN, a file cut short, a delta of another version", str(report["refused"])],
        ["items that got a SID meanwhile", f"{report['new_items']:,}"],
        ["delta, median KiB", f"{swap['bytes'] / 1024:.0f}"],
        ["apply, median ms of wall time", f"{swap['apply_ms']:.0f}"],
        [
            "request, median and 99th percentile, ms",
            f"{report['p50_ms']:.1f}, {report['p99_ms']:.1f}",
        ],
    ]
    lines = [
        [
            said,
            f"{memory[name]['warm_mib']:.0f}",
            f"{100 * memory[name]['lowest']:+.1f} % to {100 * memory[name]['highest']:+.1f} %",
            f"{100 * memory[name]['end']:+.1f} %",
            f"{memory[name]['mib_per_hour']:+.0f}",
        ]
        for name, said in {
            "VmRSS": "resident set",
            "Pss": "resident set, shared pages once",
            "RssAnon": "its own pages",
        }.items()
    ]
    held = (
        "Memory of the server after each swap, once warm (a fifth of the run): where it was then,"
        " how far it went, where it ended, and the slope of a line through it. New items are in it."
        " The second line shares libraries with whatever else runs, and rises when that ends."
    )
    header = ["memory", "warm, MiB", "range", "end", "MiB an hour"]
    parts = ["## Serving while training", text, table(["what", "found"], rows), held]
    return "\n\n".join([*parts, table(header, lines)])


def version_swap(report: dict[str, Any]) -> str:
    """Seconds and memory of the next version of a large table."""
    text = (
        f"A table of {report['rows']:,} rows of {report['width']} numbers"
        f" ({report['table_mib']:.0f} MiB) changes in some rows. `delta_between` compares all of"
        " it, `apply_delta` makes the next version beside the one that serves; the one before is"
        " kept. Thread time of one thread is told beside that of a copy of the table into memory"
        " that is there; memory is what is held in all beyond one table: a second table would be"
        " 100 %. Rows lie anywhere (scattered) or one after the other. "
        f"{report['rounds']} rounds, interleaved, medians."
    )
    lines = [
        [
            f"{case['changed']:,} {case['how']}",
            f"{case['delta_mib']:.1f}",
            f"{case['seconds']['copy']:.3f}",
            f"{case['compare_over_copy']:.1f}",
            f"{case['apply_over_copy']:.1f}",
            f"{case['more_mib']:.0f}",
            f"{100 * case['more_of_table']:.0f} %",
        ]
        for case in report["cases"]
    ]
    header = ["rows changed", "delta, MiB", "copy, s", "compare, copies", "apply, copies"]
    header += ["more memory, MiB", "of a table"]
    return "\n\n".join(["### The next version of a large table", text, table(header, lines)])
