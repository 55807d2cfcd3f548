"""Sections of the generated pages about tiered tables: what is known ahead, exactness and speed."""

from statistics import median
from typing import Any

from benchmarks.tables import table


def look_ahead(report: dict[str, Any]) -> str:
    """Hit rates of each policy, and the share of the best one's that a window of 50 reaches."""
    distinct = " and ".join(
        f"{trace['distinct_per_batch']:,.0f} ({name})" for name, trace in report["traces"].items()
    )
    text = (
        f"Planted traffic: {report['batches']} batches of {report['lookups']:,} lookups into"
        f" {report['rows']:,} rows, popularity a power law of exponent {report['exponent']};"
        f" *drifting* sends {report['recent_share']:.0%} of them to rows that came up of late. A"
        f" batch has {distinct} distinct rows; hit rates are of these, over the second half. *Sets"
        " of 32* is the layout of FBGEMM's cache on a GPU; a window knows that many batches ahead;"
        " *best* knows all of them. Not in the first half's traffic, and so missed by every policy,"
        " are the rows that come up for the first time."
    )
    policies = ["lru", "sets of 32", *map(str, report["windows"]), "best"]
    rows: list[list[str]] = []
    for name, trace in report["traces"].items():
        for row in trace["rows"]:
            rates = row["hit_rate"]
            hits = [f"{rates[policy]:.3f}" for policy in policies]
            share = rates["50"] / rates["best"]
            rows.append([name, f"{row['share']:.1%}", *hits, f"{share:.1%}"])
    header = ["traffic", "rows in slots", "LRU", "sets of 32"]
    header += [f"window {window}" for window in report["windows"]] + ["best", "50 of best"]
    return f"## Batches known ahead\n\n{text}\n\n{table(header, rows)}"


def tiered_exact(report: dict[str, Any]) -> str:
    """In how many of the settings the tiered tables came out equal."""
    factors = {
        name: " / ".join("sync" if value is None else str(value) for value in values)
        for name, values in report["factors"].items()
    }
    text = (
        f"Tiered tables against TorchRec's fused ones over {report['steps']} training steps:"
        f" **{report['equal']} of {report['runs']}** settings equal to the last bit in every loss,"
        " weight and optimiser state. At least"
        f" {report['lowest_miss_rate']:.0%} of the rows asked for were missing in each, and a slot"
        f" changed hands {report['fewest_evictions_per_slot']:.0f} times or more."
    )
    rows = [[name, values] for name, values in factors.items()]
    return f"## Tiered tables are exact\n\n{text}\n\n{table(['factor', 'values'], rows)}"


def tiered(report: dict[str, Any]) -> str:
    """Milliseconds of a training step, and what is hidden by fetching ahead."""
    text = (
        f"A table of {report['rows']:,} rows of {report['dim']}, row-wise Adagrad,"
        f" {report['lookups']:,} lookups a batch, a head 256-64; {report['threads']} thread and"
        f" the worker, medians of {report['rounds']} interleaved rounds; *whole* and *resident* in"
        " time of the thread, the others in time of the wall. The load was"
        f" {report['load_before']:.1f} on {report['processors']} processors when it began. With"
        f" all rows in slots a step costs {report['resident_overhead']:+.0%} against TorchRec's"
        f" fused table. With {report['slots']:,} slots {report['miss_rate']:.0%} of the rows miss;"
        " fetched from a file during the batch before, a step takes"
        f" {report['ahead_over_at_the_lookup']:.2f} times what it takes when it fetches at the"
        f" lookup. Where the tier waits {report['delay_milliseconds']:.0f} ms for each batch, as"
        f" long as the rest of the step takes, {report['delay_hidden']:.0%} of the wait is hidden."
    )
    spread = report["spread_milliseconds"]
    rows = [
        [name, f"{value:.1f}", f"{spread[name][0]:.1f}-{spread[name][1]:.1f}"]
        for name, value in report["milliseconds"].items()
    ]
    header = ["table", "ms a step", "least and most"]
    return f"## Tiered tables in time\n\n{text}\n\n{table(header, rows)}"


def tiered_memory(report: dict[str, Any]) -> str:
    """Milliseconds of a training step under a limit on memory that the table exceeds."""
    killed = [way for way, was in report["killed"].items() if was]
    steady, first = report["ratios"]["steady"], report["ratios"]["first"]
    text = (
        f"A table of {report['table_mib']:,} MiB in a file, under a limit of"
        f" {report['limit_mib']:,} MiB that counts the page cache; {report['slots']:,} of"
        f" {report['rows']:,} rows in slots, {report['lookups']:,} lookups a batch. Every way in a"
        " process of its own, from a cold file, with the same batches; means over the first"
        f" {report['steps']} steps, and over as many behind {report['warm_up']} steps of warm-up,"
        f" when as many rows leave as come; medians of {report['rounds']} interleaved rounds. The"
        f" load was {report['load']:.1f} on {report['processors']} processors at the end."
        f" {report['miss_rate']['first']:.0%} of the rows missed at first and"
        f" {report['miss_rate']['steady']:.0%} later. Killed by the limit:"
        f" {', '.join(killed) or 'none'}.\n\n"
        f"Fetched ahead, a steady step takes **{steady['ahead / page cache']:.2f}** times what it"
        " takes to leave caching to the kernel, with the file mapped under ``MADV_RANDOM``"
        f" ({first['ahead / page cache']:.2f} at first). The 16 threads that ask for pages at once"
        " are part of that: given to the mapped file too, they leave a ratio of"
        f" {steady['ahead / page cache, 16 threads']:.2f}"
        f" ({first['ahead / page cache, 16 threads']:.2f} at first). Against fetching at the"
        f" lookup it is {steady['ahead / at the lookup']:.2f}"
        f" ({first['ahead / at the lookup']:.2f}): there is only the ranker's own time to hide the"
        " disk's behind."
    )
    rows: list[list[str]] = []
    for way, own in report["own_mib"].items():
        cells = [way]
        for phase in ("first", "steady"):
            took = report["milliseconds"][phase][way]
            cells.append(f"{median(took):.0f} ({min(took):.0f}-{max(took):.0f})")
        faults = report["page_faults"]
        cells += [f"{faults[phase][way]:,.0f}" for phase in ("first", "steady")]
        rows.append([*cells, f"{own:,}"])
    header = ["way", "ms a step, first", "steady", "pages waited for a step, first", "steady"]
    header.append("MiB of its own")
    return f"## A table larger than memory\n\n{text}\n\n{table(header, rows)}"
