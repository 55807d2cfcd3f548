"""Cases of ``sidrank.sequences``: searches, tokens, instances."""

import torch

from sidrank.layers import CrossAttention, SoftDiscretization
from sidrank.sequences import (
    DualCrossAttention,
    InstanceSequence,
    InstanceTokenizer,
    InterestAlignment,
    SemanticHardSearch,
    SIDTierToken,
    TierHistogram,
)
from tests.laws.case import (
    BLOCK,
    CODEBOOK,
    C,
    Case,
    D,
    L,
    history,
    linear,
    mask,
    prefixed,
    under,
    without_times,
)


def tiers():
    return TierHistogram(prototypes=CODEBOOK, num_tiers=4)


CASES = [
    Case(
        lambda: InterestAlignment(discretization=SoftDiscretization(dim=5, bins=4)),
        lambda b: {"target": torch.randn(b, C, D), **without_times(b, history=D)},
        "default discretization.vectors discretization.hidden.weight "
        "discretization.hidden.bias discretization.head.weight",
        {"mask": ("history",)},
        ("target",),
    ),
    Case(
        lambda: SemanticHardSearch(codebook=CODEBOOK, k=3, min_found=2, num_near=2),
        lambda b: {
            "code": torch.randint(-1, 6, (b, C)),
            **history(b),
            "history_codes": torch.randint(-1, 6, (b, L)),
        },
        "near",
        {"mask": ("history_codes", "times")},
        ("code",),
    ),
    Case(
        lambda: DualCrossAttention(dim=D, num_heads=2),
        lambda b: {
            "target": torch.randn(b, C, D),
            "short": torch.randn(b, L, D),
            "short_mask": mask(b, L),
            "retrieved": torch.randn(b, C, 5, D),
            "retrieved_mask": mask(b, C, 5),
        },
        f"{prefixed('short', 'retrieved')} gate.weight gate.bias",
        {"short_mask": ("short",), "retrieved_mask": ("retrieved",)},
        ("target", "retrieved", "retrieved_mask"),
    ),
    Case(tiers, lambda b: without_times(b, history=D), "prototypes", {"mask": ("history",)}),
    Case(
        lambda: SIDTierToken(histogram=tiers(), dim=8),
        lambda b: without_times(b, history=D),
        "histogram.prototypes " + linear("mlp.0", "mlp.2"),
        {"mask": ("history",)},
    ),
    Case(
        lambda: SIDTierToken(histogram=tiers(), dim=8, scale="log1p", soft=True),
        lambda b: without_times(b, history=D),
        "histogram.prototypes " + linear("mlp.0", "mlp.2"),
        {"mask": ("history",)},
    ),
    Case(
        lambda: InstanceTokenizer(input_dim=D, dim=6, hidden=8),
        lambda b: without_times(b, h=D),
        linear("compress", "decompress.0", "decompress.2"),
        {"mask": ("h",)},
    ),
    Case(
        lambda: InstanceTokenizer(
            input_dim=D, dim=8, mode="user_order", hidden=8, num_layers=1, num_heads=2
        ),
        lambda b: {
            **without_times(b, h=D),
            "past": torch.rand(b, 5, 8),
            "past_mask": mask(b, 5),
        },
        linear("compress", "decompress.0", "decompress.2")
        + "transformer.norm.weight "
        + under("transformer.blocks.0", BLOCK),
        {"mask": ("h",), "past_mask": ("past",)},
    ),
    Case(
        lambda: InstanceSequence(
            sequence=CrossAttention(dim=8, query_dim=8, key_dim=2 * D, num_heads=2),
            query_dim=5,
            token_dim=6,
            side_sizes=[2, 3],
            dim=D,
            width=8,
        ),
        lambda b: {
            "query": torch.randn(b, C, 5),
            **without_times(b, vectors=D),
            "sides": torch.randint(-1, 2, (b, L, 2)),
        },
        "vector.weight sides.0.weight sides.1.weight "
        + linear("query", "out")
        + prefixed("sequence"),
        {"mask": ("vectors", "sides")},
        ("query",),
    ),
]
