"""Section of the benchmark page about sparse attention."""

from typing import Any

from benchmarks.tables import table


def evolutionary_attention(report: dict[str, Any]) -> str:
    """Pairs, operations and time of a layer as histories grow."""
    slopes = report["slope"]
    text = (
        f"`EvolutionarySparseAttention`, width {report['dim']}, {report['heads']} heads,"
        f" {report['chunks']} time chunks, the last {report['last']} behaviours of each, a window"
        f" of {report['window']}, {report['candidates']} candidates: forward and backward of one"
        f" row, processor time of {report['threads']} thread, {report['rounds']} rounds, with"
        " sorting and chunking. The peers are dense causal attention behind the same projections:"
        " fused, without a bias, and with the same bias of moments as its"
        " mask, which no fused kernel takes with a gradient and which does not fit beyond"
        f" {max(r['length'] for r in report['rows'] if 'dense with bias' in r['milliseconds']):,}."
        " First, with a chunk for each behaviour and a window over all, every branch equals dense"
        " attention.\n\n"
        "The bound is `L (P + m P + w)`; *visible* is what the definition lets behaviours see,"
        " *computed* what went through a softmax: windows are read in blocks. Slope of log cost"
        f" over log length: visible pairs {slopes['visible']:.2f}, computed"
        f" {slopes['computed']:.2f}, dense {slopes['dense']:.2f}; floating-point operations"
        f" {slopes['flops, sparse']:.2f} against {slopes['flops, dense, fused']:.2f}; milliseconds"
        f" {slopes['milliseconds, sparse']:.2f} against"
        f" {slopes['milliseconds, dense, fused']:.2f}."
    )
    rows = []
    for row in report["rows"]:
        pairs = (f"{row[name]:,}" for name in ("bound", "visible", "computed", "dense"))
        flops = (f"{row['flops'][name] / 1e6:,.0f}" for name in ("sparse", "dense, fused"))
        spent = row["milliseconds"]
        sparse = spent["sparse"]
        times = [f"{spent[name]:.1f}" for name in ("sparse", "dense, fused")]
        times.append(f"{spent['dense with bias']:.1f}" if "dense with bias" in spent else "")
        faster = f"{spent['dense, fused'] / sparse:.2f}"
        rows.append([f"{row['length']:,}", *pairs, *flops, *times, faster])
    header = ["behaviours", "bound", "visible", "computed", "dense pairs", "Mflop", "dense Mflop"]
    header += ["ms", "dense, fused ms", "dense with bias ms", "dense, fused ÷ sparse"]
    return f"## Sparse attention\n\n{text}\n\n{table(header, rows)}"
