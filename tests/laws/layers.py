"""Cases of ``sidrank.layers``."""

import torch

from sidrank.layers import (
    NLIR,
    ConvexGate,
    CrossAttention,
    DecoderBlock,
    FrozenRowsEmbedding,
    GateNU,
    PerTokenFFN,
    PerTokenLinear,
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
    RankMixerBlock,
    ResidualGate,
    ResolutionAttention,
    RotaryEmbedding,
    SelfAttention,
    SemiCausalNTPHead,
    SoftDiscretization,
    SparseMoE,
    SwiGLU,
    TaskConditionedBOS,
    TaskGate,
    TokenMerger,
)
from tests.laws.case import (
    ATTENTION,
    BLOCK,
    CODEBOOK,
    PROJECTIONS,
    SWIGLU,
    C,
    Case,
    D,
    L,
    linear,
    mask,
    under,
    without_times,
)

BOUNDARIES = [[-1.0, 0.0, 2.0], [0.0, 1.0], [-2.0, -1.0, 0.5, 0.75]]
MOE = "router hidden out bias load"


def gate_inputs(rows):
    counts = torch.randint(0, 9, (rows, 2)).float()
    present = torch.arange(rows) != 1
    return {"hid": torch.randn(rows, D), "sid": torch.randn(rows, D)} | {
        "statistics": counts,
        "present": present,
    }


def self_attention():
    rotary = RotaryEmbedding(head_dim=4)
    return SelfAttention(dim=8, num_heads=2, window=3, rotary=rotary, qk_norm=True)


CASES = [
    Case(
        lambda: PiecewiseLinearEncoding(boundaries=BOUNDARIES),
        lambda b: {"values": torch.randn(b, 3)},
        "boundaries",
    ),
    Case(
        lambda: PiecewiseLinearEmbedding(
            encoding=PiecewiseLinearEncoding(boundaries=BOUNDARIES), dim=D
        ),
        lambda b: {"values": torch.randn(b, 3)},
        "weight encoding.boundaries",
    ),
    Case(
        lambda: ResidualGate(statistics=["shown", "liked"]),
        gate_inputs,
        linear("mlp.0", "mlp.2"),
    ),
    Case(
        lambda: ConvexGate(statistics=["shown", "liked"]),
        gate_inputs,
        linear("mlp.0", "mlp.2"),
    ),
    Case(
        lambda: ResolutionAttention(dim=D, num_resolutions=3),
        lambda b: {"embeddings": torch.randn(b, 3, D)},
        "query own.weight own.bias mean.weight",
    ),
    Case(
        lambda: TokenMerger(dim=D, num_levels=3),
        lambda b: {"embeddings": torch.randn(b, L, 3, D)},
        "linear.weight",
    ),
    Case(
        lambda: SoftDiscretization(dim=D, bins=5),
        lambda b: {"values": torch.rand(b, L) * 2 - 1},
        "vectors hidden.weight hidden.bias head.weight",
    ),
    Case(
        lambda: TaskConditionedBOS(num_objectives=2, num_scenes=3, dim=D, summary_dim=5),
        lambda b: {
            "objective": torch.arange(b) % 2,
            "scene": torch.arange(b) % 3,
            "summary": torch.randn(b, 5),
        },
        "tokens summary.weight",
    ),
    Case(
        lambda: TaskGate(dim=5, token_dim=D),
        lambda b: {"x": torch.randn(b, 5), "token": torch.randn(b, 1, D)},
        "hidden.weight hidden.bias gate.weight gate.bias",
    ),
    Case(
        lambda: FrozenRowsEmbedding(CODEBOOK, num_new=5),
        lambda b: {"ids": torch.randint(0, 11, (b, L))},
        "weight",
    ),
    Case(
        lambda: SemiCausalNTPHead((5, 6), dim=D, num_layers=1, num_heads=2),
        lambda b: {
            **without_times(b, context=D),
            "codes": torch.randint(0, 5, (b, 2)),
            "labels": torch.arange(b) % 3,
        },
        "start codes.0.weight blocks.0.query_key_value.weight blocks.0.query_key_value.bias "
        + linear("blocks.0.attention_norm", "blocks.0.mix", "blocks.0.mlp.0", "blocks.0.mlp.1")
        + linear("blocks.0.mlp.3", "norm", "outputs.0", "outputs.1"),
        {"mask": ("context",)},
        rows=False,
    ),
    Case(
        lambda: CrossAttention(dim=8, query_dim=5, key_dim=D, num_heads=2),
        lambda b: {"queries": torch.randn(b, C, 5), **without_times(b, keys=D)},
        ATTENTION,
        {"mask": ("keys",)},
        ("queries",),
    ),
    Case(
        lambda: RotaryEmbedding(head_dim=4),
        lambda b: {"x": torch.randn(b, 2, L, 4), "positions": torch.randint(0, 99, (b, L))},
        "",
    ),
    Case(lambda: SwiGLU(dim=D, hidden=6), lambda b: {"x": torch.randn(b, L, D)}, SWIGLU),
    Case(
        lambda: NLIR(dim=D),
        lambda b: {"x": torch.randn(b, L, D), "branch": torch.randn(b, L, D)},
        "gate.weight gate.bias",
    ),
    Case(
        self_attention,
        lambda b: without_times(b, x=8),
        f"{PROJECTIONS} query_norm.weight key_norm.weight",
        {"mask": ("x",)},
    ),
    Case(
        lambda: DecoderBlock(attention=self_attention(), hidden=6, residual=NLIR(dim=8)),
        lambda b: {**without_times(b, x=8), "positions": torch.randint(0, 99, (b, L))},
        f"{BLOCK} attention.query_norm.weight attention.key_norm.weight " + linear("residual.gate"),
        {"mask": ("x", "positions")},
    ),
    Case(
        lambda: PerTokenLinear(num_tokens=3, in_dim=12, out_dim=5),
        lambda b: {"x": torch.randn(b, 3, 12)},
        "weight bias",
    ),
    Case(
        lambda: PerTokenFFN(num_tokens=3, dim=12, hidden=8),
        lambda b: {"x": torch.randn(b, 3, 12)},
        linear("hidden", "out"),
    ),
    Case(
        lambda: RankMixerBlock(
            num_tokens=3, dim=12, ffn=PerTokenFFN(num_tokens=3, dim=12, hidden=8)
        ),
        lambda b: {"x": torch.randn(b, 3, 12)},
        linear("mix_norm", "ffn_norm", "ffn.hidden", "ffn.out"),
    ),
    Case(
        lambda: SparseMoE(dim=D, hidden=6, num_experts=3, k=2),
        lambda b: {"x": torch.randn(b, L, D), "mask": mask(b, L)},
        MOE,
        {"mask": ("x",)},
    ),
    Case(
        lambda: RankMixerBlock(
            num_tokens=2, dim=D, ffn=SparseMoE(dim=D, hidden=6, num_experts=3, k=1, num_tokens=2)
        ),
        lambda b: {"x": torch.randn(b, 2, D)},
        linear("mix_norm", "ffn_norm") + under("ffn", MOE),
    ),
    Case(
        lambda: GateNU(context_dim=5, dim=D, hidden=6),
        lambda b: {"x": torch.randn(b, D), "context": torch.randn(b, 5)},
        linear("hidden", "gate"),
    ),
]
