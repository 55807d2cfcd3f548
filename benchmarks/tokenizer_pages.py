"""The measured tables of the tokenizer guide, from the committed results."""

import statistics
from typing import Any

from benchmarks.tables import table

METHODS = {"rq_kmeans": "k-means", "fsq": "FSQ tail", "random": "random codes"}
FIGURES = {
    "items_in_collision": "items in collision",
    "reconstruction": "squared error",
    "recall_by_vector": "neighbour recall, rebuilt vectors",
    "recall_by_prefix": "neighbour recall, common prefix",
    "cohesion_first": "semantic cohesion, first level",
    "discrimination": "preference discrimination",
    "perplexity_first": "perplexity, first level",
}
ARMS = {"hybrid": "beside the hash ID", "sid_only": "in its place"}


def fsq_collisions(report: dict[str, Any]) -> str:
    runs = report["runs"]
    rows: list[list[str]] = []
    for size in dict.fromkeys(run["codes"] for run in runs):
        for zipf in dict.fromkeys(run["zipf"] for run in runs):
            some = [run for run in runs if (run["codes"], run["zipf"]) == (size, zipf)]
            for key, name in METHODS.items():
                cells = [f"{_mean(some, key, 'items_in_collision'):.1%}"]
                cells += [f"{_mean(some, key, 'items_per_colliding_sid'):.2f}"]
                cells += [f"{_mean(some, key, 'mse'):.4f}"]
                cells += [f"{_mean(some, key, kind):.3f}" for kind in ("recall_1", "recall_10")]
                rows.append([f"3 × {size}", f"{zipf:g}", name, *cells])
    fewer = sum(r["fsq"]["items_in_collision"] < r["rq_kmeans"]["items_in_collision"] for r in runs)
    means = sum(r["fsq"]["recall_10"] >= r["random"]["recall_10"] for r in runs)
    better = sum(r["fsq"]["recall_10"] >= r["rq_kmeans"]["recall_10"] for r in runs)
    text = (
        f"{report['items']:,} planted items, width {report['width']}; means of four seeds. The last"
        " of three levels is learned by k-means, is an FSQ tail, or is drawn at random (and decoded"
        f" as well as it can be). Of {len(runs)} runs the tail has fewer items in collision than"
        f" k-means in {fewer}, at least the neighbour recall@10 of random codes in {means}, and at"
        f" least that of k-means in {better}. Random codes collide least and mean least."
    )
    header = ["codes", "Zipf", "last level", "in collision", "items a colliding SID", "MSE"]
    return f"{text}\n\n{table([*header, 'recall@1', 'recall@10'], rows)}\n"


def _mean(runs: list[dict[str, Any]], method: str, figure: str) -> float:
    return sum(run[method][figure] or 1.0 for run in runs) / len(runs)


def in_a_ranker(report: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for entry in report["tokenizers"]:
        cells = [entry["tokenizer"]]
        for arm in ARMS:
            of_arm = entry["arms"][arm]
            mean, low, high = of_arm["new_tail_minus_reference"]
            cells += [f"{of_arm['new_tail']:.4f}", f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"]
        figures = entry["figures"]
        cells += [f"{figures['items_in_collision']:.0%}", f"{figures['recall_by_vector']:.3f}"]
        cells += [f"{figures['cohesion_first']:.3f}", f"{figures['discrimination']:.3f}"]
        rows.append(cells)
    header = ["tokenizer", *(f"{name}: AUC | Δ" for name in ARMS.values())]
    header = [part for name in header for part in name.split(" | ")]
    main = table([*header, "collision", "recall@10", "SC", "PD"], rows)
    parts = [
        f"MovieLens-100K, the demo's cold-item protocol, {report['seeds']} seeds (two a fold): AUC"
        " on the rows of new and tail items, and its difference from RQ-KMeans 8³ with a joint 95%"
        " interval over users and seeds. SC is the semantic cohesion of the first level, PD the"
        " preference discrimination.",
        main,
        "Does a figure of the codes tell the AUC beforehand? Spearman's rank correlation over the"
        " tokenizers of one budget and over all, controls left out; the interval draws the seeds"
        " anew.",
        _correlations(report["correlation"]),
    ]
    return "\n\n".join(parts) + "\n"


def _correlations(found: dict[str, Any]) -> str:
    header = ["figure"]
    for group, of_group in found.items():
        header += [f"{group} ({of_group['tokenizers']}), {name}" for name in ARMS.values()]
    rows: list[list[str]] = []
    for key, name in FIGURES.items():
        cells = [name]
        for of_group in found.values():
            for arm in ARMS:
                mean, low, high = of_group[arm][key]
                cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
        rows.append(cells)
    return table(header, rows)


def ablation(report: dict[str, Any]) -> str:
    """Mean over the seeds ± standard deviation."""
    texts: list[str] = []
    for part in dict.fromkeys(row["part"] for row in report["rows"]):
        of_part = [row for row in report["rows"] if row["part"] == part]
        header: list[str] = []
        lines: list[list[str]] = []
        for name in dict.fromkeys(row["what"] for row in of_part):
            found = [row for row in of_part if row["what"] == name]
            columns = {
                "uniqueness": [row["uniqueness"] for row in found],
                "codes used": [statistics.fmean(row["used"]) for row in found],
                "variance lost": [row["lost"] for row in found],
                "neighbour recall@10": [row["recall"] for row in found],
            }
            if part == "ablation":
                columns["same first code, pair over chance"] = [row["lift"] for row in found]
            spreads = [
                f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
                for values in columns.values()
            ]
            lines.append([name, *spreads])
            header = [part, *columns]
        texts.append(table(header, lines))
    return "\n\n".join(texts) + "\n"


HEADS = {
    "heads": "parallel heads, level-wise categories",
    "info_nce": "the same heads, plain InfoNCE",
    "rq": "RQ-KMeans, the same vectors",
    "rq_supervised": "RQ-KMeans on the trained tower's vectors",
    "permuted": "control: parallel heads, permuted categories",
}
VIEWS = {
    "fusion": "fusion, InfoNCE on pairs",
    "concat": "views side by side",
    "text": "first view alone",
    "image": "second view alone",
    "shuffled": "control: fusion, shuffled pairs",
}


def parallel_heads(report: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{value:.3f}" for value in report["v_measure"][key]),
            "" if key == "heads" else spread(report["heads_minus"][key][0]),
        ]
        for key, name in HEADS.items()
    ]
    header = ["codes", "V-measure, level 1", "level 2", "level 3", "heads minus it, level 1"]
    return table(header, rows) + "\n"


def fused_views(report: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{report['hit_rate'][key]:.3f}",
            "" if key == "fusion" else spread(report["fusion_minus"][key]),
        ]
        for key, name in VIEWS.items()
    ]
    return table(["item vectors", "hit@10 by codes", "fusion minus it"], rows) + "\n"


def spread(triple: list[float]) -> str:
    mean, low, high = triple
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
