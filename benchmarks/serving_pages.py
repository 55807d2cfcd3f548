"""Sections of the generated page about production: candidates of requests, rows from parquet."""

from typing import Any

from benchmarks.tables import table

WANTED = 6.0


def candidate_scorer(report: dict[str, Any]) -> str:
    """Requests a second both ways, how both grow, and what clients wait."""
    rows, loops = report["rows"], {loop["ranker"]: loop for loop in report["loops"]}
    clients = report["loops"][0]
    text = (
        f"`CandidateScorer`, one user with a history of {report['history']} and"
        f" {report['candidates']} candidates, against pointwise expansion: the same request as"
        f" {report['candidates']} rows, made and scored in one batch by the same model. Thread time"
        f" of {report['threads']} thread, {report['rounds']} rounds. The answers are equal first"
        " (largest difference, as a share of the largest logit:"
        f" {max(row['difference'] for row in rows):.0e}). The rows' making is within pointwise"
        " milliseconds; *ready rows* are those without it. p50 and p99 are wall time of"
        f" {clients['clients']} clients that ask again as soon as they have an answer, for"
        f" {clients['seconds']:.0f} s, beside other work."
    )
    lines = [
        [
            row["ranker"],
            f"{row['milliseconds']['scorer']:.1f}",
            f"{row['milliseconds']['pointwise']:.1f}",
            f"{row['milliseconds']['ready']:.1f}",
            f"{row['requests_per_second']['scorer']:.1f}",
            f"{row['ratio']:.1f}",
            f"{loops[row['ranker']]['p50_milliseconds']:.1f}",
            f"{loops[row['ranker']]['p99_milliseconds']:.1f}",
        ]
        for row in rows
    ]
    header = ["ranker", "scorer ms", "pointwise ms", "ready rows ms", "requests/s", "ratio"]
    parts = [f"## Candidates of a request\n\n{text}"]
    parts.append(table([*header, "p50 ms", "p99 ms"], lines))
    parts.append(why(rows))
    parts.append("Sizes: " + "; ".join(f"{row['ranker']}: {row['said']}" for row in rows) + ".")
    parts.append("Milliseconds of the scorer and its ratio, by history:")
    parts.append(growth(report["by_history"], "history"))
    parts.append("By candidates:")
    parts.append(growth(report["by_candidates"], "candidates"))
    return "\n\n".join(parts)


def why(rows: list[dict[str, Any]]) -> str:
    """Which are six times as fast, and what the others spend."""
    slow = [row["ranker"] for row in rows if row["ratio"] < WANTED]
    text = (
        "What encodes the history (`TokenFormer`, `SituationCTR`) is spared it for every candidate"
        " but one."
    )
    reasons = {
        "hybrid DLRM": "A DLRM only pools the history; gates, interactions and top layers belong to"
        " the candidate and are paid both ways.",
        "SIDRanker": "`SIDRanker` compares each candidate's codes with each behaviour's"
        " (`InterestAlignment`) and attends from each: that is work of pairs, paid both ways.",
    }
    return " ".join([text, *(reasons[name] for name in slow if name in reasons)])


def growth(rows: list[dict[str, Any]], axis: str) -> str:
    places = sorted({row[axis] for row in rows})
    names = list(dict.fromkeys(row["ranker"] for row in rows))
    found = {(row["ranker"], row[axis]): row for row in rows}
    lines: list[list[str]] = []
    for name in names:
        line = [name]
        for place in places:
            row = found[name, place]
            line.append(f"{row['milliseconds']['scorer']:.1f} ({row['ratio']:.1f})")
        lines.append(line)
    return table([axis, *map(str, places)], lines)


def row_stream(report: dict[str, Any]) -> str:
    """Rows a second, beside Arrow's own read."""
    text = (
        f"{report['rows_read']:,} rows of 26 id columns (int64), 13 of numbers (float32) and a"
        f" label, parquet of {report['file_mib']:.0f} MiB, row groups of {report['row_group']:,},"
        f" in the page cache; global batches of {report['batch']:,} from {report['lanes']} lanes,"
        f" {report['mixed']} row groups mixed. *arrow* reads the row groups and stops there: no"
        " check, no order, no batch. `RowStream` hands out checked `KeyedJaggedTensor`s. Every row"
        " of the file came once, with its values in their columns, before the clock starts."
        f" {report['rounds']} rounds, medians of the CPU seconds of all threads: the rate of one"
        " core. Wall seconds are the fastest round's, beside other work."
    )
    lines = [
        [
            row["what"] if row["what"] == "arrow" else f"`RowStream`, {row['what']}",
            str(row["readers"]),
            f"{row['cpu_seconds']:.2f}",
            f"{row['rows_per_cpu_second'] / 1e6:.2f}",
            f"{row['of_arrow']:.2f}",
            f"{row['fastest_seconds']:.2f}",
        ]
        for row in report["rows"]
    ]
    header = ["what", "readers", "CPU s", "million rows a CPU second", "of arrow's rate"]
    header += ["fastest wall s"]
    memory = [
        [str(row["readers"]), str(row["mixed"]), f"{row['peak_mib']:.0f}"]
        for row in report["memory"]
    ]
    held = (
        f"Decoded, the file is {report['decoded_mib']:.0f} MiB. Every lane holds a block of mixed"
        " row groups and reads the next, so memory is lanes x 2 x `mixed` row groups, at most the"
        " epoch. Peak of the process above its imports, shuffled:"
    )
    parts = [f"## Training rows from parquet\n\n{text}", table(header, lines), held]
    return "\n\n".join([*parts, table(["readers", "mixed", "peak MiB"], memory)])
