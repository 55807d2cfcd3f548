"""Sections of the generated pages about DIN: its speed, and what deadlines are worth."""

from typing import Any

from benchmarks.tables import table


def din(report: dict[str, Any]) -> str:
    """Milliseconds of a training step, and the ratio to the fastest peer."""
    peers = list(report["peers"])
    versions = ", ".join(f"{name} {version}" for name, version in report["peers"].items())
    text = (
        f"`DIN`, one candidate a row, batch {report['batch']:,}, history {report['length']}:"
        f" forward, backward and an Adam step, thread time of {report['threads']} thread,"
        f" {report['rounds']} rounds. From equal weights all answer the same before the clock"
        f" starts (largest difference, as a share of the largest output:"
        f" {max(row['difference'] for row in report['rows']):.0e}). *Tower* is the activation unit"
        " and the sum alone, with gradients of candidates and behaviours; *ranker* is the same item"
        f" table of {report['items']:,} rows, the tower, a head 200-80 and the loss, of which only"
        f" the tower differs. Peers: {versions}; torch-rechub's unit runs without its batch norm,"
        " which would slow it down and which no other has. A ratio is the fastest peer's time over"
        " ours."
    )
    rows: list[list[str]] = []
    for row in report["rows"]:
        what = f"{row['width']}, {'-'.join(map(str, row['hidden']))}, {row['activation']}"
        for part in ("tower", "ranker"):
            spent = row[part]["milliseconds"]
            rows.append(
                [part, what, f"{row['fill']:.0%}"]
                + [f"{spent[name]:.0f}" for name in ("sidrank", *peers)]
                + [f"{row[part]['samples_per_second']['sidrank']:,.0f}"]
                + [f"{row[part]['ratio']:.2f}"]
            )
    header = ["what", "width, hidden, activation", "filled", "sidrank ms"]
    header += [f"{name} ms" for name in peers] + ["samples/s", "ratio"]
    return f"## DIN\n\n{text}\n\n{table(header, rows)}"


def deadlines(report: dict[str, Any]) -> str:
    """AUC of each arm over seeds, and the share of the gap from DIN to the best that it closes."""
    runs = report["runs"]
    seeds = sorted({run["seed"] for run in runs})
    best = mean([run["bayes_auc"] for run in runs])
    text = (
        f"Planted logs of 6,000 requests of 5 candidates, {len(seeds)} seeds, judged by"
        f" the true probabilities of open candidates; the best possible AUC is {best:.4f}, that"
        f" of who knows all but deadlines {mean([run['taste_auc'] for run in runs]):.4f}. The gap"
        " is that between DIN and the best. Where the time left is dealt anew among all candidates,"
        " what is closed is not the deadlines' doing."
    )
    rows: list[list[str]] = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        share = report["closed"].get(arm)
        of_seeds = [] if share is None else [f"{value:.0%}" for value in share["seeds"]]
        rows.append(
            [
                arm,
                f"{own[0]['parameters']:,}",
                f"{mean([run['expected_auc'] for run in own]):.4f}",
                "" if share is None else f"{share['mean']:.0%}",
                ", ".join(of_seeds),
            ]
        )
    header = ["arm", "parameters", "AUC", "gap closed", "by seed"]
    return f"## Planted deadlines\n\n{text}\n\n{table(header, rows)}"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
