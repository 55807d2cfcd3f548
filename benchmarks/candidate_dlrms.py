"""Hybrid DLRMs of published sizes, to score candidates with.

A log of Criteo does not say which of its features are the user's. The fields here are those of
Taobao's display-ad log as TorchEasyRec's examples read them (``multi_tower_din_taobao``): nine of
the user and one of the context, six of the ad, and the user's clicked ads, categories and brands as
bags; beside them 13 numbers, as in Criteo. Ads and clicked ads have semantic IDs of three levels.
Tables are cut to 100,000 rows. Widths and layers are those of three public DLRMs:

======================= ===== ================ ======================
host                    width layers below     layers above
======================= ===== ================ ======================
TorchEasyRec's example  16    64-16            64-32-1
DLRM, Criteo Kaggle     16    512-256-64-16    512-256-1
DLRM, MLPerf            128   512-256-128      1024-1024-512-256-1
======================= ===== ================ ======================

Sources: TorchEasyRec, ``examples/dlrm_criteo.config``; DLRM, arXiv 1906.00091, its script for
Criteo Kaggle; MLPerf Training's DLRM.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection
from torchrec.models.dlrm import DLRM, OverArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from benchmarks.candidate_requests import DENSE, Draw, Ranker, codes, moved
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ConvexGate
from sidrank.models import DLRMRanking

__all__ = ["DLRMS"]

ROWS = 100_000
USER = {
    "user_id": 1_141_730,
    "cms_segid": 98,
    "cms_group_id": 14,
    "final_gender_code": 3,
    "age_level": 8,
    "pvalue_level": 5,
    "shopping_level": 5,
    "occupation": 3,
    "new_user_class_level": 6,
    "pid": 20,
}
AD = {
    "adgroup_id": 846_812,
    "cate_id": 12_961,
    "campaign_id": 423_438,
    "customer": 255_877,
    "brand": 461_498,
    "price": 99,
}
SEEN = ("adgroup_id", "cate_id", "brand")
SIZES = {
    "DLRM 64-32": (16, [64, 16], [64, 32, 1]),
    "DLRM 512-256": (16, [512, 256, 64, 16], [512, 256, 1]),
    "DLRM MLPerf": (128, [512, 256, 128], [1024, 1024, 512, 256, 1]),
}


def dlrm(name: str) -> Callable[[int], Ranker]:
    """A host by its sizes."""

    def built(length: int) -> Ranker:
        width, below, above = SIZES[name]
        model = moved(
            DLRM(
                hybrid(width),
                dense_in_features=DENSE,
                dense_arch_layer_sizes=below,
                over_arch_layer_sizes=above,
            )
        )

        def requests(candidates: int, seed: int) -> RankingRequests:
            draw = Draw(seed)
            own = {field: draw.each(candidates, least(rows)) for field, rows in AD.items()}
            asked = {field: draw.bag(1, least(rows)) for field, rows in USER.items()}
            asked |= {f"seen_{field}": draw.bag(length, least(AD[field])) for field in SEEN}
            asked["seen_raw"] = asked["seen_adgroup_id"]
            return draw.request(asked, own | {"raw": own["adgroup_id"]})

        said = (
            f"width {width}, {len(USER)} fields of the request, {len(AD)} of the candidate, three"
            f" pooled histories, layers {'-'.join(map(str, above))}"
        )
        upper = OverArch(above[0], above[1:]) if above[2:] else nn.Linear(above[0], above[1])

        def layers(candidates: int) -> Tensor:
            return upper(torch.ones(candidates, above[0]))

        return Ranker(DLRMRanking(model).eval(), model, requests, said, layers)

    return built


def hybrid(width: int) -> HybridEmbeddingBagCollection:
    """Taobao's fields, with semantic IDs of the ad and of the ads in the history."""
    lookup = codes()
    sources = {
        "adgroup_id": RawIDSource("raw", lookup),
        "seen_adgroup_id": RawIDSource("seen_raw", lookup),
    }
    expander = SIDExpander(sources, mode="multires")
    tables = [
        EmbeddingBagConfig(
            name=f"t_{field}",
            embedding_dim=width,
            num_embeddings=least(rows),
            feature_names=[field, f"seen_{field}"] if field in SEEN else [field],
        )
        for field, rows in (USER | AD).items()
    ]
    return HybridEmbeddingBagCollection(
        EmbeddingBagCollection(tables=tables),
        expander.embedding_bag_configs(embedding_dim=width, init_fn=None),
        expander=expander,
        gates={key: ConvexGate(statistics=[]) for key in sources},
    )


def least(rows: int) -> int:
    return min(rows, ROWS)


DLRMS = {name: dlrm(name) for name in SIZES}
