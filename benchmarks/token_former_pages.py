"""The page of the unified stream, from the committed results of its study and of its diagnosis."""

import statistics
from typing import Any

from benchmarks.paired_seeds import auc, differences, interval, of_auc, shown, up, verdict
from benchmarks.sequence_arms_simple import WIDTH
from benchmarks.sequence_arms_token_former import LAYERS, LENGTH, TARGETS, WINDOWS
from benchmarks.tables import table

__all__ = ["token_former"]

Run = dict[str, Any]
SAYS = {
    "unified_vanilla": "every layer sees everything",
    "unified_nlir": "+ NLIR",
    "unified_bfts": "+ BFTS",
    "unified_both": "+ BFTS + NLIR",
    "unified_vanilla_null": "vanilla, static fields of another user",
    "unified_both_null": "both, static fields of another user",
    "unified_crossed": "vanilla, told segment and topic as one id",
}
PAIRS = (
    ("unified_nlir", "unified_vanilla"),
    ("unified_bfts", "unified_vanilla"),
    ("unified_both", "unified_vanilla"),
    ("unified_both", "unified_nlir"),
    ("unified_both", "unified_bfts"),
)
NULLS = (
    ("unified_vanilla", "unified_vanilla_null"),
    ("unified_both", "unified_both_null"),
    ("unified_both_null", "unified_vanilla_null"),
)
ORACLE = "unified_crossed"
READ = (
    (0.5, "read for more than half"),
    (0.1, "read in part"),
    (0.03, "hardly read"),
    (-1.0, "not read"),
)


def token_former(report: dict[str, Any], ranks: dict[str, Any]) -> str:
    """Sections: AUC and its order, what was read, and the rank of trained behaviours."""
    runs: list[Run] = report["runs"]
    recipe = runs[0]["recipe"]
    windows = " and ".join(map(str, WINDOWS))
    text = (
        f"A decoder of {LAYERS} layers over `[fields; sep; {LENGTH} behaviours; sep; targets]`,"
        f" width {WIDTH}; the arms have the same number of parameters. BFTS:"
        f" {LAYERS - len(WINDOWS)} full layers, then windows of {windows}. Fields are the static"
        f" ones of the user, context rides with the target. Trained on groups of {TARGETS} requests"
        f" that share a history ({recipe['epochs']} passes of {recipe['share']:.0%} of the training"
        f" rows, batch {recipe['batch']}, step {recipe['step']:g}), judged request by request, on"
        " planted rows by their true probabilities. In `choice` one field says whether the topic or"
        " the brand of the candidate is what should match the last behaviours, and three more say"
        " who likes much; in `static` one field says which topics go together. Steps from 0.003 to"
        " 0.01, lengths, the spread of attention at birth, the number and values of the fields and"
        " the length of training were looked at with the vanilla decoder on validation rows of seed"
        " 0, which is in no table; windows were not searched. Brackets: 95% intervals of the paired"
        " difference over seeds (Student; on MovieLens, which is one log, by the drawn labels over"
        " users and seeds); a claim is confirmed or denied by its own interval, without correction"
        " for their number."
    )
    parts = [f"## One stream of fields and behaviours\n\n{text}"]
    settings = sorted({run["setting"] for run in runs})
    for setting in settings:
        parts += [f"**AUC, `{setting}`**", _auc(report, setting)]
        if order := _order(report, setting):
            parts.append(table(["claim", "here", "difference", "seeds up"], order))
        if setting in report.get("reads", {}):
            parts.append(_reads(report["reads"][setting], setting))
    parts.append("## Do static fields flatten the behaviours?")
    parts.append(
        f"Effective rank of the behaviours' states ({ranks['requests']:,} test requests) after each"
        " layer; *score* is the rank with the fields in the stream over the rank without them,"
        " *fields* the share of the behaviours' variance that a linear map of the fields explains."
        " *born*: the same models before training, where mixing alone orders them."
    )
    for setting in settings:
        some = [run for run in ranks["runs"] if run["setting"] == setting]
        if some:
            parts += [f"**Rank, `{setting}`**", _ranks(some), _collapse(some)]
    return "\n\n".join(parts) + "\n"


def _auc(report: dict[str, Any], setting: str) -> str:
    runs: list[Run] = [run for run in report["runs"] if run["setting"] == setting]
    rows: list[list[str]] = []
    for name in present(runs):
        own = [run for run in runs if run["arm"] == name]
        found = of_auc(report, setting, name, "unified_vanilla")
        rows.append(
            [
                f"`{name}`",
                SAYS[name],
                str(len(own)),
                f"{statistics.fmean(map(auc, own)):.4f}",
                shown(found[0]) if name != "unified_vanilla" and found else "",
                f"{own[0]['tables'] + own[0]['layers']:,}",
                f"{statistics.fmean(run['seconds'] for run in own):.0f}",
            ]
        )
    bayes = [run["bayes_auc"] for run in runs if "bayes_auc" in run]
    if bayes:
        rows.append(["", "Bayes", "", f"{statistics.fmean(bayes):.4f}", "", "", ""])
    return table(["arm", "", "seeds", "AUC", "− vanilla", "parameters", "s"], rows)


def _order(report: dict[str, Any], setting: str) -> list[list[str]]:
    return [
        [f"AUC: {_short(one)} > {_short(other)}", verdict(found[0]), shown(found[0]), up(found[1])]
        for one, other in (*PAIRS, *NULLS, (ORACLE, "unified_vanilla"))
        if (found := of_auc(report, setting, one, other))
    ]


def _reads(reads: dict[str, dict[str, float]], part: str) -> str:
    """The sentence on whether the part that the setting is about was read at all."""
    own = {name: values for name, values in reads.items() if name in SAYS and name != ORACLE}
    most = max(own, key=lambda name: own[name][part])
    mostly = max(own[most], key=lambda name: abs(own[most][name]))
    share = own[most][part] / reads["truth"][part]
    words = next(word for least, word in READ if share >= least)
    others = ", ".join(
        f"`{name}` {reads[name][part]:+.3f}" for name in (*own, ORACLE) if name in reads
    )
    return (
        f"The part of the logit that needs fields and behaviours together was {words} by these"
        f" models: the logits of the best reader, `{most}`, correlate {own[most][part]:+.3f} with"
        f" it, the true logit {reads['truth'][part]:+.3f}; what moves them most is `{mostly}`"
        f" ({own[most][mostly]:+.3f}). All: {others}. AUC differences of this setting say as much"
        " about the fields as that."
    )


def _ranks(runs: list[Run]) -> str:
    rows: list[list[str]] = []
    layers = len(runs[0]["trained"]["rank"])
    for name in present(runs):
        own = [run for run in runs if run["arm"] == name]
        for state in ("born", "trained"):
            ranks, scores, fields = (
                [statistics.fmean(run[state][key][at] for run in own) for at in range(layers)]
                for key in ("rank", "score", "fields")
            )
            cells = [
                f"{rank:.2f} ({score:.3f}, {share:.1%})"
                for rank, score, share in zip(ranks, scores, fields, strict=True)
            ]
            rows.append([f"`{name}`", state, str(len(own)), *cells])
    head = [f"layer {at + 1}: rank (score, fields)" for at in range(layers)]
    return table(["arm", "", "seeds", *head], rows)


def _collapse(runs: list[Run]) -> str:
    """Order of ranks after the last layer, and the score of the vanilla decoder."""
    said: list[tuple[str, list[float]]] = []
    own = [run["trained"]["score"] for run in runs if run["arm"] == "unified_vanilla"]
    said.append(("1 − score of vanilla after the last layer > 0", [1 - s[-1] for s in own]))
    said.append(("its score falls from first to last layer", [s[0] - s[-1] for s in own]))
    null = "unified_vanilla_null"
    fields = differences(runs, null, "unified_vanilla", _last_score)
    said.append(("vanilla's score is lower than with another user's fields", fields))
    for key, last in (("rank", _last_rank), ("score", _last_score)):
        for one, other in (*PAIRS, NULLS[2]):
            found = differences(runs, one, other, last)
            said.append((f"{key} after the last layer: {_short(one)} > {_short(other)}", found))
    grown = [
        run["trained"]["fields"][-1] - run["trained"]["fields"][0]
        for run in runs
        if run["arm"] == "unified_vanilla"
    ]
    said.append(("vanilla: fields' share grows from first to last layer", grown))
    for one in ("unified_nlir", "unified_bfts", "unified_both", null):
        found = differences(runs, "unified_vanilla", one, _last_share)
        said.append((f"fields' share after the last layer: vanilla > {_short(one)}", found))
    for one in ("unified_nlir", "unified_bfts", "unified_both"):
        found = differences(runs, "unified_vanilla", one, _grown_above)
        text = f"asked afterwards: it grows more above layer {LAYERS - len(WINDOWS)}"
        said.append((f"{text}: vanilla > {_short(one)}", found))
    rows = [
        [text, verdict(paired), shown(paired, 3), up(found)]
        for text, found in said
        if found
        for paired in [interval(found)]
    ]
    return table(["claim, trained models", "here", "difference", "seeds up"], rows)


def _last_rank(run: Run) -> float:
    return run["trained"]["rank"][-1]


def _last_score(run: Run) -> float:
    return run["trained"]["score"][-1]


def _last_share(run: Run) -> float:
    return run["trained"]["fields"][-1]


def _grown_above(run: Run) -> float:
    """By how much the fields' share grows in the layers that have windows in BFTS."""
    shares = run["trained"]["fields"]
    return shares[-1] - shares[-1 - len(WINDOWS)]


def present(runs: list[Run]) -> list[str]:
    held = {run["arm"] for run in runs}
    return [name for name in SAYS if name in held]


def _short(name: str) -> str:
    return name.removeprefix("unified_").replace("_null", " (other's fields)")
