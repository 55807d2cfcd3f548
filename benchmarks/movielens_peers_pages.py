"""Section of the benchmark pages about our rankers and the peers' on MovieLens-100K."""

import statistics
from typing import Any

from benchmarks.paired_seeds import Span, shown, up, verdict
from benchmarks.tables import table

__all__ = ["movielens_peers"]

_TITLES = {"per_user": "Each user's last tenth", "global_time": "The log's last tenth"}
_CONTROLS = (
    *("LightGBM + least squares", "null: stars dealt anew"),
    *("control: given spaces alone", "control: numbers as they are"),
)
_AIMS = {"auc": 0.01, "gauc": 0.005}
_MARGIN = 0.005  # "not worse" is that the interval leaves this much out
_READS = {
    "LR": "one-hot ids, buckets, genres, numbers",
    "LightGBM": "the same, a history as statistics",
    "torch-rechub DeepFM": "liked and disliked items averaged",
    "torch-rechub DCNv2": "liked and disliked items averaged",
    "torch-rechub DIN": "two attention units; its numbers only as buckets",
    "DeepCTR-Torch DIN": "one attention unit over item, code, stars, surprise, age",
    "FuxiCTR FinalMLP": "liked and disliked items averaged; model put together from its layers",
    "sidrank host": "linear, FM, layers behind `GateNU`, numbers through"
    " `PiecewiseLinearEmbedding`; no past",
    "sidrank DIN": "host + `DIN`",
    "sidrank SituationTower": "host + `SituationTower`, newest 20",
    "sidrank LeastSquaresRead": "host + `LeastSquaresRead`",
    "LightGBM + least squares": "control: LightGBM told what our tower found",
    "null: stars dealt anew": "control: host + `LeastSquaresRead`, each user's stars shuffled among"
    " his past items",
    "control: given spaces alone": "control: host + `LeastSquaresRead`, without the spaces that"
    " `factor_vectors` fitted",
    "control: numbers as they are": "control: host + `LeastSquaresRead`, without"
    " `PiecewiseLinearEmbedding`",
}

Report = dict[str, Any]


def movielens_peers(report: Report) -> str:
    """Tables of both splits, what they say of the claims, and lists.

    Args:
        report: Of ``benchmarks.movielens_peers``.

    Returns:
        Markdown.
    """
    wheels = ", ".join(f"{name} {version}" for name, version in report["wheels"].items())
    parts = [
        "## Rankers on MovieLens-100K\n\n"
        f"`{report['command']}` ({wheels}). Label: four stars and more. Rows are the demo's. Every"
        " ranker is given one set of features: ids, clock, genres, statistics of strictly earlier"
        " seconds as numbers and as buckets, the other surface's item vectors and semantic IDs,"
        " and the newest 100 items that the user rated with stars, surprise and age, as far as its"
        " interface takes them. Trials are on the validation rows of seed 0: ten for LightGBM, five"
        " for each of the others, the same settings for all neural rankers, in one training loop"
        " (AdamW, averaged weights, passes chosen on validation); then train and validation rows"
        " together, and the test rows once a seed. Our ranker is the one that was best on"
        " validation, marked →. Beside its five trials its structure was looked for on validation"
        " rows, about a hundred and fifty short runs on both splits: spaces and noises of the least"
        " squares, how the host reads numbers, the length of histories (all rankers have the one"
        " found) and the fifth setting (all neural rankers have it). Two of its spaces are"
        " `sidrank.data.factor_vectors`, fitted to the rows that all learn from and to the other"
        " surface's, each user read in those of other users. Two earlier forms of our ranker were"
        " judged on these test rows before: with histories of 50, and without the fitted spaces,"
        " which is the control *given spaces alone* here. Intervals were as wide with one seed as"
        " with five: it is users that are few, and more seeds would not narrow them. Brackets: 95%"
        " joint intervals over users and seeds. `per_user` is not causal for items: its training"
        " rows hold later ratings of the same items by others; statistics are as of the row."
    ]
    for protocol in (name for name in _TITLES if name in report["rows"]):
        parts += [_rankers(report, protocol)]
    parts += [_missing(report), _claims(report), _lists(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def picked(report: Report, protocol: str) -> str:
    """Our best by validation AUC."""
    found = report["chosen"][protocol]
    return max((n for n in found if n.startswith("sidrank")), key=lambda n: found[n]["auc"])


def best_peer(report: Report, protocol: str, metric: str) -> str:
    """The peer that is best on the test rows, which favours the peers."""
    names = {r["model"] for r in report["runs"] if r["protocol"] == protocol}
    peers = [n for n in names if not n.startswith("sidrank") and n not in _CONTROLS]
    return max(peers, key=lambda name: _mean(report, protocol, name, metric))


def _mean(report: Report, protocol: str, name: str, metric: str) -> float:
    return statistics.fmean(_each(report, protocol, name, metric))


def _each(report: Report, protocol: str, name: str, metric: str) -> list[float]:
    runs = [r for r in report["runs"] if (r["protocol"], r["model"]) == (protocol, name)]
    return [run[metric] for run in sorted(runs, key=lambda run: run["seed"])]


def _span(report: Report, protocol: str, one: str, other: str, metric: str) -> Span | None:
    found = report["differences"].get(f"{protocol}: {one} - {other}")
    return tuple(found[metric]) if found else None


def _rankers(report: Report, protocol: str) -> str:
    pick, held = picked(report, protocol), report["rows"][protocol]
    names = list(dict.fromkeys(r["model"] for r in report["runs"] if r["protocol"] == protocol))
    names.sort(key=lambda name: (name in _CONTROLS, -_mean(report, protocol, name, "auc")))
    rows: list[list[str]] = []
    for name in names:
        valid = report["chosen"][protocol][name]["auc"]
        parameters = [
            r["parameters"]
            for r in report["runs"]
            if (r["protocol"], r["model"]) == (protocol, name)
        ]
        rows.append(
            [
                ("→ " if name == pick else "") + name,
                _READS[name],
                "" if valid is None else f"{valid:.4f}",
                *(f"{_mean(report, protocol, name, m):.4f}" for m in ("auc", "gauc", "ndcg@1")),
                shown(_span(report, protocol, pick, name, "auc")),
                shown(_span(report, protocol, pick, name, "gauc")),
                f"{parameters[0]:,}" + (" trees" if name.startswith("LightGBM") else ""),
                str(len(parameters)),
            ]
        )
    header = ["ranker", "reads of the past", "validation AUC", "AUC", "GAUC", "nDCG@1"]
    header += ["→ minus it, AUC", "→ minus it, GAUC", "parameters", "seeds"]
    return (
        f"**{_TITLES[protocol]} (`{protocol}`)**: {held['learn']:,} rows to learn from,"
        f" {held['judge']:,} to judge on, of {held['users']} users\n\n{table(header, rows)}"
    )


def _missing(report: Report) -> str:
    """Rankers that have not run on a split."""
    lines: list[str] = []
    for protocol in report["rows"]:
        held = {r["model"] for r in report["runs"] if r["protocol"] == protocol}
        missing = [name for name in _READS if name not in held]
        if missing:
            lines.append(f"Not run yet on `{protocol}`: {', '.join(missing)}.")
    return " ".join(lines)


def _claims(report: Report) -> str:
    rows: list[list[str]] = []
    for protocol in report["rows"]:
        pick = picked(report, protocol)
        for metric, aim in _AIMS.items():
            best = best_peer(report, protocol, metric)
            span = _span(report, protocol, pick, best, metric)
            mine, theirs = (_each(report, protocol, n, metric) for n in (pick, best))
            each = [a - b for a, b in zip(mine, theirs, strict=False)]
            claims = {"beats the best of them": verdict(span)}
            if protocol == "global_time":
                claims["is not worse than the best of them"] = not_worse(span)
            claims[f"by more than {aim:g}"] = verdict(span, above=aim)
            for claim, said in claims.items():
                rows.append(
                    [f"{claim}, {metric.upper()}", protocol, said, best, shown(span), up(each)]
                )
    header = ["our ranker →", "split", "here", "best of them on the test rows", "difference"]
    return table([*header, "seeds up"], rows)


def not_worse(span: Span | None) -> str:
    """Whether an interval leaves a loss of ``_MARGIN`` out."""
    return verdict(span, above=-_MARGIN)


def _lists(report: Report) -> str:
    rows: list[list[str]] = []
    for protocol in report["rows"]:
        runs = [r for r in report["lists"] if r["protocol"] == protocol]
        for loss in dict.fromkeys(r["loss"] for r in runs):
            own = [r for r in runs if r["loss"] == loss]
            chosen = report["losses"][protocol][loss]
            found = report["differences"].get(f"{protocol}: {loss} - BCE", {})
            spans = [tuple(found[m]) if m in found else None for m in ("ndcg@1", "auc", "gauc")]
            rows.append(
                [
                    protocol,
                    loss,
                    f"{chosen['ndcg@1']:.4f}",
                    *(f"{statistics.fmean(r[m] for r in own):.4f}" for m in ("ndcg@1", "auc")),
                    *(shown(span) for span in spans),
                    "" if loss == "BCE" else verdict(spans[0]),
                    str(len(own)),
                ]
            )
    if not rows:
        return ""
    header = ["split", "loss", "validation nDCG@1", "nDCG@1", "AUC"]
    header += ["nDCG@1 − BCE", "AUC − BCE", "GAUC − BCE", "more nDCG@1", "seeds"]
    return (
        "**Lists**: our ranker on batches of whole requests (a user's sitting, in runs of at most"
        " twenty rows). Temperature, weight and passes of each loss were chosen by nDCG@1 on"
        " validation rows. NeuralNDCG alone learns the order within requests and nothing across"
        " them: read its GAUC, not its AUC, and add the cross-entropy where chances are needed."
        f"\n\n{table(header, rows)}{_why(report)}"
    )


def _why(report: Report) -> str:
    """How much there was to see, where nothing was confirmed."""
    lines: list[str] = []
    for protocol, why in report.get("why_lists", {}).items():
        found = report["differences"].get(f"{protocol}: NeuralNDCG - BCE")
        if found is None or verdict(tuple(found["ndcg@1"])) == "confirmed":
            continue
        _, low, high = found["ndcg@1"]
        lines.append(
            f"`{protocol}`: {why['requests']} requests have a like and"
            f" {why['decidable']} of them also a row without one; the two losses put another row"
            f" first in {why['other_top']:.0%} of those, and the interval is {high - low:.3f}"
            f" wide: a gain below {(high - low) / 2:.3f} cannot be seen here. On the rows that were"
            f" learnt from, NeuralNDCG changes nDCG@1 by {why['learned']:+.3f}."
        )
    return "\n\n" + "\n\n".join(lines) if lines else ""
