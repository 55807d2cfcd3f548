"""Write ``docs/benchmarks.md`` from the committed results.

python -m benchmarks.page
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

HEAD = """# Speed

Each figure is a ratio within one run: rounds interleaved, the median kept, equal results checked
before anything is timed. Milliseconds belong to the machine; read the ratios. `make bench` runs
them and writes this page. **No GPU has run them.**
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


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


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "sid_lookup": sid_lookup,
    "hybrid_step": hybrid_step,
}


def main() -> None:
    parts = [HEAD]
    for name, section in SECTIONS.items():
        report = json.loads((RESULTS / f"{name}.json").read_text())
        parts.append(section(report) + f"\n\nCommand: `python -m benchmarks.{name}`\n")
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
