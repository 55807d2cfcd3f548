"""The report as one HTML page: style, plots and tables inside, nothing fetched from anywhere.

Everything that comes from the report is escaped.

Shapes: the report is the tree described in :mod:`sidrank.demo.report`, already plain JSON.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sidrank.demo import wording as words
from sidrank.demo.findings import Finding, findings, headline, highlights, key_findings
from sidrank.demo.plots import code_usage, gain_by_frequency, gate_by_decile
from sidrank.demo.wording import Report, Tone
from sidrank.metrics import Interval
from sidrank.pages import cards, document, figure, section, table

__all__ = ["render"]

_MARKS: dict[Tone, str] = {"gain": "▲ ", "none": "", "loss": "▼ ", "unknown": ""}
_PROTOCOLS = {
    "cold_items": (
        "A shop with two surfaces, half of the users on each. The other surface's log makes the "
        "item vectors and the semantic IDs, and nothing else. The ranker is tested on the last "
        "fifth of the rows of each of its own users; one item in five was never shown to them, "
        "so its hash ID is untrained and its statistics are empty."
    ),
    "per_user": (
        "The test rows are each user's last tenth; the other surface's whole log makes the item "
        "vectors. Not causal: training holds later events of the same items, so this shows the "
        "order of magnitude, not what a launch would bring."
    ),
    "global_time": (
        "The test rows are the last tenth of all rows, and the item vectors are made of rows "
        "before them: causal, as a launch would be. Most of the test rows are of users that "
        "training has never seen."
    ),
}
_READING = (
    "An interval is a joint 95% bootstrap over users and seeds of the paired difference: users "
    "and training seeds (or folds) are drawn again with replacement, and all rows of a user "
    "stay together. ▲ lies above zero, ▼ below; without a mark it includes zero, and nothing "
    "is claimed. AUC counts a tie as one half. GAUC is the mean AUC inside users, weighted by "
    "their rows, users with one class left out. NE is the log loss divided by the entropy of "
    "the base rate. Cold items do not occur in training; new + tail and head are by training "
    "frequency. Every arm is shown, in a fixed order."
)
_ARMS = {
    "lr": "One-hot logistic regression, given the same statistics as the host.",
    "host": "A DLRM on hash IDs (HIDs), side features and as-of statistics.",
    "host_matched": "Control: the host, widened to at least as many parameters as the hybrid.",
    "host_vector": "Control: the host and the item's raw vector through a linear layer.",
    "host_scalars": "Control: the host and two numbers of it alone, like residual and log count.",
    "sid_only": "Every SID resolution as a field of its own, without the item's hash ID.",
    "concat": "The host with every SID resolution as a field of its own, no gate.",
    "hybrid": "The host's item embedding plus the SID embedding behind the residual gate.",
    "hybrid_convex": "A convex mix of both embeddings, gated by exposure.",
    "hybrid_memorization": "The hybrid and a memorisation branch over SID prefixes.",
    "hybrid_shuffled": "Control: the hybrid with each item given the SID of another.",
}
_SID_ROWS = {
    "items": "Items",
    "items_in_collision": "Items that share all their codes",
    "excess": "Items beyond the first of their codes",
    "uniqueness": "Distinct code tuples per item",
    "largest_bucket": "Most items on one code tuple",
    "utilisation": "Codebook used, by level",
    "perplexity": "Perplexity, by level",
    "reconstruction_error": "Reconstruction error",
    "sid_bytes_per_item": "Bytes per item, as codes",
    "vector_bytes_per_item": "Bytes per item, as a raw vector",
    "codes_bytes": "Bytes of all codes",
    "vectors_bytes": "Bytes of all raw vectors",
    "version": "Version",
    "hash": "Content hash",
}


def render(report: Report) -> str:
    """Build the page.

    Args:
        report: The report, plain JSON values only.

    Returns:
        A whole HTML document.
    """
    found = findings(report)
    splits = report.get("splits") or {}
    body = [
        _header(report),
        *(_split(name, splits[name], found[name]) for name in words.SPLITS if name in splits),
        _upgrade(report.get("upgrade") or {}, found["upgrade"]),
        _gate(report.get("gate") or {}, found["gate"]),
        _sid(report.get("sid") or {}, found["sid"]),
        _environment(report.get("environment") or {}),
    ]
    return document(headline(report), "".join(body))


def _header(report: Report) -> str:
    shown = cards(
        (
            words.tone(interval),
            label,
            words.signed(interval.mean),
            f"[{words.signed(interval.low)}, {words.signed(interval.high)}]",
        )
        for label, interval in highlights(report)
    )
    facts = escape(_facts(report.get("settings") or {}))
    arms = "".join(f"<dt>{words.ARMS[arm]}</dt><dd>{text}</dd>" for arm, text in _ARMS.items())
    return (
        f'<header>\n<p class="facts">{facts}</p>\n<h1>{escape(headline(report))}.</h1>\n'
        + shown
        + _findings(key_findings(report))
        + f"<details><summary>How to read this page</summary><p>{_READING}</p><dl>{arms}</dl>"
        + "</details>\n</header>\n"
    )


def _findings(found: Iterable[Finding]) -> str:
    rows = "".join(
        f'<li><span class="pill {finding.tone}">{escape(finding.badge)}</span>'
        f"<span>{escape(finding.text)}</span></li>\n"
        for finding in found
    )
    return f'<ul class="findings">\n{rows}</ul>\n' if rows else ""


def _facts(settings: Mapping[str, Any]) -> str:
    facts = ["sidrank demo"]
    if settings.get("dataset"):
        facts.append(str(settings["dataset"]))
    if settings.get("label"):
        facts.append(f"label: {settings['label']}")
    if settings.get("seeds"):
        facts.append(f"{settings['seeds']} paired seeds or folds")
    if settings.get("draws"):
        facts.append(f"{settings['draws']:,} bootstrap draws")
    if settings.get("total_seconds"):
        facts.append(f"{settings['total_seconds']:,.0f} s")
    return " · ".join(facts)


def _split(name: str, split: Mapping[str, Any], found: list[Finding]) -> str:
    parts = [f"<p>{escape(_PROTOCOLS[name])}</p>\n"]
    if split.get("rows"):
        counts = " · ".join(f"{_label(key)} {_value(n)}" for key, n in split["rows"].items())
        parts.append(f'<p class="facts">Rows: {escape(counts)}</p>\n')
    plot = gain_by_frequency(split["by_frequency"]) if split.get("by_frequency") else ""
    caption = "Gain over the host by how often training saw the item, with 95% intervals."
    parts.append(_beside(plot, caption, found))
    if split.get("paired"):
        parts.append(_paired_table(split["paired"]))
    if split.get("arms"):
        parts.append(_arms_table(split["arms"]))
    return section(words.SPLITS[name], parts)


def _upgrade(upgrade: Mapping[str, Any], found: list[Finding]) -> str:
    if not upgrade:
        return ""
    steps = upgrade.get("steps")
    longer = f" for {steps:,} more steps" if isinstance(steps, int) else ""
    parts = [
        "<p>The host is trained and loaded into the hybrid; then both are trained on"
        f"{longer}.</p>\n",
        _findings(found),
    ]
    if upgrade.get("paired"):
        parts.append(_paired_table(upgrade["paired"]))
    if upgrade.get("arms"):
        parts.append(_arms_table(upgrade["arms"]))
    return section("Upgrading a trained host", parts)


def _gate(gate: Mapping[str, Any], found: list[Finding]) -> str:
    if not gate.get("true"):
        return ""
    caption = (
        "Mean gate in each exposure decile; the control shuffles the counts. A study of its own:"
        " one pass in the order of time, a host that is not told how its items did, and SIDs that"
        " say what an item is like, not how good it is."
    )
    return section("The gate", [_beside(gate_by_decile(gate), caption, found)])


def _sid(sid: Mapping[str, Any], found: list[Finding]) -> str:
    if not sid:
        return ""
    plot = code_usage(sid["usage"]) if sid.get("usage") else ""
    caption = "Items on each code, from the most used one to the least, at every level."
    parts = [_beside(plot, caption, found)]
    rows = [
        [label, f'<td class="text">{escape(_value(sid[key]))}</td>']
        for key, label in _SID_ROWS.items()
        if sid.get(key) is not None
    ]
    parts.append(table(["Quality", "Value"], rows, "The semantic IDs"))
    return section("The semantic IDs", parts)


def _environment(environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    rows = [
        [key, f'<td class="text">{escape(_value(item))}</td>'] for key, item in environment.items()
    ]
    return section("Environment", [table(["Name", "Value"], rows, "Where this ran")])


def _beside(plot: str, caption: str, found: list[Finding]) -> str:
    """A plot and what it says; side by side where the screen is wide."""
    if not plot:
        return _findings(found)
    return f'<div class="beside">{figure(plot, caption)}<div>{_findings(found)}</div></div>\n'


def _paired_table(paired: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = _columns(paired)
    rows = [
        [
            words.pair_name(pair),
            *(_interval_cell(words.read_interval(values.get(metric))) for metric in metrics),
        ]
        for pair, values in paired.items()
    ]
    header = ["Difference", *(words.METRICS.get(metric, metric) for metric in metrics)]
    return table(header, rows, "Paired differences, mean and joint 95% interval")


def _arms_table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = _columns(arms)
    rows = [
        [
            words.ARMS.get(arm, arm),
            *(f"<td>{words.metric_text(metric, arms[arm].get(metric))}</td>" for metric in metrics),
        ]
        for arm in sorted(arms, key=_arm_place)
    ]
    header = ["Arm", *(words.METRICS.get(metric, metric) for metric in metrics)]
    return table(header, rows, "Every arm, means over seeds")


def _arm_place(arm: str) -> int:
    names = list(words.ARMS)
    return names.index(arm) if arm in names else len(names)


def _columns(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics that any row has, in the order of the metrics' own list, others last."""
    found = {metric for values in rows.values() for metric in values}
    known = [metric for metric in words.METRICS if metric in found]
    return known + sorted(found - set(known))


def _interval_cell(interval: Interval | None) -> str:
    if interval is None:
        return "<td>n/a</td>"
    kind = words.tone(interval)
    ends = f"[{words.signed(interval.low)}, {words.signed(interval.high)}]"
    mean = f"{_MARKS[kind]}{words.signed(interval.mean)}"
    return f'<td class="{kind}">{mean}<small>{ends}</small></td>'


def _label(key: str) -> str:
    return key.replace("_", " ")


def _value(value: object) -> str:
    """A value of the report as text: lists joined, counts grouped, fractions to four digits."""
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
