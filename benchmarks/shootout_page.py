"""The shoot-out's page, from its committed results; a half-finished result makes a page too."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.shootout_list import ARMS
from benchmarks.tables import table

__all__ = ["best_hybrid", "gap_closed", "shootout"]

HYBRIDS = [
    name
    for name, arm in ARMS.items()
    if arm.hash_id
    and (arm.gate or arm.fields)
    and arm.codes == "learned"
    and arm.statistics != "shuffled"
]
ABLATIONS = ("coord_level", "coord_no_gate", "coord_no_alignment")
CONTROLS = ("wide", "random_hash", "two_scalars", "coord_shuffled")
HEAD_LOSS = 0.0005

Run = dict[str, Any]


def shootout(report: dict[str, Any]) -> str:
    """The whole page, in Markdown."""
    runs: list[Run] = report["runs"]
    main = [run for run in runs if run["structure"] == 1.0]
    seeds = len({run["seed"] for run in main})
    recipe = report["recipe"]
    text = (
        f"A planted log a seed, {seeds} seeds: {report['rows']:,} impressions, Zipf 1.1, a fifth of"
        " each day's offer new, all structure (`structure=1`). One DLRM"
        f" (width 16, at most {recipe['epochs']} passes, stopped by the validation day), codes"
        f" learned from the item vectors ({' × '.join(map(str, report['levels']))}). AUC is by the"
        " true probabilities of the last day's rows; **new** items have no training row, **tail**"
        " fewer than 20, **head** 200 or more. Counts of an item stop where training stops. ± is"
        " twice the standard error of the paired difference over the seeds; the interval in"
        " brackets is by the drawn labels, over users and seeds. *Gap closed* is the share of the"
        " way from the host to the Bayes AUC on new + tail items. The best hybrid is the one of"
        " best AUC on the validation day. *Confirmed* goes by the signs of the paired differences,"
        " one claim at a time; no correction is made for their number."
    )
    parts = [text, arms_table(report, main), claims(main)]
    for title, prefix in (("By training rows of the item", "rows "), ("By age in days", "age ")):
        parts.append(f"**{title}** (AUC; difference from the host)\n\n{buckets(main, prefix)}")
    if any(run["structure"] != 1.0 for run in runs):
        parts.append(f"**From all quality to all structure**\n\n{curve(runs)}")
    return "\n\n".join(parts) + "\n"


def arms_table(report: dict[str, Any], runs: list[Run]) -> str:
    rows: list[list[str]] = []
    bayes = {key: mean(r["bayes_auc"][key] for r in of(runs, "hid")) for key in SHOWN}
    for name in present(runs):
        cells = [f"`{name}`", ARMS[name].says]
        cells += [f"{mean(r['expected_auc'][key] for r in of(runs, name)):.4f}" for key in SHOWN]
        cells.append("" if name == "hid" else spread(runs, name, "hid", "new_tail"))
        found = report["intervals"].get(name, {}).get("new_tail")
        cells.append(f"[{found[1]:+.4f}, {found[2]:+.4f}]" if found else "")
        cells.append("" if name == "hid" else f"{gap_closed(runs, name):.0%}")
        cells.append(f"{mean(r['sparse_parameters'] for r in of(runs, name)) / 1e6:.2f} M")
        cells.append(f"{mean(r['seconds'] for r in of(runs, name)):.0f}")
        rows.append(cells)
    rows.append(["", "Bayes", *(f"{bayes[key]:.4f}" for key in SHOWN), "", "", "100%", "", ""])
    header = ["arm", "", *(key.replace("_", " + ") for key in SHOWN)]
    header += ["new + tail − host", "by labels", "gap closed", "table numbers", "s"]
    return table(header, rows)


SHOWN = ("all", "new", "tail", "new_tail", "head")


def claims(runs: list[Run]) -> str:
    """What the papers say of the direction, and whether it is so here."""
    said: list[tuple[str, bool | None, str]] = []
    names = present(runs)
    if "sid_only" in names:
        up, down = (differences(runs, "sid_only", "hid", key) for key in ("new_tail", "head"))
        holds = statistics.fmean(up) > 0 > statistics.fmean(down)
        said.append(("SID only: tail up, head down", holds, two(up, down)))
    best = best_hybrid(runs)
    if best:
        up, head = (differences(runs, best, "hid", key) for key in ("new_tail", "head"))
        holds = statistics.fmean(up) > 0 and statistics.fmean(head) >= -HEAD_LOSS
        said.append((f"Hybrid (`{best}`): head no worse, tail up", holds, two(up, head)))
        closed = gap_closed(runs, best)
        text = "best hybrid closes 60% of the gap on new + tail items"
        said.append((text, closed >= 0.6, f"{closed:.0%}"))
        for control in (name for name in CONTROLS if name in names):
            more = differences(runs, best, control, "new_tail")
            said.append((f"best hybrid beats `{control}`", min(more) > 0, wins(more)))
    if "trm" in names:
        up, head = (differences(runs, "trm", "hid", key) for key in ("new_tail", "head"))
        fewer = mean(r["sparse_parameters"] for r in of(runs, "trm"))
        share = fewer / mean(r["sparse_parameters"] for r in of(runs, "hid"))
        holds = statistics.fmean(up) > 0 and statistics.fmean(head) >= -HEAD_LOSS and share < 1
        text = "TRM: head no worse, tail up, fewer table numbers"
        said.append((text, holds, f"{two(up, head)}; {share:.0%} of the host's"))
    for name in (name for name in ABLATIONS if name in names and "sid_coord" in names):
        for key in ("all", "new_tail"):
            lost = differences(runs, name, "sid_coord", key)
            holds = sum(value < 0 for value in lost) >= 0.8 * len(lost)
            said.append((f"{ARMS[name].says}: {key.replace('_', ' + ')} down", holds, wins(lost)))
    if {"sid_coord", "coord_noise_gate"} <= set(names):
        true, noise = (
            mean(r["gate_range"] for r in of(runs, name))
            for name in ("sid_coord", "coord_noise_gate")
        )
        text = "gate: trust in the hash ID, top minus bottom exposure decile, 2 × its control"
        said.append((text, true >= 2 * abs(noise), f"{true:+.3f} against {noise:+.3f}"))
    for first, second, text in PAIRS:
        if {first, second} <= set(names):
            more = differences(runs, first, second, "new_tail")
            holds = sum(value > 0 for value in more) >= 0.8 * len(more)
            said.append((text, holds, wins(more)))
    rows = [[text, "confirmed" if holds else "**denied**", figure] for text, holds, figure in said]
    return "**What the papers say of the direction**\n\n" + table(
        ["claim", "here", "differences in AUC"], rows
    )


PAIRS = (
    ("esu_sids", "esu_ids", "ESU with SIDs beats ESU with ids (new + tail)"),
    ("glass", "long_mean", "SID-Tier token beats the mean of a long history (new + tail)"),
    ("bpe", "prefix", "byte-pair units beat prefixes (new + tail)"),
    ("sid_coord", "prefix", "SID-Coord beats prefixes (new + tail)"),
    ("history", "multires", "SIDs of ten likes help (new + tail)"),
)


def buckets(runs: list[Run], prefix: str) -> str:
    keys = [
        key
        for key in runs[0]["expected_auc"]
        if key.startswith(prefix) and all(key in run["expected_auc"] for run in runs)
    ]
    rows = [
        [
            f"`{name}`",
            *(
                f"{mean(r['expected_auc'][key] for r in of(runs, name)):.4f}"
                if name == "hid"
                else f"{statistics.fmean(differences(runs, name, 'hid', key)):+.4f}"
                for key in keys
            ),
        ]
        for name in present(runs)
    ]
    rows.append(
        ["Bayes", *(f"{mean(r['bayes_auc'][k] for r in of(runs, 'hid')):.4f}" for k in keys)]
    )
    counts = ["rows", *(f"{mean(r['rows'][key] for r in of(runs, 'hid')):,.0f}" for key in keys)]
    return table(["", *(key.removeprefix(prefix) for key in keys)], [counts, *rows])


def curve(runs: list[Run]) -> str:
    """New + tail AUC over the knob, of the arms that ran as many seeds as the host everywhere."""
    knobs = sorted({run["structure"] for run in runs})
    by_knob = {knob: [run for run in runs if run["structure"] == knob] for knob in knobs}
    full = [
        name
        for name in present(runs)
        if all(len(of(some, name)) == len(of(some, "hid")) > 0 for some in by_knob.values())
    ]
    rows: list[list[str]] = []
    for name in full:
        cells = [f"`{name}`"]
        for some in by_knob.values():
            cell = f"{mean(r['expected_auc']['new_tail'] for r in of(some, name)):.4f}"
            if name != "hid":
                cell += f" ({gap_closed(some, name):.0%}; {spread(some, name, 'hid', 'new_tail')})"
            cells.append(cell)
        rows.append(cells)
    if {"multires", "two_scalars"} <= set(full):
        cells = [spread(some, "multires", "two_scalars", "new_tail") for some in by_knob.values()]
        rows.append(["`multires` − `two_scalars`", *cells])
    bayes = [
        f"{mean(r['bayes_auc']['new_tail'] for r in of(some, 'hid')):.4f}"
        for some in by_knob.values()
    ]
    seeds = min((len(of(some, "hid")) for some in by_knob.values()), default=0)
    header = [f"`structure`, {seeds} seeds each", *(f"{knob:g}" for knob in knobs)]
    text = (
        "AUC on new + tail items (share of the host's distance from Bayes that is closed;"
        " difference from the host)."
    )
    best = best_hybrid(by_knob[1.0]) if 1.0 in knobs else None
    if best is not None and best not in full:
        ahead, cost = (
            [mean(r[key] for r in of(by_knob[1.0], name)) for name in (best, "multires")]
            for key in ("validation_auc", "seconds")
        )
        text += (
            f" `multires` stands for the hybrids: at 1 the best, `{best}`, is"
            f" {ahead[0] - ahead[1]:.4f} ahead of it on the validation day, at"
            f" {cost[0] / cost[1]:.1f} times its cost."
        )
    return f"{text}\n\n{table(header, [*rows, ['Bayes', *bayes]])}"


def best_hybrid(runs: list[Run]) -> str | None:
    """The hybrid of learned codes with the best mean AUC on the validation day, by its labels."""
    names = [name for name in present(runs) if name in HYBRIDS]
    if not names or not of(runs, "hid"):
        return None
    return max(names, key=lambda n: mean(r["validation_auc"] for r in of(runs, n)))


def gap_closed(runs: list[Run], name: str) -> float:
    """Of the way from the host to the Bayes AUC on new + tail items, over the common seeds."""
    seeds = {run["seed"] for run in of(runs, name)}
    host = [run for run in of(runs, "hid") if run["seed"] in seeds]
    way = mean(run["bayes_auc"]["new_tail"] - run["expected_auc"]["new_tail"] for run in host)
    return statistics.fmean(differences(runs, name, "hid", "new_tail")) / way


def differences(runs: list[Run], name: str, other: str, key: str) -> list[float]:
    """Paired by seed."""
    theirs = {run["seed"]: run["expected_auc"][key] for run in of(runs, other)}
    return [
        run["expected_auc"][key] - theirs[run["seed"]]
        for run in of(runs, name)
        if run["seed"] in theirs
    ] or [float("nan")]


def spread(runs: list[Run], name: str, other: str, key: str) -> str:
    found = differences(runs, name, other, key)
    if len(found) < 2:
        return f"{found[0]:+.4f}"
    error = statistics.stdev(found) / len(found) ** 0.5
    return f"{statistics.fmean(found):+.4f} ± {2 * error:.4f}"


def wins(found: Sequence[float]) -> str:
    up = sum(value > 0 for value in found)
    return f"{statistics.fmean(found):+.4f} ({up} of {len(found)} seeds up)"


def two(tail: Sequence[float], head: Sequence[float]) -> str:
    return f"new + tail {statistics.fmean(tail):+.4f}, head {statistics.fmean(head):+.4f}"


def present(runs: list[Run]) -> list[str]:
    held = {run["arm"] for run in runs}
    return [name for name in ARMS if name in held]


def of(runs: list[Run], name: str) -> list[Run]:
    return [run for run in runs if run["arm"] == name]


def mean(values: Any) -> float:
    return statistics.fmean(values)
