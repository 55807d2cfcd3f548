"""Cases of the situation tower and its parts.

What drops behaviours by chance is in evaluation, where it has the gradient of the soft choice.
"""

import torch

from sidrank.layers.gumbel_keep import GumbelKeep
from sidrank.towers.situation_aggregation import TypedTargetAttention
from sidrank.towers.situation_correlations import (
    AcrossBehaviours,
    AcrossFields,
    SituationCorrelations,
    WithRequest,
)
from sidrank.towers.situation_denoising import SituationDenoising
from sidrank.towers.situation_fields import SituationFields, TypeParameterization
from sidrank.towers.situation_tower import SituationTower
from tests.laws.case import (
    C,
    Case,
    D,
    L,
    history,
    linear,
    mask,
    under,
    without_times,
)

F, R, TYPES = 2, 3, 3  # fields of a behaviour and of a request, behaviour types
DIRECTION = "query_key_value.weight out.weight"
CORRELATIONS = (
    " ".join(under(name, DIRECTION) for name in ("fields", "behaviours", "request"))
    + " norm.weight gates.weight gates.bias"
)
DENOISING = "hidden.weight hidden.bias out.weight bias"
TYPED = linear("query", "key", "value") + "query_norm.weight key_norm.weight"
BINS = "vectors hidden.weight hidden.bias head.weight"


def fields(rows):
    return torch.randn(rows, L, F, D)


def types(rows):
    return torch.randint(0, TYPES, (rows, L))


def small_tower():
    tower = SituationTower.of(
        item_dim=6, dim=D, num_fields=F, num_request_fields=R, num_types=TYPES
    )
    return tower.eval()


CASES = [
    Case(
        lambda: GumbelKeep(hard=True).eval(),
        lambda b: {"logits": torch.randn(b, C, L), "mask": mask(b, L)},
        "",
        candidates=("logits",),
    ),
    Case(
        lambda: SituationFields(dim=D, categories=[4, 3], numbers=2, bins=5),
        lambda b: {
            "categories": torch.randint(-1, 5, (b, L, 2)),
            "numbers": torch.randn(b, L, 2).masked_fill(torch.rand(b, L, 2) < 0.3, torch.nan),
        },
        f"table unknown {under('numbers.0', BINS)} {under('numbers.1', BINS)}",
    ),
    Case(
        lambda: TypeParameterization(num_types=TYPES, dim=D, rank=2),
        lambda b: {"fields": fields(b), "types": types(b)},
        "u v",
    ),
    Case(
        lambda: AcrossFields(dim=D, num_heads=2),
        lambda b: {"fields": fields(b)},
        DIRECTION,
    ),
    *(
        Case(
            lambda window=window: AcrossBehaviours(dim=D, num_heads=2, window=window),
            lambda b: {"fields": fields(b), "mask": mask(b, L)},
            DIRECTION,
        )
        for window in (None, 2)
    ),
    Case(
        lambda: WithRequest(dim=D, num_heads=2),
        lambda b: {"fields": fields(b), "request": torch.randn(b, R, D)},
        DIRECTION,
    ),
    *(
        Case(
            lambda window=window: SituationCorrelations(dim=D, num_heads=2, window=window),
            lambda b: {
                "fields": fields(b),
                "request": torch.randn(b, R, D),
                "mask": mask(b, L),
            },
            CORRELATIONS,
            {"mask": ("fields",)},
        )
        for window in (None, 2)
    ),
    Case(
        lambda: SituationDenoising(item_dim=5, situation_dim=F * D).eval(),
        lambda b: {"target": torch.randn(b, C, 5), **without_times(b, history=5, situation=F * D)},
        DENOISING,
        {"mask": ("history", "situation")},
        ("target",),
    ),
    Case(
        lambda: TypedTargetAttention(query_dim=5, key_dim=D, dim=8, num_types=TYPES, num_heads=2),
        lambda b: {
            "query": torch.randn(b, C, 5),
            "keys": torch.randn(b, L, D),
            "types": types(b),
            "kept": torch.rand(b, C, L) * mask(b, C, L),
        },
        TYPED,
        candidates=("query", "kept"),
    ),
    Case(
        small_tower,
        lambda b: {
            "target": torch.randn(b, C, 6),
            "situation": fields(b),
            "request": torch.randn(b, R, D),
            "types": types(b),
            **history(b, history=6),
        },
        f"{under('denoise', DENOISING)} parameterize.u parameterize.v "
        f"{under('correlate', CORRELATIONS)} {under('aggregate', TYPED)}",
        {"mask": ("history", "situation", "types", "times")},
        ("target",),
    ),
]
