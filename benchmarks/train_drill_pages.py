"""Tables of the guide about training for weeks: kills, restarts, other ranks, other shardings."""

from typing import Any

from benchmarks.tables import table

WORDS = {
    "table_wise": "table-wise",
    "row_wise": "row-wise",
    "column_wise": "column-wise",
    "data_parallel": "data-parallel",
}


def train_drill(report: dict[str, Any]) -> str:
    """What killed and restarted jobs ended with."""
    killed = report["kills"]
    rows = [
        [
            f"{killed['SIGKILL']} × SIGKILL and {killed['SIGTERM']} × SIGTERM in {killed['jobs']}"
            f" jobs, {killed['in the writing']} of them while a checkpoint was written",
            "bit for bit",
        ]
    ]
    legs = report["other_ranks"]
    before = "2 ranks"
    for leg in legs[1:]:
        before += f", then {leg['ranks']}"
        apart = max(leg["difference"].values())
        rows.append([f"{before} (after step {leg['to_step']})", f"to {apart:.1e}"])
    for case in report["agents"][1:]:
        same = "bit for bit" if case["difference"] == 0.0 else f"to {case['difference']:.1e}"
        kill = ", a rank killed, restarted by its agent" if case["killed"] else ""
        count, _, how = case["agents"].partition(", ")
        agents = "1 agent" if count == "one" else f"{count} agents (two hosts, simulated)"
        rows.append([f"{agents}, {how}{kill}", same])
    first, last = killed["auc"][0][1], max(auc for _, auc in killed["auc"])
    text = (
        f"{killed['steps']} steps on two ranks, a checkpoint every {killed['every']}, compared with"
        " a run that nothing interrupted: weights, fused and dense optimiser state, exposure"
        " statistics, position, random states (not after a change of ranks), and the AUC of every"
        f" stretch (from {first:.3f} in the first to {last:.3f} in the best)."
    )
    return f"{text}\n\n{table(['what happened', 'equal'], rows)}\n"


def reshard_matrix(report: dict[str, Any]) -> str:
    """From which sharding to which a checkpoint can be read."""
    found: dict[tuple[str, str, str], set[tuple[str, str, str]]] = {}
    for row in report["rows"]:
        key = (row["optimizer"], row["saved"][0], row["loaded"][0])
        told = tuple(row[name].split(":")[0] for name in ("weights", "with_state", "ours"))
        found.setdefault(key, set()).add(told)
    assert all(len(told) == 1 for told in found.values())  # as told below
    parts: list[str] = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in report["rows"]):
        rows = [[WORDS[way], *(_cell(found[optimizer, way, to]) for to in WORDS)] for way in WORDS]
        header = [f"{optimizer}: saved ↓ read →", *WORDS.values()]
        parts.append(table(header, rows))
    text = (
        "*all*: weights and optimiser state come back bit for bit. *weights*: DCP reads the weights"
        " alone bit for bit, and refuses the state, as `TrainingCheckpoints` refuses both."
        f" {len(report['rows'])} cases; whether one rank or two wrote and read made no difference."
    )
    return "\n\n".join([text, *parts]) + "\n"


def _cell(told: set[tuple[str, str, str]]) -> str:
    return {
        ("exact", "exact", "goes on"): "all",
        ("exact", "refused", "refused"): "weights",
    }[next(iter(told))]
