"""Cases of ``sidrank.towers``."""

import torch

from sidrank.layers import CrossAttention
from sidrank.towers import (
    DIN,
    TWIN,
    ESUTargetAttention,
    GSUSearch,
    InstructionGuidedSearch,
    LeastSquaresRead,
    LSHSearch,
    SearchAttention,
    UrgencyDIN,
)
from tests.laws.case import C, Case, D, history, linear, mask, prefixed, without_times

UNIT = linear("mlp.0", "mlp.2", "mlp.4") + "mlp.1.weight mlp.3.weight"


def search_attention():
    attention = ESUTargetAttention(behaviour_dim=8, dim=4, num_heads=2)
    return SearchAttention(search=GSUSearch(k=3), attention=attention)


CASES = [
    Case(
        lambda: LeastSquaresRead(dim=D),
        lambda b: {"target": torch.randn(b, C, D), **without_times(b, history=D, answers=2)},
        "log_noise",
        {"mask": ("history", "answers")},
        ("target",),
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
        lambda: DIN(dim=D, hidden=(6, 5)),
        lambda b: {"target": torch.randn(b, C, D), **without_times(b, history=D)},
        UNIT,
        {"mask": ("history",)},
        ("target",),
    ),
    Case(
        lambda: DIN(dim=D, hidden=(6, 5), softmax=True),
        lambda b: {"target": torch.randn(b, C, D), **without_times(b, history=D)},
        UNIT,
        {"mask": ("history",)},
        ("target",),
    ),
    Case(
        lambda: UrgencyDIN(dim=D, hidden=(6, 5), position_dim=4, buckets=(1.0, 4.0)),
        lambda b: {
            "target": torch.randn(b, C, D),
            "locks": torch.randint(2, 14, (b, C)),
            **history(b, history=D),
        },
        UNIT,
        {"mask": ("history", "times")},
        ("target", "locks"),
    ),
    Case(
        lambda: LSHSearch(dim=D, k=3, bits=16),
        lambda b: {"target": torch.randn(b, C, D), **history(b, history=D)},
        "projections",
        {"mask": ("history", "times")},
        ("target",),
    ),
    Case(
        lambda: TWIN(attention=CrossAttention(dim=8, query_dim=5, key_dim=D, num_heads=2), k=3),
        lambda b: {"target": torch.randn(b, C, 5), **history(b, history=D)},
        prefixed("attention"),
        {"mask": ("history", "times")},
        ("target",),
    ),
    Case(
        lambda: SearchAttention(
            search=LSHSearch(dim=D, k=3), attention=ESUTargetAttention(behaviour_dim=8, dim=4)
        ),
        lambda b: {
            "target": torch.randn(b, C, 8),
            "target_vectors": torch.randn(b, C, D),
            **history(b, history=8, history_vectors=D),
        },
        prefixed("attention.attention") + " search.projections",
        {"mask": ("history", "history_vectors", "times")},
        ("target", "target_vectors"),
    ),
]
