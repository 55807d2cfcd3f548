"""The 31 systems whose mechanisms this library brings to a ranker: part, room, source.

The grade says how well the mechanism is known to us: A, official code read or formulas reported
alike by several who quote the paper; B, one detailed second-hand reading; C, abstract only, the
rest derived.
"""

from typing import NamedTuple

__all__ = ["SYSTEMS", "System"]


class System(NamedTuple):
    """One row of the ledger."""

    number: int
    name: str
    source: str
    grade: str
    part: str
    room: str


SYSTEMS = tuple(
    System(number, *row)
    for number, row in enumerate(
        (
            ("OpenOneRec", "2512.24762", "A", "residual k-means tokenizer", "tokenizers"),
            (
                "OxygenREC",
                "2512.22386",
                "B",
                "fusion of item views, instruction-guided search",
                "tokenizers, towers",
            ),
            (
                "OneMall",
                "2601.21770",
                "B",
                "FSQ tail, query-former, sparse experts",
                "tokenizers, sequences, layers",
            ),
            ("UniSID", "2602.10445", "B", "parallel SID head", "tokenizers"),
            ("R3-VAE", "2604.11440", "B", "R3-VAE tokenizer and its metrics", "tokenizers"),
            ("TCA4Rec", "2601.18457", "A", "token-level collaborative alignment", "losses"),
            ("QARM V2", "2602.08559", "A−", "k-means levels with an FSQ tail", "tokenizers"),
            ("GR2", "2602.07774", "B", "RQ-VAE with its uniqueness tricks", "tokenizers"),
            ("Promise", "2601.04674", "B", "prefix reward model", "generative"),
            ("GenRec", "2604.14878", "B+", "token merger", "layers"),
            ("UniRec", "2604.12234", "B+", "capacity-constrained RQ", "tokenizers"),
            (
                "SID-Coord",
                "2604.10471",
                "B+",
                "hash-ID/SID gate, multires SIDs",
                "embeddings, layers",
            ),
            ("Farewell to Item IDs", "2601.22694", "B+", "memorisation branch", "embeddings"),
            ("GLASS", "2602.05663", "B+", "SID tier token, hard search", "sequences"),
            ("OneLive", "2602.08612", "B+", "time-valid codes, time-aware attention", "sequences"),
            ("PerSRec", "2601.03479", "A", "compression tokens", "sequences"),
            ("HyFormer", "2601.12681", "B+", "HyFormer block", "layers, models"),
            ("SparseCTR", "2601.17836", "B", "evolutionary sparse attention", "sequences"),
            ("TokenFormer", "2604.13737", "B", "BFTS attention, NLIR", "sequences, layers"),
            ("IAT", "2604.08933", "B+", "instance tokens and store", "sequences"),
            ("DSAIN", "2604.12298", "C+", "situation tower", "towers"),
            ("DFS Ranking", "2604.13796", "B−", "urgency DIN, NeuralNDCG", "towers, losses"),
            ("Bottleneck Tokens", "2604.11095", "B", "bottleneck pooling", "sequences"),
            ("SOLARIS", "2604.12110", "B", "off-path embedding store", "serving, cache"),
            ("Hierarchical Indexing", "2604.12965", "B", "hierarchical index", "serving"),
            ("SAGER", "2604.14972", "C+", "per-user skill vectors", "middleware"),
            ("HiAgentRec", "2604.14051", "C", "need → category → item ranker", "middleware"),
            ("DUET", "2604.13801", "B", "pair profiles", "middleware"),
            ("SemaCDR", "2604.09551", "C+", "domain-semantic fusion", "middleware"),
            ("AuthGR", "2604.13468", "B−", "authority feature and reward", "middleware"),
            ("NSFL", "2604.10604", "B−", "fuzzy-logic scores", "middleware"),
        ),
        start=1,
    )
)
