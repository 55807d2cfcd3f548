"""Train a fusion of item views on co-engaged pairs, and compute the vectors of all items.

``fit_fusion`` teaches a :class:`~sidrank.tokenizers.MultimodalFusion` that items used together
are close and the other items of the batch are not (InfoNCE, in both directions);
``embed_views`` then gives one vector an item, for any tokenizer::

    fusion = MultimodalFusion(widths={"text": 384, "image": 512})
    vectors = embed_views(fit_fusion(fusion, views, pairs), views)
    codes = RQKMeans().fit(vectors).encode(vectors)

Source: OxygenREC, arXiv 2512.22386. Differs from the source:

- [derived] Adam; temperature 0.1; neither a copy of the partner nor another partner of an item
  in the batch is a negative;
- [derived] vectors are scaled to length one: InfoNCE teaches their direction alone, and a
  tokenizer would spend codes on their length;
- the alignment of views is off until it is asked for.

Shapes: ``V`` items, ``T_v`` tokens of a view, ``D_v`` their width, ``P`` pairs, ``Q`` pairs of a
step, ``D`` width of an item vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.losses import two_way_info_nce
from sidrank.tokenizers._descent import descend
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers._exact_fusion import exact_fusion
from sidrank.tokenizers._inputs import as_pairs
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion
from sidrank.tokenizers.protocol import Progress

__all__ = ["FusionLosses", "embed_views", "fit_fusion"]

_BLOCK = 1 << 18  # float64 numbers of the projected tokens of one block: 2 MiB
_LARGEST = 1e37  # sums of larger numbers can overflow float32

Views = Mapping[str, Tensor | NDArray[Any]]


@dataclass(frozen=True, slots=True)
class FusionLosses:
    """What is lowered.

    Attributes:
        temperature: What cosines are divided by.
        alignment: Weight of InfoNCE between the mean projected tokens of every two views of
            an item, over the items that have both.
    """

    temperature: float = 0.1
    alignment: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < torch.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.alignment < torch.inf:
            raise ValueError(f"alignment must be finite and at least 0, got {self.alignment}")


def fit_fusion(
    fusion: MultimodalFusion,
    views: Views,
    pairs: Tensor | NDArray[Any],
    *,
    masks: Views | None = None,
    losses: FusionLosses | None = None,
    training: Training | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MultimodalFusion:
    """Train a fusion from scratch: its weights are drawn anew.

    The same views, pairs, arguments and number of threads give the same weights. Global random
    states are neither read nor changed.

    Args:
        fusion: What is trained, in place, on the device of the views.
        views: Every view by name, shape ``[V, D_v]`` or ``[V, T_v, D_v]``, floating.
        pairs: Rows of co-engaged items, shape ``[P, 2]``. Items without a pair do no harm.
        masks: What is there, by name of the view, shape ``[V]`` or ``[V, T_v]``, bool; a view
            that has none is there for every item.
        losses: What is lowered; None is InfoNCE on the pairs at temperature 0.1.
        training: How long and how fast; None is 20 epochs of the pairs in batches of 512.
        seed: Seed of weights and of the order of pairs.
        progress: Told after every epoch.

    Returns:
        The fusion itself.

    Raises:
        ValueError: If a shape does not fit, a number that is there is not within ±1e37, an
            item has nothing at all, there is no pair, or the loss does not stay finite.
        TypeError: If the pairs are not integers.
    """
    losses = FusionLosses() if losses is None else losses
    training = Training(epochs=20, batch_size=512) if training is None else training
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    tokens, there = _whole(fusion, views, masks)
    device = next(iter(tokens.values())).device
    joined = as_pairs(pairs, len(next(iter(tokens.values()))))
    if joined is None:
        raise ValueError("pairs must be given, got None")
    joined = joined.to(device)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(rows: Tensor) -> Tensor:
        both = joined[rows]
        items = both.T.flatten()
        batch = {name: view[items].float() for name, view in tokens.items()}
        present = {name: mask[items] for name, mask in there.items()}
        read = {name: fusion.view(name, batch, present) for name in fusion.widths}
        vectors = fusion.read(
            *(torch.cat(parts, dim=1) for parts in zip(*read.values(), strict=True))
        )
        left, right = vectors.chunk(2)
        loss = two_way_info_nce(left, right, temperature=losses.temperature, pairs=both)
        if losses.alignment > 0:
            for one, other in combinations(read.values(), 2):
                aligned = two_way_info_nce(
                    _mean(*one),
                    _mean(*other),
                    temperature=losses.temperature,
                    pairs=torch.stack([items, items], dim=1),
                    valid=one[1].any(dim=1) & other[1].any(dim=1),
                )
                loss = loss + losses.alignment * aligned
        return loss

    fusion.reset_parameters(generator)
    descend(
        fusion.parameters(),
        len(joined),
        loss_of,
        training=training,
        generator=generator,
        progress=progress,
    )
    return fusion


def embed_views(fusion: MultimodalFusion, views: Views, *, masks: Views | None = None) -> Tensor:
    """Compute item vectors, each the same alone or in a batch of any size, on any threads.

    Args:
        fusion: The module, on the device of the views.
        views: Every view by name, shape ``[V, D_v]`` or ``[V, T_v, D_v]``, floating.
        masks: What is there, by name of the view, shape ``[V]`` or ``[V, T_v]``, bool; a view
            that has none is there for every item.

    Returns:
        Unit vectors, shape ``[V, D]``, float32.

    Raises:
        ValueError: If a shape does not fit, a number that is there is not within ±1e37, or an
            item has nothing at all.
    """
    tokens, there = _whole(fusion, views, masks)
    rows = len(next(iter(tokens.values())))
    count = sum(mask.shape[1] for mask in there.values()) + len(fusion.queries)
    widest = max(fusion.dim, fusion.hidden_in.out_features, *fusion.widths.values())
    step = max(1, _BLOCK // (count * widest))
    device = fusion.queries.device
    vectors = torch.empty(rows, fusion.dim, dtype=torch.float32, device=device)
    with torch.no_grad():
        for start in range(0, rows, step):
            part = slice(start, start + step)
            block = [view[part] for view in tokens.values()]
            vectors[part] = exact_fusion(fusion, block, [m[part] for m in there.values()]).float()
    return vectors


def _whole(
    fusion: MultimodalFusion, views: Views, masks: Views | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All views as tokens and their masks, checked, in the order of ``fusion.widths``."""
    given = {name: _tensor(view) for name, view in views.items()}
    known = None if masks is None else {name: _tensor(mask) for name, mask in masks.items()}
    tokens: dict[str, Tensor] = {}
    there: dict[str, Tensor] = {}
    for name, (view, mask) in fusion.checked(given, known).items():
        if view.device != fusion.queries.device:
            raise ValueError(
                f"views must be on the device of the fusion, {fusion.queries.device}, "
                f"got {name!r} on {view.device}"
            )
        bad = (mask & ~(view.abs() <= _LARGEST).all(dim=2)).any(dim=1).nonzero()
        if len(bad):
            raise ValueError(
                f"views[{name!r}] must be finite and within ±1e37 where it is there, "
                f"got another number in row {int(bad[0])}"
            )
        tokens[name], there[name] = view, mask
    empty = (~torch.cat(list(there.values()), dim=1).any(dim=1)).nonzero()
    if len(empty):
        raise ValueError(
            f"masks must leave every item one token or more, got none in row {int(empty[0])}"
        )
    return tokens, there


def _mean(tokens: Tensor, there: Tensor) -> Tensor:
    """Mean of the tokens that are there, ``[B, D]``."""
    count = there.sum(dim=1, keepdim=True).clamp(min=1)
    return (tokens * there.unsqueeze(2)).sum(dim=1) / count


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    # torch warns of read-only arrays and refuses reversed ones: these are copied
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))
