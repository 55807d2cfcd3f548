"""Write ``docs/benchmarks.md``, and the measured tables of the guide, from the committed results.

python -m benchmarks.page
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    hyformer_pages,
    miss_ratio_pages,
    tiered_pages,
    token_former_pages,
    train_drill_pages,
)
from benchmarks.compression_pages import compression_study, compression_tokens
from benchmarks.din_pages import deadlines, din
from benchmarks.embedding_pages import sid_expansion
from benchmarks.instance_pages import instance_arms
from benchmarks.kill_drill_pages import kill_drill
from benchmarks.listwise_pages import neural_ndcg
from benchmarks.movielens_peers_pages import movielens_peers
from benchmarks.planning_pages import planning
from benchmarks.sequence_pages import token_former, windowed_attention
from benchmarks.serving_export_pages import serving_export
from benchmarks.serving_pages import candidate_scorer, row_stream
from benchmarks.shootout_movielens_page import shootout_movielens
from benchmarks.shootout_page import shootout
from benchmarks.shootout_why_page import alignment_stage_page, gate_page
from benchmarks.situation_pages import situations
from benchmarks.soak_pages import serving_soak, version_swap
from benchmarks.sparse_pages import evolutionary_attention, sparse_study
from benchmarks.tables import table
from benchmarks.tokenizer_pages import (
    ablation,
    fsq_collisions,
    fused_views,
    in_a_ranker,
    parallel_heads,
)

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"

HEAD = """# Speed

Each figure is a ratio within one run: rounds interleaved, the median kept, equal results checked
before anything is timed. Milliseconds belong to the machine; read the ratios. `make bench` runs
them and writes this page. **No GPU has run them.**
"""


def sid_lookup(report: dict[str, Any]) -> str:
    text = (
        f"{report['queries']:,} ids against {report['items']:,} items, three levels. The limit is"
        " an `index_select` of as many random rows of the same bytes."
    )
    return f"## Code lookup\n\n{text}\n\n{ratios(report, 'path', 'index_select')}"


def hybrid_step(report: dict[str, Any]) -> str:
    text = (
        f"A DLRM of 8 features, width {report['dim']}, {report['item_rows']:,} items, batch"
        f" {report['batch']:,}, SGD fused into the tables. The peer is the same DLRM with the same"
        " five lookups added by hand, their row ids ready in the batch; the hybrid also looks the"
        " codes up, weighs the resolutions and gates."
    )
    return f"## A training step\n\n{text}\n\n{ratios(report, 'ranker', 'by hand')}"


def ratios(report: dict[str, Any], what: str, peer: str) -> str:
    rows = [
        [r[what], str(r["threads"]), f"{r['milliseconds']:.1f}", f"{r['ratio']:.2f}"]
        for r in report["rows"]
    ]
    return table([what, "threads", "ms", f"× {peer}"], rows)


def metrics(report: dict[str, Any]) -> str:
    text = (
        f"{report['rounds']} rounds, {report['threads']} threads. A peer's ratio is its time for"
        " as many rows over ours: above 1, ours is faster. AUC equals scikit-learn's, and GAUC"
        " FuxiCTR's and the groupby's, to 1e-12 before the clock starts; torchmetrics and TorchRec"
        " add in float32, and the last column says how far off they are. pandas and FuxiCTR do not"
        " finish ten million rows in reasonable time: they ran on 200,000 rows of 20,000 groups,"
        " beside our time for the same rows."
    )
    parts = [f"## AUC and GAUC\n\n{text}"]
    for name in ("auc", "gauc"):
        rows = [
            [
                r["what"],
                f"{r['rows']:,}",
                f"{r['seconds']:.3f}",
                f"{r['ratio']:.3g}",
                gap(r["difference"]),
            ]
            for r in report[name]
        ]
        ours = report[name][0]["what"]
        parts.append(table(["call", "rows", "s", f"× {ours}", "minus exact"], rows))
    growth = report["growth"]
    rows = [
        [f"{count:,}", *(f"{growth['seconds'][name][place]:.3f}" for name in growth["seconds"])]
        for place, count in enumerate(growth["rows"])
    ]
    slopes = ", ".join(f"`{name}` {slope:.2f}" for name, slope in growth["slope"].items())
    parts.append(f"Growth: slope of log time over log rows: {slopes}.")
    parts.append(table(["rows", *(f"`{name}` s" for name in growth["seconds"])], rows))
    return "\n\n".join(parts)


def tokenizers(report: dict[str, Any]) -> str:
    growth, memory, noise = report["growth"], report["memory"], report["no_clusters"]
    text = (
        f"{report['rows']:,} clustered vectors of {report['width']} numbers, levels"
        f" {' x '.join(map(str, report['levels']))}, {report['rounds']} rounds,"
        f" {report['threads']} threads. Every fit reads the same {report['sample']:,} vectors for"
        f" {report['iterations']} iterations a level; errors are of all vectors. Ours reads a"
        " quarter of its vectors in the first half of the iterations and half of them in the next"
        " quarter; faiss reads all in each, and so does the product. ResidualVQ's is its k-means"
        f" start alone, on {report['small_sample']:,} vectors because it holds all distances at"
        " once, its time scaled by rows. A ratio above 1: ours is faster. Our codes equal brute"
        " force in float64 on 2,000 vectors, and more than 99.9% of the peers' codes equal ours,"
        " before the clock starts."
    )
    parts = [f"## Residual k-means\n\n{text}"]
    for name in ("fit", "encode"):
        rows = [
            [
                r["what"],
                f"{r['seconds']:.2f}",
                f"{r['ratio']:.2f}",
                "" if r["mse"] is None else f"{r['mse']:.5f}",
            ]
            for r in report[name]
        ]
        ours = report[name][0]["what"]
        parts.append(table([name, "s", f"× {ours}", "mean squared error"], rows))
    parts.append(
        f"On noise without clusters (131,072 vectors, levels 512 x 512) our time is"
        f" {noise['time_ratio']:.2f} of faiss's and our error {noise['mse_ratio']:.4f} of its."
        f" A fit of all {report['rows']:,} vectors ({memory['input_mib']:.0f} MiB) peaks at"
        f" {memory['fit_mib']:.0f} MiB with them, above what the imports take.\n\n"
        f"Growth of encoding ({growth['width']} numbers, levels"
        f" {' x '.join(map(str, growth['levels']))}): slope of log time over log rows"
        f" {growth['slope']:.2f}."
    )
    rows = [
        [f"{count:,}", f"{seconds:.3f}"]
        for count, seconds in zip(growth["rows"], growth["seconds"], strict=True)
    ]
    parts.append(table(["rows", "s"], rows))
    return "\n\n".join(parts)


def gap(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+.1e}" if difference else "0"


def metrics_memory(report: dict[str, Any]) -> str:
    whole, bounded, trials = report["evaluate"], report["bounded"], report["trials"]
    return (
        "## Memory of an evaluation\n\n"
        f"`sidrank evaluate --group` on {whole['rows']:,} rows of parquet"
        f" ({whole['file_gib']:.2f} GiB, {whole['groups']['total']:,} groups), every figure exact:"
        f" {whole['seconds']:.0f} s, peak of the whole process {whole['peak_gib']:.2f} GiB.\n\n"
        f"`StreamingAUC(exact=False)` over {bounded['rows']:,} rows at a click rate of"
        f" {bounded['rate']:.0%}: interval {bounded['width']:.1e} wide, exact value inside, peak"
        f" {bounded['peak_mib']:.0f} MiB. In {trials['trials']:,} random trials (click rates from"
        " 0.01% to 50%, scores in clusters a few units in the last place wide, spikes, sorted"
        f" streams, random merges) the exact AUC was outside {trials['outside']} times; the widest"
        f" interval was {trials['widest']:.1e}."
    )


def binning(report: dict[str, Any]) -> str:
    """Error of binned AUC, for the guide."""
    thresholds = list(report["binning"][0]["thresholds"])
    header = ["click rate", *(f"{int(t):,} thresholds" for t in thresholds), "our certified width"]
    rows = [
        [
            f"{line['rate']:.1%}",
            *(f"{line['thresholds'][t]:+.5f}" for t in thresholds),
            f"{line['bounded_width']:.1e}",
        ]
        for line in report["binning"]
    ]
    return table(header, rows) + "\n"


def ties(report: dict[str, Any]) -> str:
    """TorchRec on ties and odd groups, for the guide."""
    rows = [
        [
            line["input"],
            f"{line['exact']:g}",
            f"`{line['TorchRec']}`",
            " or ".join(f"{answer:g}" for answer in line["answers"]),
        ]
        for line in report["ties"]
    ]
    return table(["rows", "exact", "TorchRec 1.8.0", "its answer, by row order"], rows) + "\n"


def coverage(report: dict[str, Any]) -> str:
    """How often intervals hold and tests cry wolf, for the guide."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in report["rows"]:
        method = row["method"].removeprefix("paired ")
        if row["part"] == "power" or method in ("DeLong, plain scale", "two separate DeLong"):
            continue
        case = row["case"] + (" (too few positives)" if row["few"] else "")
        found.setdefault((case, method), {})[row["part"]] = f"{row['share']:.1%}"
    rows = [
        [case, method, shares.get("coverage", ""), shares.get("size", "")]
        for (case, method), shares in found.items()
    ]
    header = ["data", "method", "95% interval holds the truth", "5% paired test rejects the truth"]
    return table(header, rows) + "\n"


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "metrics": metrics,
    "tokenizers": tokenizers,
    "metrics_memory": metrics_memory,
    "sid_lookup": sid_lookup,
    "hybrid_step": hybrid_step,
    "sid_expansion": sid_expansion,
    "windowed_attention": windowed_attention,
    "evolutionary_attention": evolutionary_attention,
    "compression_tokens": compression_tokens,
    "token_former": token_former,
    "din": din,
    "neural_ndcg": neural_ndcg,
    "candidate_scorer": candidate_scorer,
    "row_stream": row_stream,
    "serving_export": serving_export,
    "serving_soak": serving_soak,
    "version_swap": version_swap,
}


def token_former_study(report: dict[str, Any]) -> str:
    """AUC of the study and rank of its models, which are two files."""
    return token_former_pages.token_former(report, result("sequence_collapse"))


FRAGMENTS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "binning": ("metrics", binning),
    "compression_study": ("sequence_study_compression", compression_study),
    "coverage": ("coverage", coverage),
    "deadlines": ("deadlines", deadlines),
    "fsq_collisions": ("fsq_collisions", fsq_collisions),
    "fused_views": ("heads_and_fusion", fused_views),
    "hyformer_study": ("sequence_study_hyformer", hyformer_pages.hyformer),
    "instance_arms": ("sequence_study_instance", instance_arms),
    "movielens_peers": ("movielens_peers", movielens_peers),
    "train_drill": ("train_drill", train_drill_pages.train_drill),
    "reshard_matrix": ("reshard_matrix", train_drill_pages.reshard_matrix),
    "cache_division": ("miss_ratio", miss_ratio_pages.division),
    "kill_drill": ("kill_drill", kill_drill),
    "look_ahead": ("look_ahead", tiered_pages.look_ahead),
    "miss_ratio": ("miss_ratio", miss_ratio_pages.curves),
    "planning": ("planning", planning),
    "tiered": ("tiered", tiered_pages.tiered),
    "tiered_memory": ("tiered_memory", tiered_pages.tiered_memory),
    "tiered_exact": ("tiered_exact", tiered_pages.tiered_exact),
    "parallel_heads": ("heads_and_fusion", parallel_heads),
    "shootout": ("shootout", shootout),
    "shootout_alignment": ("shootout_alignment", alignment_stage_page),
    "shootout_gate": ("shootout_gate", gate_page),
    "shootout_movielens": ("shootout_movielens", shootout_movielens),
    "situations": ("situations", situations),
    "sparse_study": ("sequence_study_sparse", sparse_study),
    "ties": ("metrics", ties),
    "token_former_study": ("sequence_study_token_former", token_former_study),
    "tokenizer_ablation": ("tokenizer_ablation", ablation),
    "tokenizers_in_a_ranker": ("tokenizers_in_a_ranker", in_a_ranker),
}


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        parts.append(section(result(name)) + f"\n\nCommand: `python -m benchmarks.{name}`\n")
    found = {PAGE: "\n".join(parts)}
    for name, (source, fragment) in FRAGMENTS.items():
        found[DOCS / "measured" / f"{name}.md"] = fragment(result(source))
    return found


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
