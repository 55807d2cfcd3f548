"""The page of several sequences, from the committed results of the study."""

import statistics
from typing import Any

from benchmarks.paired_seeds import auc, of_auc, shown, up, verdict
from benchmarks.sequence_arms_hyformer import CUT, GROUP, WIDTH
from benchmarks.tables import table

__all__ = ["hyformer"]

Run = dict[str, Any]
SAYS = {
    "hyformer": "read, meet, read again, meet again",
    "late_fusion": "the same readings at once, then a dense network",
    "late_mixer": "the same readings at once, then the same mixers",
    "hyformer_shared": "all sequences start with one query",
    "hyformer_kept": "a reading is added to its query",
    "hyformer_null": "hyformer, types shuffled",
    "late_fusion_null": "late fusion, types shuffled",
}
PAIRS = (
    ("hyformer", "late_fusion"),
    ("hyformer", "late_mixer"),
    ("hyformer", "hyformer_shared"),
    ("hyformer_kept", "hyformer"),
    ("hyformer", "hyformer_null"),
    ("late_fusion", "late_fusion_null"),
)


def hyformer(report: dict[str, Any]) -> str:
    """Tables by setting, claims, and what was read."""
    runs: list[Run] = report["runs"]
    recipe = runs[0]["recipe"]
    text = (
        f"One sequence of the {CUT.per_type} newest events of each behaviour type, one query each,"
        f" five non-sequential tokens, width {WIDTH} or a little less. All arms have the same"
        " embeddings, attentions born to match, two readings of every sequence, queries that start"
        " from the candidate, and products of all tokens in pairs before the decision; `late_mixer`"
        " has the very parts of `hyformer`, and so its arithmetic. Trained on groups of"
        f" {GROUP} requests that share their histories ({recipe['epochs']} passes of"
        f" {recipe['share']:.0%} of the training rows, batch {recipe['batch']}, step"
        f" {recipe['step']:g}), judged request by request. Steps from 0.003 to 0.01, lengths, and"
        " silent mixers at birth were looked at on validation rows of seed 0, which is in no"
        " table. Brackets: 95% intervals of the paired difference over seeds (Student; on"
        " MovieLens, which is one log, by the drawn labels over users and seeds); a claim is"
        " confirmed or denied by its own interval, without correction for their number."
    )
    parts = [f"## Several sequences: meet early or late\n\n{text}"]
    for setting in sorted({run["setting"] for run in runs}, reverse=True):
        reads = report.get("reads", {}).get(setting, {})
        parts += [f"**AUC, `{setting}`**", _auc(report, setting, reads), _claims(report, setting)]
        if reads:
            parts.append(_why(reads))
    return "\n\n".join(parts) + "\n"


def _auc(report: dict[str, Any], setting: str, reads: dict[str, dict[str, float]]) -> str:
    runs: list[Run] = [run for run in report["runs"] if run["setting"] == setting]
    rows: list[list[str]] = []
    for name in (name for name in SAYS if any(run["arm"] == name for run in runs)):
        own = [run for run in runs if run["arm"] == name]
        found = of_auc(report, setting, name, "late_fusion")
        cells = [f"`{name}`", SAYS[name], str(len(own)), f"{statistics.fmean(map(auc, own)):.4f}"]
        cells.append(shown(found[0]) if name != "late_fusion" and found else "")
        cells.append(f"{reads[name]['types']:+.3f}" if name in reads else "")
        cells.append(f"{own[0]['tables'] + own[0]['layers']:,}")
        rows.append([*cells, f"{statistics.fmean(run['seconds'] for run in own):.0f}"])
    bayes = [run["bayes_auc"] for run in runs if "bayes_auc" in run]
    if bayes:
        truth = f"{reads['truth']['types']:+.3f}" if "truth" in reads else ""
        rows.append(["", "Bayes", "", f"{statistics.fmean(bayes):.4f}", "", truth, "", ""])
    head = ["arm", "", "seeds", "AUC", "− late fusion", "reads `types`", "parameters", "s"]
    return table(head, rows)


def _claims(report: dict[str, Any], setting: str) -> str:
    rows = [
        [f"`{one}` > `{other}`", verdict(found[0]), shown(found[0]), up(found[1])]
        for one, other in PAIRS
        if (found := of_auc(report, setting, one, other))
    ]
    return table(["claim (AUC)", "here", "difference", "seeds up"], rows)


def _why(reads: dict[str, dict[str, float]]) -> str:
    """Whether the signal that needs two sequences was read, and by whom."""
    arms = [name for name in reads if name in SAYS and not name.endswith("_null")]
    most = max(arms, key=lambda name: reads[name]["types"])
    least = min(arms, key=lambda name: reads[name]["types"])
    return (
        "*reads `types`* is the correlation of the logits with the part of the true logit that"
        f" needs two sequences together: `{most}` reads most of it"
        f" ({reads[most]['types']:+.3f} of {reads['truth']['types']:+.3f}), `{least}` least"
        f" ({reads[least]['types']:+.3f})."
    )
