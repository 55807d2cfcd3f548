"""Sections of the generated pages about exported rankers: their speed, size and ranking."""

from typing import Any

from benchmarks.tables import table


def serving_export(report: dict[str, Any]) -> str:
    """Speed and size, then ranking."""
    return f"{exported(report)}\n\n{int8(report)}"


def exported(report: dict[str, Any]) -> str:
    """Requests a second in Python, exported and compiled, and the ratios."""
    worst = max(value for row in report["rows"] for value in row["difference"].values())
    text = (
        "`export_ranker` writes what `torch.export` traced of `rank`, and AOTInductor's machine"
        f" code of it. One request of one user, history {report['history']}, thread time of"
        f" {report['threads']} thread, {report['rounds']} interleaved rounds, medians; a ratio is"
        " the time of the same model in Python (`rank`, without the scorer) over that of the form."
        " Forms that were read back check names and sizes of each request, which is part of their"
        f" time. Before the clock starts all give what Python gives (largest difference {worst:.0e}"
        " of `1 + |logit|`), also at numbers of candidates that the export did not see."
    )
    shares = [
        f"{row['ranker']} {100 * row['kernels']['50']:.0f} and {100 * row['kernels']['500']:.0f}%"
        for row in report["rows"]
    ]
    text += (
        " Matrix products and attention are one library's code in all forms and no compiler gains"
        " there; of a call in Python at 50 and 500 candidates they are " + ", ".join(shares) + "."
    )
    rows: list[list[str]] = []
    for row in report["rows"]:
        for count, spent in row["milliseconds"].items():
            for way, milliseconds in spent.items():
                ratio = spent[f"Python {way.split()[-1]}"] / milliseconds
                times = [f"{milliseconds:.2f}", f"{1000 / milliseconds:,.0f}", f"{ratio:.2f}"]
                rows.append([row["ranker"], count, way, *times])
    header = ["ranker", "candidates", "form", "ms", "requests/s", "ratio"]
    sizes = [
        [row["ranker"], file, f"{size / 2**20:,.1f}"]
        for row in report["rows"]
        for file, size in row["bytes"].items()
    ]
    megabytes = table(["ranker", "file", "MiB"], sizes)
    return f"## Exported rankers\n\n{text}\n\n{table(header, rows)}\n\n{megabytes}"


def int8(report: dict[str, Any]) -> str:
    """AUC of both forms of the demo's hybrid, on the same rows."""
    text = (
        "The demo's hybrid DLRM, trained on MovieLens, with `int8_tables`: AUC on held-out rows"
        " minus that with the tables as they are, both on the same rows, with DeLong's 95% interval"
        " in millionths."
    )
    rows = [
        [run["protocol"], str(run["seed"]), f"{run['rows']:,}", str(run["width"])]
        + [f"{run['auc'][form]:.6f}" for form in ("fp32", "int8")]
        + [f"{run['difference']:+.6f}", " to ".join(f"{1e6 * end:+.0f}" for end in run["interval"])]
        for run in report["auc"]
    ]
    header = ["protocol", "seed", "rows", "width", "fp32", "int8", "difference", "interval"]
    return f"## int8 tables\n\n{text}\n\n{table(header, rows)}"
