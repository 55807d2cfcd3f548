"""Pages of the studies beside the shoot-out: the alignment stage, and the gate of SID-Coord."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.shootout_page import wins
from benchmarks.tables import table

__all__ = ["alignment_stage_page", "gate_page"]

Run = dict[str, Any]
STAGES = (
    ("staged", "joint", "rows born zero"),
    ("staged, random birth", "joint, random birth", "rows born at random"),
    ("staged, shuffled", "joint, shuffled", "control: codes shuffled"),
)
SLICES = ("all", "new_tail", "head")


def alignment_stage_page(report: dict[str, Any]) -> str:
    """Staged against joint, in Markdown."""
    runs: list[Run] = report["runs"]
    seeds = len({run["seed"] for run in runs})
    text = (
        "A trained host gains SIDs (residual gate) and trains on. *Staged*: in the first half of"
        " the steps only the new parameters move (`alignment_stage`), then all. *Joint*: all move"
        f" from the first step on. As many steps, the same rows, {seeds} paired seeds. Fresh rows:"
        f" a planted log ({report['rows']:,} rows) whose second half the host has not seen, read"
        " once. Rows again: the cold items of MovieLens, where both halves read the host's own"
        " rows, as the upgrade of the demo does."
    )
    header = ["difference of AUC", "", *(key.replace("_", " + ") for key in SLICES)]
    rows: list[list[str]] = []
    for data in dict.fromkeys(run["data"] for run in runs):
        mine = [run["auc"] for run in runs if run["data"] == data]
        for staged, joint, says in STAGES:
            cells = [wins(differences(mine, staged, joint, key)) for key in SLICES]
            rows.append([f"{data}: staged − joint", says, *cells])
        for way in ("joint", "staged"):
            cells = [wins(differences(mine, way, "host", key)) for key in SLICES]
            rows.append([f"{data}: {way} − host trained on", "rows born zero", *cells])
        cells = [wins(differences(mine, "host", "host before", key)) for key in SLICES]
        rows.append([f"{data}: host trained on − host before", "", *cells])
    return f"{text}\n\n{table(header, rows)}\n"


def differences(runs: Sequence[dict[str, Any]], way: str, other: str, key: str) -> list[float]:
    return [run[way][key] - run[other][key] for run in runs]


def gate_page(report: dict[str, Any]) -> str:
    """What the gate and the pairs of SID-Coord depend on, in Markdown."""
    runs: list[Run] = report["runs"]
    seeds = len({run["seed"] for run in runs})
    worlds = [
        (f"{s['memory']:g}", f"{s['codes']}³", [run for run in runs if run["setting"] == name])
        for name, s in report["settings"].items()
    ]
    text = (
        f"Planted logs as the shoot-out's, of {report['rows']:,} rows, {seeds} paired seeds, with"
        " one thing changed. *Memory* is the share of the logit's variance that lies in the item"
        " and not in its vector, so that a hash ID alone can hold it: a tenth in the shoot-out."
        " Codes: 64 a level in the shoot-out."
    )
    return "\n\n".join([text, parts(worlds), trust(worlds)]) + "\n"


World = tuple[str, str, list[Run]]
ASKED = (
    ("sid_only", "hid", "SIDs in place of hash IDs − hash IDs"),
    ("coord_no_gate", "sid_coord", "SID-Coord − gate (one learned weight)"),
    ("coord_noise_gate", "sid_coord", "SID-Coord, gate reads another row"),
    ("coord_level", "sid_coord", "SID-Coord − pairs (levels only)"),
)


def parts(worlds: Sequence[World]) -> str:
    """What each part is worth, by what the log and the codes are like."""
    rows: list[list[str]] = []
    for arm, other, says in ASKED:
        for memory, codes, runs in worlds:
            both = [
                {run["seed"]: run["expected_auc"] for run in runs if run["arm"] == each}
                for each in (arm, other)
            ]
            common = sorted(both[0].keys() & both[1].keys())
            if common:
                cells = [wins([both[0][s][k] - both[1][s][k] for s in common]) for k in SLICES]
                rows.append([says, memory, codes, *cells])
    header = ["difference of AUC", "memory", "codes", *(k.replace("_", " + ") for k in SLICES)]
    return table(header, rows)


def trust(worlds: Sequence[World]) -> str:
    """The gate's trust in the hash ID: its range, and by training rows of the item."""
    names = list(
        dict.fromkeys(n for *_, runs in worlds for run in runs for n in run.get("gate") or ())
    )
    rows: list[list[str]] = []
    for memory, codes, runs in worlds:
        for arm, says in (("sid_coord", "true counts"), ("coord_noise_gate", "another row's")):
            mine = [run for run in runs if run["arm"] == arm]
            if not mine or not any(run["arm"] == "coord_noise_gate" for run in runs):
                continue
            cells = [f"{statistics.fmean(run['gate_range'] for run in mine):+.3f}"]
            for name in names:
                known = [run["gate"][name] for run in mine if run.get("gate")]
                cells.append(f"{statistics.fmean(known):.3f}" if known else "")
            rows.append([memory, codes, says, *cells])
    header = ["memory", "codes", "the gate reads", "range", *(f"{n} rows" for n in names)]
    text = "Trust in the hash ID, top minus bottom decile of exposure, and by rows of the item:"
    return f"{text}\n\n{table(header, rows)}"
