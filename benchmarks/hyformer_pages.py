"""The page of several sequences, from the committed results of the study."""

import statistics
from typing import Any

from benchmarks.hyformer_focus import SETTING
from benchmarks.paired_seeds import auc, of_auc, shown, up, verdict
from benchmarks.sequence_arms_hyformer import CUT, GROUP, WIDTH
from benchmarks.tables import table

__all__ = ["hyformer"]

Run = dict[str, Any]
SAYS = {
    "hyformer": "read, meet, read again, meet again",
    "late_fusion": "the same readings at once, then a dense network",
    "late_mixer": "the same readings at once, then the same mixers",
    "late_mixer_mean": "late_mixer, the mean of both readings in place of their sum",
    "hyformer_kept": "hyformer, readings add up and the first queries are asked again",
    "hyformer_shared": "hyformer, all sequences start with one query",
    "hyformer_null": "hyformer, types shuffled",
    "hyformer_kept_null": "hyformer_kept, types shuffled",
    "late_fusion_null": "late fusion, types shuffled",
}
WHY = (
    "Why. In `hyformer` the second reading is asked with the answer of the first in place of the"
    " query. It looks for events like a mean of events, finds less of what the candidate asks for"
    " than the first one did, and is all that the decision sees: neither reading gets sharper."
    " `hyformer_kept` has the same blocks, but keeps the first queries and all readings. The scale"
    " of what is read at birth decides too, for products of pairs grow with its square:"
    " `late_mixer_mean` is `late_mixer` at half of it. Both decide whether a run wakes; what"
    " an order of reading can express was not reached here. On seed 0 none of these woke"
    " `hyformer`: twice the steps, mixers that are not silent at birth, louder readings, the first"
    " reading added at the end, or the first queries added to the second question; with the first"
    " queries alone as the second question it woke, late.\n\n"
    "A log made for queries that learn from each other was tried on seed 0 as well: three look-ups"
    " in a row, each in another sequence, the middle one by what the others hold, so that late"
    " fusion has no query for it. No order of reading learned the whole way there in the budgets"
    " tried, so there is no table of it."
)
PAIRS = (
    ("hyformer", "late_fusion"),
    ("hyformer", "late_mixer"),
    ("hyformer", "hyformer_shared"),
    ("hyformer", "hyformer_null"),
    ("hyformer_kept", "hyformer"),
    ("hyformer_kept", "late_fusion"),
    ("hyformer_kept", "late_mixer"),
    ("hyformer_kept", "hyformer_kept_null"),
    ("late_mixer", "late_mixer_mean"),
    ("late_fusion", "late_fusion_null"),
)


def hyformer(report: dict[str, Any]) -> str:
    """Tables by setting, claims, and what was read."""
    runs: list[Run] = report["runs"]
    recipes = {run["setting"]: run["recipe"] for run in runs}
    recipe = recipes[min(recipes)]
    passes = ", ".join(f"{recipes[name]['epochs']} passes of `{name}`" for name in sorted(recipes))
    text = (
        f"One sequence of the {CUT.per_type} newest events of each behaviour type, one query each,"
        f" five non-sequential tokens, width {WIDTH} or a little less. All arms have the same"
        " embeddings, attentions born to match, two readings of every sequence, queries that start"
        " from the candidate, and products of all tokens in pairs before the decision; `late_mixer`"
        " has the very parts of `hyformer`, and so its arithmetic. Trained on groups of"
        f" {GROUP} requests that share their histories ({passes}, each of"
        f" {recipe['share']:.0%} of the training rows, the best of them counts, batch"
        f" {recipe['batch']}, step {recipe['step']:g}), judged request by request. Settings were"
        " chosen, and what is said below of why was found, on validation rows of seed 0, which is"
        " in no table. Brackets: 95% intervals of the paired difference over seeds (Student; on"
        " MovieLens, which is one log, by the drawn labels over users and seeds); a claim is"
        " confirmed or denied by its own interval, without correction for their number."
    )
    parts = [f"## Several sequences: meet early or late\n\n{text}"]
    for setting in sorted({run["setting"] for run in runs}, reverse=True):
        reads = report.get("reads", {}).get(setting, {})
        parts += [f"**AUC, `{setting}`**", _auc(report, setting, reads), _claims(report, setting)]
        if reads:
            parts.append(_why(reads))
        if setting == SETTING and "focus" in report:
            parts += [_focus(report["focus"]), WHY]
    return "\n\n".join(parts) + "\n"


def _auc(report: dict[str, Any], setting: str, reads: dict[str, dict[str, float]]) -> str:
    runs: list[Run] = [run for run in report["runs"] if run["setting"] == setting]
    rows: list[list[str]] = []
    middle = (min(map(auc, runs)) + max(map(auc, runs))) / 2
    for name in (name for name in SAYS if any(run["arm"] == name for run in runs)):
        own = [run for run in runs if run["arm"] == name]
        found = of_auc(report, setting, name, "late_fusion")
        cells = [f"`{name}`", SAYS[name], str(len(own)), f"{statistics.fmean(map(auc, own)):.4f}"]
        cells.append(shown(found[0]) if name != "late_fusion" and found else "")
        cells.append(f"{reads[name]['types']:+.3f}" if name in reads else "")
        cells.append(up([auc(run) - middle for run in own]) if name in reads else "")
        cells.append(f"{own[0]['tables'] + own[0]['layers']:,}")
        rows.append([*cells, f"{statistics.fmean(run['seconds'] for run in own):.0f}"])
    bayes = [run["bayes_auc"] for run in runs if "bayes_auc" in run]
    if bayes:
        truth = f"{reads['truth']['types']:+.3f}" if "truth" in reads else ""
        rows.append(["", "Bayes", "", f"{statistics.fmean(bayes):.4f}", "", truth, "", "", ""])
    head = ["arm", "", "seeds", "AUC", "− late fusion", "reads `types`", "woke", "parameters", "s"]
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
        f" needs two sequences together: `{most}` reads most of"
        f" it ({reads[most]['types']:+.3f} of {reads['truth']['types']:+.3f}), `{least}` least"
        f" ({reads[least]['types']:+.3f}). A run woke if its AUC is nearer to the best of all runs"
        " than to the worst: there is little between."
    )


def _focus(found: dict[str, dict[str, list[float]]]) -> str:
    """Attention to what the answer starts at, reading by reading."""
    rows = [
        [f"`{name}`", *(f"{share:.2f}" for when in ("birth", "trained") for share in own[when])]
        for name in SAYS
        if (own := found.get(name))
    ]
    head = ["arm", "1st reading at birth", "2nd", "1st reading, trained", "2nd"]
    text = (
        "Attention that the readings of the views spend on views of the candidate's form"
        f" (of test rows that have one; equal weights would spend {found['nowhere'][''][0]:.2f}):"
    )
    return f"{text}\n\n{table(head, rows)}"
