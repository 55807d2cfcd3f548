"""What the numbers of a report say, in words that are computed from them.

No sentence here knows how a run came out: each one reads its interval and says whether it lies
above zero, includes zero or lies below. A gain is never told without its controls: the same
codes shuffled, the raw item vector, and the vector's two scalars.

Shapes: a report is a tree of dictionaries, lists, numbers and strings (see
:func:`sidrank.demo.report.write_report`); every part of it may be absent.
"""

from typing import NamedTuple

from sidrank.demo.wording import (
    ARMS,
    SPLITS,
    Report,
    Tone,
    finite,
    interval_at,
    interval_text,
    read_interval,
    signed,
    tone,
)
from sidrank.metrics import Interval

__all__ = ["Finding", "findings", "headline", "highlights", "key_findings"]

_CONTROLS = {
    "host_vector": ("the raw item vector", "the raw item vector through a linear layer"),
    "host_scalars": ("its two scalars alone", "the vector's two scalars alone"),
}
_ROWS = {"auc_cold": "cold items", "auc": "all rows"}
_NOT_WORSE = -0.003  # the AUC a plug-in may cost where it is not expected to help


class Finding(NamedTuple):
    """A sentence, a word for its margin, and whether that is good news."""

    tone: Tone
    badge: str
    text: str
    key: bool = False


def headline(report: Report) -> str:
    """Say in one sentence whether SIDs gained, where, and whether a control gained as much.

    Args:
        report: The report.

    Returns:
        The sentence, without its full stop.
    """
    split, metric = _primary(report)
    gain = interval_at(report, split, "hybrid_vs_host", metric)
    if gain is None:
        return "This run holds no comparison of the hybrid with its host"
    where = "on items the ranker has never seen" if metric == "auc_cold" else "over the host"
    size = f"{signed(gain.mean, 3)} AUC"
    if tone(gain) == "loss":
        return f"Semantic IDs lose {where}: {size}"
    if tone(gain) == "none":
        return f"Semantic IDs show no gain {where}: {size}, an interval that includes zero"
    clauses = [f"Semantic IDs gain {size} {where}"]
    rivals: dict[str, list[str]] = {}
    for arm, (name, _) in _CONTROLS.items():
        rest = interval_at(report, split, f"hybrid_vs_{arm}", metric)
        if rest:
            rivals.setdefault(_BEYOND[tone(rest)], []).append(name)
    if rivals:
        parts = [f"{word} from {' or '.join(names)}" for word, names in rivals.items()]
        clauses.append(f"the host gains {', '.join(parts)}")
    if tone(interval_at(report, split, "hybrid_shuffled_vs_host", metric)) == "gain":
        clauses.append("shuffled SIDs gain too")
    return "; ".join(clauses)


def highlights(report: Report) -> list[tuple[str, Interval]]:
    """The few intervals to read first.

    Args:
        report: The report.

    Returns:
        Labels and intervals, those of them that the run measured.
    """
    split, metric = _primary(report)
    wanted = [
        ("hybrid_vs_host", metric),
        ("hybrid_vs_host", "auc"),
        ("hybrid_shuffled_vs_host", metric),
        ("hybrid_vs_host_vector", metric),
        ("hybrid_vs_host_scalars", metric),
    ]
    found: dict[str, Interval] = {}
    for pair, name in wanted:
        interval = interval_at(report, split, pair, name)
        if interval:
            first, _, second = pair.partition("_vs_")
            found[f"{ARMS[first]} vs {ARMS[second].lower()}, {_ROWS[name]}"] = interval
    return list(found.items())


def findings(report: Report) -> dict[str, list[Finding]]:
    """Every claim the run supports or refuses, losses included.

    Args:
        report: The report.

    Returns:
        Findings of each section: a protocol's name, ``upgrade``, ``gate`` or ``sid``.
    """
    _, metric = _primary(report)
    found = {split: _split_findings(report, split) for split in _splits(report)}
    found["upgrade"] = _upgrade_findings(report, metric)
    found["gate"] = _gate_findings(report)
    found["sid"] = _cost_findings(report)
    return found


def key_findings(report: Report) -> list[Finding]:
    """The findings that belong on the first screen: the main result and every loss.

    Args:
        report: The report.

    Returns:
        Findings in the order of the sections, each saying where it was found.
    """
    sections = findings(report)
    names = SPLITS | {"upgrade": "Upgrade", "gate": "Gate", "sid": "Cost"}
    return [
        finding._replace(text=f"{names[section]}: {finding.text[0].lower()}{finding.text[1:]}")
        for section, found in sections.items()
        for finding in found
        if finding.key or finding.tone == "loss"
    ]


_BEYOND: dict[Tone, str] = {"gain": "less", "none": "as much", "loss": "more"}
_VERBS: dict[Tone, str] = {"gain": "beats", "none": "is level with", "loss": "loses to"}
_BADGES: dict[Tone, str] = {"gain": "gain", "none": "level", "loss": "loss"}


def _splits(report: Report) -> list[str]:
    return [split for split in SPLITS if split in (report.get("splits") or {})]


def _primary(report: Report) -> tuple[str, str]:
    """The split and metric the headline speaks of."""
    split = (_splits(report) or ["cold_items"])[0]
    cold = interval_at(report, split, "hybrid_vs_host", "auc_cold")
    return split, "auc_cold" if cold else "auc"


def _split_findings(report: Report, split: str) -> list[Finding]:
    found: list[Finding] = []
    for metric, rows in _ROWS.items():
        gain = interval_at(report, split, "hybrid_vs_host", metric)
        if gain is None:
            continue
        key = (split, metric) == _primary(report)
        text = f"On {rows} the hybrid {_VERBS[tone(gain)]} the host, {interval_text(gain)}."
        badge = _BADGES[tone(gain)]
        if tone(gain) == "none" and metric == "auc":
            held = gain.low >= _NOT_WORSE
            badge = "not worse" if held else badge
            text += (
                f" The lower end rules out a cost of more than {-_NOT_WORSE:g}."
                if held
                else f" The lower end allows a cost of more than {-_NOT_WORSE:g}."
            )
        found.append(Finding(tone(gain), badge, text, key))
        shuffled = interval_at(report, split, "hybrid_shuffled_vs_host", metric)
        if shuffled:
            found.append(_shuffled_finding(shuffled, rows, key=key))
        if tone(gain) == "gain":
            found += _control_findings(report, split, metric, gain)
    return found + _host_findings(report, split)


def _shuffled_finding(shuffled: Interval, rows: str, *, key: bool) -> Finding:
    says: dict[Tone, str] = {
        "gain": "gain as well: part of the hybrid's lead is not the content of the codes",
        "none": "gain nothing",
        "loss": "lose",
    }
    text = f"On {rows} shuffled SIDs {says[tone(shuffled)]}, {interval_text(shuffled)}."
    failed = tone(shuffled) == "gain"
    return Finding(
        "loss" if failed else "none", "control fails" if failed else "control holds", text, key
    )


def _control_findings(report: Report, split: str, metric: str, gain: Interval) -> list[Finding]:
    """Which part of the hybrid's gain a plainer use of the same item vector explains."""
    says: dict[Tone, tuple[str, str]] = {
        "gain": ("explains part", "The hybrid keeps a lead over it"),
        "none": ("explains all", "That explains all that can be shown; the hybrid's lead over it"),
        "loss": ("does better", "That explains all of it and does better; the hybrid's lead is"),
    }
    found: list[Finding] = []
    for arm, (_, name) in _CONTROLS.items():
        own = _gain_over_host(report, split, arm, metric)
        rest = interval_at(report, split, f"hybrid_vs_{arm}", metric)
        if own is None or rest is None:
            continue
        badge, sentence = says[tone(rest)]
        share = f" ({own / gain.mean:.0%} of the hybrid's gain)" if own > 0 else ""
        verb = "gains" if own > 0 else "changes by"
        text = (
            f"On {_ROWS[metric]} the host {verb} {signed(own)}{share} from {name}. "
            f"{sentence}: {interval_text(rest)}."
        )
        found.append(Finding(tone(rest), badge, text, (split, metric) == _primary(report)))
    return found


def _gain_over_host(report: Report, split: str, arm: str, metric: str) -> float | None:
    """Gain of an arm over the host, from the paired figures if there are any, else the means."""
    paired = interval_at(report, split, f"{arm}_vs_host", metric)
    if paired:
        return paired.mean
    arms = report["splits"][split].get("arms", {})
    value, host = (finite(arms.get(name, {}).get(metric)) for name in (arm, "host"))
    return None if value is None or host is None else value - host


def _host_findings(report: Report, split: str) -> list[Finding]:
    """Whether the host was strong enough for a gain over it to mean something."""
    found: list[Finding] = []
    matched = interval_at(report, split, "hybrid_vs_host_matched", "auc")
    if matched:
        kind = tone(matched)
        text = (
            f"The hybrid {_VERBS[kind]} a host with as many parameters, {interval_text(matched)}."
        )
        found.append(Finding(kind, _BADGES[kind], text))
    arms = report["splits"][split].get("arms", {})
    host, regression = (finite(arms.get(arm, {}).get("auc")) for arm in ("host", "lr"))
    if host is not None and regression is not None:
        weak = host < regression
        text = (
            f"The host ({host:.4f}) is {'below' if weak else 'not below'} one-hot logistic "
            f"regression given the same statistics ({regression:.4f})."
        )
        found.append(
            Finding("loss" if weak else "none", "weak host" if weak else "strong host", text)
        )
    return found


def _upgrade_findings(report: Report, primary: str) -> list[Finding]:
    upgrade = report.get("upgrade") or {}
    found: list[Finding] = []
    step0 = finite(upgrade.get("max_abs_delta_logit_step0"))
    if step0 is not None:
        text = (
            "At step 0 the upgraded ranker's logits are bit-equal to the host's."
            if step0 == 0
            else f"At step 0 the logits differ by up to {step0:.3g}; they should not."
        )
        found.append(
            Finding("none" if step0 == 0 else "loss", "holds" if step0 == 0 else "fails", text)
        )
    new, moved = (finite(upgrade.get(f"parameters_{word}")) for word in ("new", "moved"))
    if new and moved is not None:
        whole = moved == new
        text = f"{moved:.0f} of {new:.0f} new parameter tensors moved in the extra steps."
        found.append(Finding("none" if whole else "loss", "holds" if whole else "fails", text))
    for metric, rows in _ROWS.items():
        for pair, name in (
            ("upgraded_vs_host_continued", "the upgraded host"),
            ("upgraded_shuffled_vs_host_continued", "the host upgraded with shuffled SIDs"),
        ):
            gain = read_interval(upgrade.get("paired", {}).get(pair, {}).get(metric))
            if gain is None:
                continue
            kind = tone(gain)
            same = "the host trained for the same extra steps"
            text = f"On {rows} {name} {_VERBS[kind]} {same}, {interval_text(gain)}."
            if "shuffled" in pair:
                failed = kind == "gain"
                badge = "control fails" if failed else "control holds"
                found.append(Finding("loss" if failed else "none", badge, text))
            else:
                found.append(Finding(kind, _BADGES[kind], text, metric == primary))
    return found


def _gate_findings(report: Report) -> list[Finding]:
    gate = report.get("gate") or {}
    real, shuffled = (read_interval(gate.get(key)) for key in ("range", "range_shuffled"))
    if real is None:
        return []
    text = f"Top minus bottom exposure decile {interval_text(real)}"
    if shuffled is None:
        return [Finding(tone(real), _BADGES[tone(real)], f"{text}.")]
    follows = real.low > 0 and real.mean >= 2 * abs(shuffled.mean)
    says = "the gate follows exposure" if follows else "the gate is not shown to follow exposure"
    text += f", with shuffled statistics {interval_text(shuffled)}: {says}."
    if follows:
        found = [Finding("gain", "holds", text)]
    else:
        kind: Tone = "loss" if tone(real) == "loss" else "none"
        found = [Finding(kind, "not shown", text, key=True)]
    told = [finite(weight) for weight in gate.get("host_told_item_statistics") or ()]
    if told and told[0] is not None and told[-1] is not None:
        beside = (
            "Beside a host that is told how its items did so far, the same gate gives the hash ID"
            f" {told[0]:.2f} in the least and {told[-1]:.2f} in the most exposed decile."
        )
        found.append(Finding("none", "elsewhere", beside))
    return found


def _cost_findings(report: Report) -> list[Finding]:
    sid = report.get("sid") or {}
    codes, vector = (
        finite(sid.get(key)) for key in ("sid_bytes_per_item", "vector_bytes_per_item")
    )
    if not codes or not vector:
        return []
    text = (
        f"One more item costs {codes:,.0f} bytes as codes and {vector:,.0f} as a raw vector "
        f"({vector / codes:.1f} ×). Codes need no dense vector on the request path, and their "
        "tables shard and cache like any other."
    )
    cheaper = codes < vector
    return [Finding("gain" if cheaper else "loss", "cheaper" if cheaper else "dearer", text, True)]
