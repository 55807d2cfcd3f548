"""Cases of ``sidrank.towers``."""

import torch

from sidrank.towers import (
    ESUTargetAttention,
    GSUSearch,
    InstructionGuidedSearch,
    SearchAttention,
)
from tests.laws.case import C, Case, D, history, mask, prefixed


def search_attention():
    attention = ESUTargetAttention(behaviour_dim=8, dim=4, num_heads=2)
    return SearchAttention(search=GSUSearch(k=3), attention=attention)


CASES = [
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
]
