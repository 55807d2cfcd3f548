"""Items with a planted taxonomy, and items with two views that each tell half of the story."""

import torch

FAN_OUT = (6, 18, 54)  # categories of each depth: 6, each of 3, each of 3


def tree(seed, items=1080, nuisance=3.0):
    """Vectors [V, 26] and category paths [V, 3]; each leaf has as many items as the others."""
    generator = torch.Generator().manual_seed(seed)
    leaf = torch.arange(items) % FAN_OUT[-1]
    paths = torch.stack([leaf // 9, leaf // 3, leaf], dim=1)
    x = 0.3 * torch.randn(items, 18, generator=generator)
    for level, count in enumerate(FAN_OUT):
        x += 0.8**level * torch.randn(count, 18, generator=generator)[paths[:, level]]
    noise = nuisance * torch.randn(items, 8, generator=generator)
    return torch.cat([x, noise], dim=1), paths


def two_views(seed, items=800, side=6, nuisance=1.0):
    """Two views, the pairs among the first half of the items and those among the second.

    Items are co-engaged if both halves of their taste agree. Each view shows one half, beside
    as many numbers that mean nothing, all of it rotated.
    """
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(0, side, (items, 2), generator=generator)
    views = {}
    for column, name in enumerate(("text", "image")):
        told = torch.randn(side, 8, generator=generator)[halves[:, column]]
        noise = nuisance * torch.randn(items, 8, generator=generator)
        rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
        views[name] = torch.cat([told, noise], dim=1) @ rotation
    same = (halves.unsqueeze(0) == halves.unsqueeze(1)).all(dim=2).triu(1)
    pairs = same.nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    old = pairs < items // 2
    return views, pairs[old.all(dim=1)], pairs[(~old).all(dim=1)]
