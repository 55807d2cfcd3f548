"""Cases of ``sidrank.losses``."""

import torch

from sidrank.losses import Q2ILoss, SIDItemContrast, UncertaintyWeighting
from tests.laws.case import Case, D

CASES = [
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
    Case(
        lambda: UncertaintyWeighting(num_tasks=3),
        lambda b: {"losses": torch.rand(3), "present": torch.tensor([True, b % 2 == 0, True])},
        "log_variances",
        rows=False,
    ),
]
