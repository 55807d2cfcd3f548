"""Two views of an item become one semantic ID, and what is used together shares it.

A shop, made up with a planted signal: an item is of one of 6 styles, which its text shows, and
of one of 6 looks, which its image shows; items are bought together if both agree. Half of every
view means nothing. Purchases are known of old items only; what counts is whether the SIDs of
*new* items, which nobody has bought yet, find their companions. Fusion drops what means nothing,
so items of one kind come so close that many share a whole SID: read collisions beside the hits.

    python examples/multimodal_item_ids.py
"""

import numpy as np
import torch
from torch import Tensor

from sidrank.semantic_ids import SIDSpec, SIDTable, quality
from sidrank.tokenizers import RQKMeans
from sidrank.tokenizers.fused_vectors import embed_views, fit_fusion
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion, concatenated_views

ITEMS, KINDS, LEVELS = 1000, 6, (16, 16, 16)
NEW = ITEMS * 3 // 5  # rows from here on are new
Views = dict[str, Tensor]


def planted_shop(seed: int) -> tuple[Views, Tensor]:
    """Views ``[ITEMS, 16]`` of every item, and all pairs of items that go together."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, KINDS, (ITEMS, 2), generator=generator)  # style and look
    views: Views = {}
    for column, name in enumerate(("text", "image")):
        shown = torch.randn(KINDS, 8, generator=generator)[kinds[:, column]]
        nothing = torch.randn(ITEMS, 8, generator=generator)
        rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
        views[name] = torch.cat([shown, nothing], dim=1) @ rotation
    together = (kinds.unsqueeze(0) == kinds.unsqueeze(1)).all(dim=2)
    return views, together.triu(1).nonzero()


def hit_rate(rebuilt: Tensor, pairs: Tensor) -> float:
    """Share of pairs of new items where one is among the 10 nearest codes of the other."""
    noise = torch.rand(ITEMS - NEW, ITEMS - NEW, generator=torch.Generator().manual_seed(0))
    vectors = rebuilt[NEW:].double()
    gaps = torch.cdist(vectors, vectors) + 1e-9 * noise  # equal codes in random order
    near = gaps.fill_diagonal_(torch.inf).topk(10, largest=False).indices
    left, right = (pairs - NEW).T
    return float((near[left] == right.unsqueeze(1)).any(dim=1).float().mean())


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    views, pairs = planted_shop(seed)
    old, new = pairs[(pairs < NEW).all(dim=1)], pairs[(pairs >= NEW).all(dim=1)]
    fusion = MultimodalFusion(widths={"text": 16, "image": 16}, dim=16, num_heads=2)
    fit_fusion(fusion, views, old, seed=seed)
    arms = {
        "fusion": embed_views(fusion, views),
        "concat": concatenated_views(views),
        "text only": concatenated_views({"text": views["text"]}),
    }
    print(f"{'vectors':<12}{'hit@10':>8}{'colliding':>11}{'recall@10':>11}")
    found: dict[str, dict[str, float]] = {}
    for name, vectors in arms.items():
        tokenizer = RQKMeans(levels=LEVELS, seed=seed).fit(vectors)
        codes = tokenizer.encode(vectors)
        table = SIDTable(np.arange(ITEMS), codes.numpy(), spec=SIDSpec(LEVELS))
        report = quality(table, vectors=vectors, tokenizer=tokenizer)
        recall = report.neighbour_recall or {}
        found[name] = {
            "hit@10": hit_rate(tokenizer.decode(codes), new),
            "colliding": report.items_in_collision,
            "recall@10": recall["by_vector"],
        }
        hit, colliding, kept = found[name].values()
        print(f"{name:<12}{hit:>8.3f}{colliding:>11.3f}{kept:>11.3f}")
    return found


if __name__ == "__main__":
    main()
