"""Modules that must obey the laws of tests/test_module_laws.py: a new one joins with one entry.

``inputs(rows)`` makes keyword arguments for that many rows, of which one has an empty history.
``state`` are the names in the checkpoint: they are public. ``masks`` says which arguments a mask
covers, ``candidates`` which have candidates on axis 1. Constants are made here, once, so that
building on the meta device finds real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sidrank.layers import (
    ConvexGate,
    CrossAttention,
    FrozenRowsEmbedding,
    ResidualGate,
    ResolutionAttention,
    SoftDiscretization,
    TaskConditionedBOS,
    TaskGate,
    TokenMerger,
)
from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead
from sidrank.losses.query_to_item import Q2ILoss
from sidrank.losses.sid_item_contrast import SIDItemContrast
from sidrank.sequences import (
    DualCrossAttention,
    InterestAlignment,
    SemanticHardSearch,
    SIDTierToken,
    TierHistogram,
)
from sidrank.towers import (
    ESUTargetAttention,
    GSUSearch,
    InstructionGuidedSearch,
    SearchAttention,
)

C, L, D = 3, 7, 4  # candidates, behaviours, width
ATTENTION = "query.weight query.bias key.weight value.weight value.bias out.weight out.bias"
CODEBOOK = torch.randn(6, D, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Case:
    """A module and how to use it."""

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    state: str
    masks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    rows: bool = True  # False: rows are compared with each other, as in a contrastive loss

    @property
    def __name__(self):
        return type(self.build()).__name__


def prefixed(*names):
    return " ".join(f"{name}.{part}" for name in names for part in ATTENTION.split())


def linear(*names):
    return "".join(f"{name}.weight {name}.bias " for name in names)


def mask(*shape):
    real = torch.rand(shape) < 0.7
    real[: min(1, len(real))] = False  # the first row has no history
    return real


def history(rows, **widths):
    """A mask, times that tie, a request within them, and one vector a behaviour for each width."""
    vectors = {name: torch.randn(rows, L, width) for name, width in widths.items()}
    times, now = torch.randint(0, 9, (rows, L)), torch.randint(4, 9, (rows,))
    return {**vectors, "mask": mask(rows, L), "times": times, "now": now}


def without_times(rows, **widths):
    given = history(rows, **widths)
    return {name: given[name] for name in (*widths, "mask")}


def gate_inputs(rows):
    counts = torch.randint(0, 9, (rows, 2)).float()
    present = torch.arange(rows) != 1
    return {"hid": torch.randn(rows, D), "sid": torch.randn(rows, D)} | {
        "statistics": counts,
        "present": present,
    }


def tiers():
    return TierHistogram(prototypes=CODEBOOK, num_tiers=4)


def search_attention():
    attention = ESUTargetAttention(behaviour_dim=8, dim=4, num_heads=2)
    return SearchAttention(search=GSUSearch(k=3), attention=attention)


CASES = [
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
        lambda: GSUSearch(k=3),
        lambda b: {"target": torch.randn(b, C, D), **history(b, history=D)},
        "",
        {"mask": ("history", "times")},
        ("target",),
    ),
    Case(
        lambda: ESUTargetAttention(behaviour_dim=D, dim=8, num_heads=2),
        lambda b: {
            "target": torch.randn(b, C, D),
            "behaviours": torch.randn(b, C, 5, D),
            "mask": mask(b, C, 5),
        },
        prefixed("attention"),
        {"mask": ("behaviours",)},
        ("target", "behaviours", "mask"),
    ),
    Case(
        search_attention,
        lambda b: {
            "target": torch.randn(b, C, 8),
            "target_vectors": torch.randn(b, C, D),
            **history(b, history=8, history_vectors=D),
        },
        prefixed("attention.attention"),
        {"mask": ("history", "history_vectors", "times")},
        ("target", "target_vectors"),
    ),
    Case(
        lambda: InstructionGuidedSearch(instruction_dim=5, item_dim=D, dim=6, k=3),
        lambda b: {
            "instruction": torch.randn(b, 5),
            "present": torch.arange(b) % 2 == 0,
            **history(b, history=D),
        },
        "default query_adapter.weight item_adapter.weight",
        {"mask": ("history", "times"), "present": ("instruction",)},
    ),
    Case(
        Q2ILoss,
        lambda b: {
            "queries": torch.randn(b, D),
            "items": torch.randn(b, D),
            "ids": torch.arange(b),
        },
        "",
        rows=False,
    ),
    Case(
        lambda: SIDItemContrast(sid_dim=D, item_dim=5, dim=6),
        lambda b: {"sids": torch.randn(b, D), "items": torch.randn(b, 5), "ids": torch.arange(b)},
        "sid.weight item.weight",
        rows=False,
    ),
]
