"""Cases of ``sidrank.sequences``: encoders of long histories."""

from functools import partial

import torch

from sidrank.layers import (
    CrossAttention,
    DecoderBlock,
    PerTokenFFN,
    RotaryEmbedding,
    SelfAttention,
)
from sidrank.sequences import (
    BFTSEncoder,
    BottleneckPool,
    CompressionTokens,
    CondensedPrediction,
    EqualChunker,
    EvolutionarySparseAttention,
    HyFormer,
    HyFormerBlock,
    HyFormerQueries,
    KeepingHyFormer,
    QueryBoosting,
    QueryFormer,
    RelTemporalBias,
    SparseCTREncoder,
    TimeAwareGatedAttention,
    TimeChunker,
    TimeEncoding,
)
from tests.laws.case import (
    BLOCK,
    PROJECTIONS,
    SWIGLU,
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

STACK = " ".join(under(f"blocks.{i}", BLOCK) for i in (0, 1))
QUERY_LAYER = " ".join(
    [
        prefixed("read"),
        linear("read_norm", "attention_norm", "ffn_norm"),
        under("attention", PROJECTIONS),
        under("ffn", SWIGLU),
    ]
)


def stack():
    blocks = []
    for _ in range(2):
        attention = SelfAttention(dim=D, num_heads=2, rotary=RotaryEmbedding(head_dim=2))
        blocks.append(DecoderBlock(attention=attention, hidden=6))
    return blocks


def evolutionary_attention():
    return EvolutionarySparseAttention(
        dim=D,
        num_heads=2,
        chunker=TimeChunker(num_chunks=3),
        window=3,
        last=2,
        bias=RelTemporalBias(num_heads=2),
    )


def evolutionary_inputs(rows):
    """Times that span hours and weekends, before 1970."""
    given = history(rows, behaviours=D)
    given["times"], given["now"] = (36_000 * (given[name] - 9) for name in ("times", "now"))
    return {**given, "candidates": torch.randn(rows, C, D), "user": torch.randn(rows, D)}


SPARSE_ATTENTION = "bias.recency bias.hour bias.weekend " + " ".join(
    f"{name}.weight" for name in ("query", "key", "value", "gate", "out")
)
SPARSE_BLOCK = "attention_norm.weight ffn_norm.weight ffn.gate.weight ffn.up.weight " + " ".join(
    ["ffn.out.weight", *(f"attention.{name}" for name in SPARSE_ATTENTION.split())]
)


def per_token(num_tokens):
    return PerTokenFFN(num_tokens=num_tokens, dim=12, hidden=8)


def two_sequences(rows, **others):
    """Two histories of different length and width, the second of which is L behaviours long."""
    shape = (rows, L - 2)
    return others | {
        "sequences.0": torch.randn(*shape, 12),
        "masks.0": mask(*shape),
        "sequences.1": torch.randn(rows, L, D),
        "masks.1": mask(rows, L),
    }


def hyformer_block(encoders=None):
    return HyFormerBlock(
        decoders=[CrossAttention(dim=12, query_dim=12, key_dim=width) for width in (12, D)],
        boosting=QueryBoosting(num_tokens=4, dim=12, ffn=per_token(4)),
        encoders=encoders,
    )


def hyformer(kind):
    return kind(queries=hyformer_queries(), blocks=[hyformer_block(), hyformer_block()])


def hyformer_queries():
    return HyFormerQueries(num_tokens=2, dim=12, sequence_dims=[12, D], hidden=5)


def under(name, state):
    return " ".join(f"{name}.{part}" for part in state.split())


PER_TOKEN = linear("hidden", "out")
HYFORMER_BLOCK = prefixed("decoders.0", "decoders.1") + " " + under("boosting.ffn", PER_TOKEN)
SEQUENCES = {"masks.0": ("sequences.0",), "masks.1": ("sequences.1",)}

CASES = [
    Case(
        lambda: BFTSEncoder(dim=8, num_heads=2, hidden=6, windows=(4, 2)),
        lambda b: {
            "static": torch.randn(b, 3, 8),
            **without_times(b, behaviours=8),
            "targets": torch.randn(b, C, 8),
        },
        "separators norm.weight "
        + " ".join(under(f"blocks.{i}", BLOCK + linear(" residual.gate")) for i in range(3)),
        {"mask": ("behaviours",)},
        ("targets",),
    ),
    Case(
        lambda: CompressionTokens(blocks=stack(), insert=[(2, 1), (4, 2)]),
        lambda b: without_times(b, x=D),
        STACK + " tokens",
        {"mask": ("x",)},
    ),
    Case(
        lambda: CompressionTokens(blocks=stack(), insert=[(-2, 3)]),
        lambda b: without_times(b, x=D),
        STACK + " tokens",
        {"mask": ("x",)},
    ),
    Case(
        lambda: QueryFormer(dim=D, num_queries=3, num_layers=2, num_heads=2, hidden=6),
        lambda b: without_times(b, x=D),
        "queries " + " ".join(under(f"layers.{i}", QUERY_LAYER) for i in (0, 1)),
        {"mask": ("x",)},
    ),
    Case(
        lambda: BottleneckPool(blocks=stack(), num_tokens=2, projection=torch.nn.Linear(2 * D, 3)),
        lambda b: without_times(b, x=D),
        STACK + " tokens projection.weight projection.bias",
        {"mask": ("x",)},
    ),
    Case(
        lambda: CondensedPrediction(pool=BottleneckPool(blocks=stack(), num_tokens=2)),
        lambda b: {
            **without_times(b, x=D),
            "targets": torch.randn(b, C, D),
            "target_mask": mask(b, C),
        },
        under("pool", STACK) + " pool.tokens start",
        {"mask": ("x",), "target_mask": ("targets",)},
    ),
    Case(
        lambda: TimeEncoding(num_features=6, dim=D),
        lambda b: {"x": torch.randn(b, L, D), "times": torch.randn(b, L, 6)},
        linear("hidden", "out"),
    ),
    Case(
        lambda: TimeAwareGatedAttention(
            time=TimeEncoding(num_features=6, dim=D),
            num_heads=2,
            rotary=RotaryEmbedding(head_dim=2),
        ),
        lambda b: {**without_times(b, x=D), "times": torch.randn(b, L, 6)},
        linear("time.hidden", "time.out", "gate")
        + "query.weight key.weight value.weight out.weight query_norm.weight key_norm.weight",
        {"mask": ("x", "times")},
    ),
    # what has one answer for each behaviour obeys the laws of padding in tests of its own
    Case(
        lambda: TimeChunker(num_chunks=3),
        lambda b: {name: history(b)[name] for name in ("mask", "times")},
        "",
    ),
    Case(
        lambda: EqualChunker(num_chunks=3),
        lambda b: {name: history(b)[name] for name in ("mask", "times")},
        "",
    ),
    Case(
        lambda: RelTemporalBias(num_heads=2),
        lambda b: {
            "query_times": torch.randint(0, 10**6, (b, C)),
            "key_times": torch.randint(0, 10**6, (b, L)),
        },
        "recency hour weekend",
    ),
    Case(evolutionary_attention, evolutionary_inputs, SPARSE_ATTENTION),
    Case(
        lambda: SparseCTREncoder(attentions=[evolutionary_attention()], hidden=6),
        evolutionary_inputs,
        "norm.weight " + under("blocks.0", SPARSE_BLOCK),
        {"mask": ("behaviours", "times")},
        ("candidates",),
    ),
    Case(
        lambda: QueryBoosting(num_tokens=4, dim=12, ffn=per_token(4)),
        lambda b: {"tokens": torch.randn(b, 4, 12)},
        under("ffn", PER_TOKEN),
    ),
    Case(
        hyformer_queries,
        lambda b: two_sequences(b, tokens=torch.randn(b, C, 2, 12)),
        PER_TOKEN,
        SEQUENCES,
        ("tokens",),
    ),
    Case(
        hyformer_block,
        lambda b: two_sequences(
            b, queries=torch.randn(b, C, 2, 1, 12), tokens=torch.randn(b, C, 2, 12)
        ),
        HYFORMER_BLOCK,
        SEQUENCES,
    ),
    *(
        Case(
            partial(hyformer, kind),
            lambda b: two_sequences(b, tokens=torch.randn(b, C, 2, 12)),
            " ".join(
                [
                    under("queries", PER_TOKEN),
                    under("blocks.0", HYFORMER_BLOCK),
                    under("blocks.1", HYFORMER_BLOCK),
                ]
            ),
            SEQUENCES,
            ("tokens",),
        )
        for kind in (HyFormer, KeepingHyFormer)
    ),
]
