"""Sections of the generated page about production: candidates of requests, rows from parquet."""

from typing import Any

from benchmarks.tables import table

WANTED = 6.0
COMPRESSED = ("compression tokens",)


def candidate_scorer(report: dict[str, Any]) -> str:
    """Requests a second both ways, how both grow, and what clients wait."""
    rows = report["rows"]
    text = (
        f"`CandidateScorer`, one user with a history of {report['history']} and"
        f" {report['candidates']} candidates, against pointwise expansion: the same request as"
        f" {report['candidates']} rows, made and scored in one batch by the same model. Thread time"
        f" of {report['threads']} thread, {report['rounds']} rounds, of {report['calls']} calls of"
        " the scorer each. The answers are equal first (largest difference, as a share of the"
        f" largest logit: {max(row['difference'] for row in rows):.0e}). The rows' making is within"
        " pointwise milliseconds; *ready rows* are those without it. Freed memory stays with the"
        " program, as under a server's allocator: glibc's default hands it back at times, and then"
        " the expanded rows cost more."
    )
    lines = [
        [
            row["ranker"],
            f"{row['milliseconds']['scorer']:.1f}",
            f"{row['milliseconds']['pointwise']:.1f}",
            f"{row['milliseconds']['ready']:.1f}",
            f"{row['requests_per_second']['scorer']:.1f}",
            f"{row['ratio']:.1f}",
        ]
        for row in rows
    ]
    header = ["ranker", "scorer ms", "pointwise ms", "ready rows ms", "requests/s", "ratio"]
    parts = [f"## Candidates of a request\n\n{text}", table(header, lines), why(rows)]
    parts.append(
        "The DLRMs read the fields of Taobao's display-ad log, split into user and ad as in"
        " TorchEasyRec's examples, with semantic IDs of the ad and of the clicked ads; widths and"
        " layers are those of TorchEasyRec's DLRM, of the DLRM for Criteo Kaggle and of MLPerf's."
    )
    parts.append("Sizes: " + "; ".join(f"{row['ranker']}: {row['said']}" for row in rows) + ".")
    parts.append(clients(report["loops"]))
    parts.append("Milliseconds of the scorer and its ratio, by history:")
    old = [row for row in report["by_history"] if row["ranker"] in COMPRESSED]
    whole = [row for row in report["by_history"] if row["ranker"] not in COMPRESSED]
    parts.append(growth(whole, "history"))
    if old:
        parts.append(flat(old))
    parts.append("By candidates:")
    parts.append(growth(report["by_candidates"], "candidates"))
    return "\n\n".join(parts)


def why(rows: list[dict[str, Any]]) -> str:
    """Which are six times as fast, and what the others spend."""
    slow = [row for row in rows if row["ratio"] < WANTED]
    text = (
        "What encodes the history (`TokenFormer`, `SituationCTR`, compression tokens) is spared it"
        " for every candidate but one. A DLRM only pools the history; its fields, their products"
        " and the columns of the first upper layer that read them are computed once for the"
        " request, and what remains is the candidate's: its lookups and the layers above the"
        " first."
    )
    floors = [row for row in rows if "layers" in row["milliseconds"]]
    if floors:
        spent = [
            f"{row['ranker']} {row['milliseconds']['layers']:.1f} of"
            f" {row['milliseconds']['scorer']:.1f} ms"
            for row in floors
        ]
        text += f" Those layers alone, for {rows[0]['candidates']} rows: {', '.join(spent)}."
    for row in floors:
        most = row["milliseconds"]["pointwise"] / row["milliseconds"]["layers"]
        if most < WANTED:
            text += f" No scorer of {row['ranker']} can pass {most:.1f} times."
    if slow:
        names = ", ".join(f"{row['ranker']} ({row['ratio']:.1f})" for row in slow)
        text += f" Below {WANTED:.0f} times: {names}."
    return text


def clients(loops: list[dict[str, Any]]) -> str:
    """What clients of one scorer wait."""
    first = loops[0]
    text = (
        f"{first['clients']} clients, threads of one process, ask one scorer again as soon as they"
        f" have an answer, for {first['seconds']:.0f} s each; wall time. The process is set up as a"
        " server's should be: `gc.freeze()` once the model is loaded, and"
        f" `sys.setswitchinterval({first['switch_milliseconds'] / 1000:g})`, since Python lets a"
        " thread wait 5 ms for another's by default, which is longer than many a request."
        " *Of its thread* is p99 / p50 of the CPU time of the request's own thread. *Others* is the"
        " share of the machine's CPU time that other programs took meanwhile: what they take, a"
        " client waits. Every run is listed."
    )
    lines = [
        [
            loop["ranker"],
            f"{loop['requests_per_second']:.1f}",
            f"{loop['p50_milliseconds']:.1f}",
            f"{loop['p99_milliseconds']:.1f}",
            f"{loop['p99_over_p50']:.2f}",
            f"{loop['thread']['p99_over_p50']:.2f}",
            f"{100 * loop['of_others']:.0f}%",
        ]
        for loop in loops
    ]
    header = [
        "ranker",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "p99 / p50",
        "of its thread",
        "others",
    ]
    return f"{text}\n\n{table(header, lines)}"


def flat(rows: list[dict[str, Any]]) -> str:
    """Latency over histories that were compressed beforehand."""
    spent = [row["milliseconds"]["scorer"] for row in rows]
    text = (
        "Old behaviours behind compression tokens were read off the request path; a request reads"
        f" the tokens. From {rows[0]['history']:,} to {rows[-1]['history']:,} behaviours it takes"
        f" {min(spent):.1f} to {max(spent):.1f} ms:"
    )
    header = ["history", *(f"{row['history']:,}" for row in rows)]
    return f"{text}\n\n{table(header, [['scorer ms', *(f'{each:.1f}' for each in spent)]])}"


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
        " core, and of wall seconds, beside other work."
    )
    lines = [
        [
            row["what"] if row["what"] == "arrow" else f"`RowStream`, {row['what']}",
            str(row["readers"]),
            f"{row['cpu_seconds']:.2f}",
            f"{row['rows_per_cpu_second'] / 1e6:.2f}",
            f"{row['of_arrow']:.2f}",
            f"{row['rows_per_second'] / 1e6:.2f}",
        ]
        for row in report["rows"]
    ]
    header = ["what", "readers", "CPU s", "million rows a CPU second", "of arrow's rate"]
    header += ["million rows a second"]
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
