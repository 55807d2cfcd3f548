"""The page of the shoot-out on MovieLens-100K, from its committed results."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.shootout_list import ARMS
from benchmarks.shootout_page import HEAD_LOSS, mean, present
from benchmarks.tables import table

__all__ = ["CONTROLS", "HYBRID", "PAIRS", "judged", "shootout_movielens"]

TITLES = {
    "cold_items": "Cold items: one item in five never shown on this surface",
    "per_user": "Each user's last rows",
    "global_time": "Last rows by time",
}
HYBRID = "hybrid"  # the one that the demo's settings were chosen for
CONTROLS = ("wide", "random_hash", "coord_shuffled", "two_scalars", "vector")
PAIRS = {  # what a paper says beats what, and the slice it says it of
    ("sid_coord", "coord_level"): ("SID-Coord loses without pairs and triples", "all"),
    ("sid_coord", "coord_no_gate"): ("SID-Coord loses without its gate", "all"),
    ("sid_coord", "coord_no_alignment"): ("SID-Coord loses without alignment", "all"),
    ("sid_coord", "coord_shuffled"): ("SID-Coord needs the item's own codes", "new_tail"),
    ("sid_coord", "prefix"): ("SID-Coord beats prefixes", "new_tail"),
    ("bpe", "prefix"): ("byte-pair units beat prefixes", "new_tail"),
    ("esu_sids", "esu_ids"): ("ESU with SIDs beats ESU with ids", "new_tail"),
    ("glass", "long_mean"): ("SID-Tier token beats the mean of a long history", "new_tail"),
}
WORDS = {"new_tail": "new + tail"}

Run = dict[str, Any]
Report = dict[str, Any]


def shootout_movielens(report: Report) -> str:
    """The whole page, in Markdown."""
    runs = report["runs"]
    held = [name for name in TITLES if any(run["protocol"] == name for run in runs)]
    seeds = len({run["seed"] for run in runs})
    text = (
        f"MovieLens-100K, label rating ≥ 4, {seeds} paired seeds (in cold items also folds). Rows,"
        " features and item vectors are the demo's. So are the settings, chosen on validation rows"
        " for its host, its hybrid and the controls `vector` and `two_scalars`; `wide` has the"
        " host's, every other arm the hybrid's. **new** items have no training row,"
        " **head** is the fifth of the items with the most, **tail** the rest. Brackets are 95%"
        f" joint intervals over users and seeds ({report['draws']:,} draws). *Confirmed* and"
        " *denied* are said where the whole interval is on one side of zero, one claim at a time;"
        " else the claim is *open*."
    )
    parts = [text, directions(report, held)]
    for protocol in held:
        mine = [run for run in runs if run["protocol"] == protocol]
        parts.append(f"**{TITLES[protocol]}**\n\n{arms_table(report, protocol, mine)}")
        parts.append(
            "By training rows of the item, and by days since its first row on either surface (AUC;"
            f" difference from the host):\n\n{buckets(mine)}"
        )
    return "\n\n".join(parts) + "\n"


def directions(report: Report, protocols: Sequence[str]) -> str:
    """What the papers say, by protocol."""
    rows: list[list[str]] = []

    def row(text: str, arm: str, other: str, key: str, sign: int = 1) -> None:
        cells = [judged(found(report, name, arm, other, key), sign) for name in protocols]
        if any(cells):
            rows.append([f"{text} ({WORDS.get(key, key)})", *cells])

    row("SID only: up", "sid_only", "hid", "new_tail")
    row("SID only: down", "sid_only", "hid", "head", -1)
    row(f"`{HYBRID}`: up", HYBRID, "hid", "new_tail")
    row(f"`{HYBRID}`: no worse", HYBRID, "hid", "head", 0)
    for control in CONTROLS:
        row(f"`{HYBRID}` beats `{control}`", HYBRID, control, "new_tail")
    row("TRM: up", "trm", "hid", "new_tail")
    row("TRM: no worse", "trm", "hid", "head", 0)
    shares = [table_share(in_protocol(report["runs"], n), "trm") for n in protocols]
    rows.append(["TRM: table numbers, of the host's", *(f"{s:.0%}" if s else "" for s in shares)])
    for (arm, other), (text, key) in PAIRS.items():
        row(text, arm, other, key)
    return "**What the papers say of the direction**\n\n" + table(["claim", *protocols], rows)


def judged(interval: Sequence[float] | None, sign: int) -> str:
    """Verdict and figure; a sign of 0 asks for no loss beyond ``HEAD_LOSS``."""
    if interval is None:
        return ""
    middle, low, high = interval
    shift = HEAD_LOSS if sign == 0 else 0.0
    ends = sorted((low + shift, high + shift)) if sign >= 0 else sorted((-low, -high))
    word = "confirmed" if ends[0] > 0 else "**denied**" if ends[1] < 0 else "open"
    return f"{word} {signed(middle)} [{signed(low)}, {signed(high)}]"


def arms_table(report: Report, protocol: str, runs: list[Run]) -> str:
    shown = ["all", *(["new"] if protocol == "cold_items" else []), "new_tail", "head"]
    rows: list[list[str]] = []
    for name in present(runs):
        mine = [run for run in runs if run["arm"] == name]
        cells = [f"`{name}`", ARMS[name].says]
        cells += [f"{mean(run['auc'][key] for run in mine):.4f}" for key in shown]
        for key in ("all", "new_tail", "head"):
            interval = found(report, protocol, name, "hid", key)
            cells.append("" if interval is None else "{} [{}, {}]".format(*map(signed, interval)))
        cells.append(f"{mean(run['sparse_parameters'] for run in mine) / 1e3:.1f} k")
        cells.append(f"{mean(run['seconds'] for run in mine):.1f}")
        rows.append(cells)
    header = ["arm", "", *(WORDS.get(key, key) for key in shown)]
    header += ["all − host", "new + tail − host", "head − host", "table numbers", "s"]
    return table(header, rows)


def buckets(runs: list[Run]) -> str:
    """Mean difference from the host by training rows and by age."""
    host = {run["seed"]: run for run in runs if run["arm"] == "hid"}
    keys = list(
        dict.fromkeys(
            key
            for run in host.values()
            for key in run["auc"]
            if key.startswith(("rows ", "age ")) and all(key in r["auc"] for r in host.values())
        )
    )
    counts = [f"{mean(run['rows'][key] for run in host.values()):,.0f}" for key in keys]
    rows = [["judged rows a seed", *counts]]
    for name in present(runs):
        cells = [f"`{name}`"]
        for key in keys:
            mine = [run for run in runs if run["arm"] == name and run["seed"] in host]
            if name == "hid":
                cells.append(f"{mean(run['auc'][key] for run in mine):.4f}")
            else:
                more = [run["auc"][key] - host[run["seed"]]["auc"][key] for run in mine]
                cells.append(signed(statistics.fmean(more)))
        rows.append(cells)
    header = [f"{key} d" if key.startswith("age") else key for key in keys]
    return table(["", *header], rows)


def found(report: Report, protocol: str, arm: str, other: str, key: str) -> Any:
    """The interval of a difference, if it was made."""
    return report["intervals"].get(f"{protocol} {arm} {other}", {}).get(key)


def table_share(runs: list[Run], name: str) -> float | None:
    """Numbers in an arm's tables over those in the host's."""
    both = [
        [run["sparse_parameters"] for run in runs if run["arm"] == each] for each in (name, "hid")
    ]
    return mean(both[0]) / mean(both[1]) if all(both) else None


def in_protocol(runs: list[Run], protocol: str) -> list[Run]:
    return [run for run in runs if run["protocol"] == protocol]


def signed(value: float) -> str:
    return f"{value:+.4f}"
