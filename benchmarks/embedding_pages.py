"""Sections of the benchmark page about embeddings."""

from typing import Any

from benchmarks.tables import table


def sid_expansion(report: dict[str, Any]) -> str:
    """Expansion and lookup, byte-pair units, the tier token."""
    units, tiers = report["units"], report["tiers"]
    text = (
        f"Forward, backward and SGD of the five resolutions of a batch of {report['batch']:,} rows,"
        f" {report['items']:,} items, levels of {report['codes']:,} codes."
        " The limit is one fused lookup of as many rows, ids ready in"
        " the batch; the peer is five `nn.EmbeddingBag(sparse=True)` with sparse SGD, fed by plain"
        " arithmetic on codes. Ours is `SIDExpander` and one stock collection, SGD fused."
    )
    places = sorted({(row["threads"], row["items a row"], row["dim"]) for row in report["rows"]})
    rows = []
    for threads, bag, dim in places:
        found = {
            row["step"]: row
            for row in report["rows"]
            if (row["threads"], row["items a row"], row["dim"]) == (threads, bag, dim)
        }
        ours = found["sidrank"]
        times = (f"{found[name]['milliseconds']:.1f}" for name in found)
        numbers = (str(threads), str(bag), str(dim))
        rows.append([*numbers, *times, f"{ours['ratio']:.2f}", f"{ours['peer']:.2f}"])
    header = ["threads", "items a row", "width", "limit ms", "ours ms", "peer ms"]
    parts = [f"## SID expansion\n\n{text}", table([*header, "× limit", "peer ÷ ours"], rows)]
    ways = ", ".join(
        f"{row['items_per_second'] / 1e6:.1f} million items/s {row['way']}"
        for row in units["encode"]
    )
    parts.append(
        f"Byte-pair units: {units['merges']:,} merges are learned from {units['items']:,} items of"
        f" {len(units['levels'])} levels x {units['levels'][0]:,} codes in"
        f" {units['train_seconds']:.1f} s, an expander that has them all spelled is built in"
        f" {units['build_seconds']:.1f} s; then {ways}."
    )
    parts.append(
        f"The token of a history that grew by one behaviour, {tiers['codes']} codes x"
        f" {tiers['tiers']} tiers, {tiers['rows']} rows. Slope of log time over log length:"
        f" added {tiers['slope']['added']:.2f}, counted anew {tiers['slope']['counted anew']:.2f}."
    )
    rows = [
        [f"{row['length']:,}", f"{row['added']:.2f}", f"{row['counted anew']:.2f}"]
        for row in tiers["lengths"]
    ]
    parts.append(table(["behaviours", "added ms", "counted anew ms"], rows))
    return "\n\n".join(parts)
