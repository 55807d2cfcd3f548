r"""Codes of all levels at once, from one state of an item: no level waits for another.

Residual quantisation takes level ``l`` from what the levels before left over, so one wrong code
spoils all that follow. Here each level has a head of its own on the same item vector,
``z^l = f_l(h)`` and ``s^l = argmax_k z^l_k``, and what a level means is taught: items that share
a category of depth ``l`` are its positives. The categories are nested, ``P_1 ⊇ P_2 ⊇ P_3``, so
codes go from coarse to fine.

Three losses: ``L_sid`` on the logits of each level, ``L_emb`` (:func:`sidrank.losses.info_nce`)
on the item vector, ``L_rec`` on a summary; ``L = L_sid + L_emb + 0.1 L_rec``. The argmax has no
gradient: a model that is trained through the codes takes :meth:`ParallelSIDHead.soft_codes`.

Source: UniSID, arXiv 2602.10445. Differs from the source:

- [derived] any item tower in place of the multimodal language model; the heads are linear, or
  have one hidden layer;
- [derived] ``L_rec`` there predicts the words of a summary that a language model wrote; here it
  is the cosine to a cached text embedding of such a summary, nothing more;
- [derived] all other items of the batch are candidates of ``L_sid``; temperature 0.1;
- an item without positive in the batch, or of unknown category (-1), is a candidate only.

Shapes: ``B`` items, ``D`` width of an item vector, ``N`` levels, ``K_l`` codes, ``S`` width of
a summary's embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sidrank import _check
from sidrank.losses import multi_positive_info_nce
from sidrank.tokenizers._drawn_weights import draw_linear_layers

__all__ = [
    "ParallelSIDHead",
    "SummaryEmbeddingReconstruction",
    "UniSIDWeights",
    "nested_categories",
    "sid_loss",
]


class ParallelSIDHead(nn.Module):
    """A head per level on top of any item tower.

    Args:
        dim: Width ``D`` of the item vector.
        levels: Codebook sizes ``K_1, ..., K_N``.
        hidden: Width of a hidden layer in each head; None makes the heads linear.

    Raises:
        ValueError: If a size is less than 1, or there is no level.

    Example:
        >>> head = ParallelSIDHead(dim=8, levels=(4, 4, 16))
        >>> [list(z.shape) for z in head(torch.randn(2, 8))]
        [[2, 4], [2, 4], [2, 16]]
        >>> head.codes(torch.randn(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, *, dim: int, levels: Sequence[int], hidden: int | None = None) -> None:
        super().__init__()
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        for name, size in (("dim", dim), ("hidden", hidden)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.levels = tuple(levels)
        self.heads = nn.ModuleList(_head(dim, size, hidden) for size in self.levels)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew.

        Args:
            generator: Where they come from, on the CPU; None is the global one.
        """
        draw_linear_layers(self, generator)

    def forward(self, h: Tensor) -> list[Tensor]:
        """Compute the logits of each level.

        Args:
            h: Item vectors, shape ``[B, D]``.

        Returns:
            ``z^1, ..., z^N``, each of shape ``[B, K_l]``.

        Raises:
            ValueError: If ``h`` does not have shape ``[B, D]``.
        """
        h = _check.shape(h, "h", [-1, self.dim])
        return [head(h) for head in self.heads]

    def codes(self, h: Tensor) -> Tensor:
        """Take the code with the largest logit at each level.

        Matrix products of a module depend in their last bits on the size of the batch: to
        publish codes, use :class:`~sidrank.tokenizers.UniSID`, whose codes do not.

        Args:
            h: Item vectors, shape ``[B, D]``.

        Returns:
            Codes, shape ``[B, N]``, int32.
        """
        return torch.stack([z.argmax(dim=1) for z in self(h)], dim=1).int()

    def soft_codes(self, h: Tensor, *, temperature: float = 1.0) -> list[Tensor]:
        """Weigh the codes of each level, with gradient: the argmax has none.

        Args:
            h: Item vectors, shape ``[B, D]``.
            temperature: What logits are divided by; towards 0 the weights become codes.

        Returns:
            Weights that sum to one, each level of shape ``[B, K_l]``.

        Raises:
            ValueError: If the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        return [(z / temperature).softmax(dim=1) for z in self(h)]

    def usage(self, codes: Tensor) -> list[float]:
        """Tell how evenly codes are used: near ``1/K`` a level has collapsed.

        Args:
            codes: Codes of many items, shape ``[V, N]``.

        Returns:
            Perplexity of each level over its ``K_l``, within (0, 1].

        Raises:
            ValueError: If there is no item, or the shape does not fit.
        """
        codes = _check.shape(codes, "codes", [-1, len(self.levels)])
        if len(codes) == 0:
            raise ValueError("codes must hold at least one item, got 0")
        found: list[float] = []
        for level, size in enumerate(self.levels):
            shares = codes[:, level].long().bincount(minlength=size) / len(codes)
            found.append(float(torch.special.entr(shares).sum().exp()) / size)
        return found


class SummaryEmbeddingReconstruction(nn.Module):
    """Predicts the cached text embedding of an item's summary from its codes and its vector.

    It holds the codes to what the item is about. No words are generated or read: the summary
    is a vector that some text encoder made once.

    Args:
        dim: Width ``D`` of the item vector.
        levels: Codebook sizes ``K_1, ..., K_N``.
        summary_dim: Width ``S`` of the summary's embedding.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If a size is less than 1, or there is no level.

    Example:
        >>> rec = SummaryEmbeddingReconstruction(dim=8, levels=(4, 4), summary_dim=3)
        >>> h, z = torch.randn(2, 8), [torch.randn(2, 4), torch.randn(2, 4)]
        >>> rec(h, z, torch.randn(2, 3)).shape
        torch.Size([])
    """

    def __init__(
        self, *, dim: int, levels: Sequence[int], summary_dim: int, hidden: int = 128
    ) -> None:
        super().__init__()
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        for name, size in (("dim", dim), ("summary_dim", summary_dim), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.levels = tuple(levels)
        self.summary_dim = summary_dim
        self.predictor = _head(dim + sum(self.levels), summary_dim, hidden)
        draw_linear_layers(self, None)

    def predict(self, h: Tensor, logits: list[Tensor]) -> Tensor:
        """Predict the embeddings of the summaries.

        Args:
            h: Item vectors, shape ``[B, D]``.
            logits: What :class:`ParallelSIDHead` returned, each level of shape ``[B, K_l]``.

        Returns:
            Vectors, shape ``[B, S]``; only their direction means something.

        Raises:
            ValueError: If a shape does not fit.
        """
        parts = [_check.shape(h, "h", [-1, self.dim])]
        for level, size in enumerate(self.levels):
            z = _check.shape(logits[level], "logits", [h.shape[0], size])
            parts.append(z.softmax(dim=1))
        return self.predictor(torch.cat(parts, dim=1))

    def forward(self, h: Tensor, logits: list[Tensor], summaries: Tensor) -> Tensor:
        """Compute the loss, one minus the cosine; an item with a summary of zeros has none.

        Args:
            h: Item vectors, shape ``[B, D]``.
            logits: What :class:`ParallelSIDHead` returned, each level of shape ``[B, K_l]``.
            summaries: Cached embeddings of the summaries, shape ``[B, S]``; zeros if unknown.

        Returns:
            Mean over the items with a summary, shape ``[]``; 0 if there are none.

        Raises:
            ValueError: If a shape does not fit.
        """
        wanted = _check.shape(summaries, "summaries", [h.shape[0], self.summary_dim])
        known = (wanted != 0).any(dim=1)
        cosine = F.cosine_similarity(self.predict(h, logits).float(), wanted.float(), dim=1)
        return ((1 - cosine) * known).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class UniSIDWeights:
    """Weights of the three losses; one that is 0 gives no gradient.

    Attributes:
        sid: Of :func:`sid_loss`.
        embedding: Of InfoNCE on the item vector.
        reconstruction: Of :class:`SummaryEmbeddingReconstruction`.
    """

    sid: float = 1.0
    embedding: float = 1.0
    reconstruction: float = 0.1

    def __post_init__(self) -> None:
        weights = (self.sid, self.embedding, self.reconstruction)
        if not all(0 <= weight < torch.inf for weight in weights):
            raise ValueError(f"weights of losses must be finite and at least 0, got {weights}")

    def total(
        self,
        *,
        sid: Tensor | None = None,
        embedding: Tensor | None = None,
        reconstruction: Tensor | None = None,
    ) -> Tensor:
        """Add the losses up.

        Args:
            sid: ``L_sid``, shape ``[]``.
            embedding: ``L_emb``, shape ``[]``.
            reconstruction: ``L_rec``, shape ``[]``.

        Returns:
            The weighted sum, shape ``[]``.

        Raises:
            ValueError: If a loss with a weight is missing, or all are.

        Example:
            >>> parts = [torch.tensor(x) for x in (1.0, 2.0, 10.0)]
            >>> UniSIDWeights().total(sid=parts[0], embedding=parts[1], reconstruction=parts[2])
            tensor(4.)
        """
        total: Tensor | None = None
        for name, loss in (
            ("sid", sid),
            ("embedding", embedding),
            ("reconstruction", reconstruction),
        ):
            weight: float = getattr(self, name)
            if loss is None and weight > 0:
                raise ValueError(f"{name} must be given if its weight is not 0, got None")
            if loss is not None:
                total = weight * loss if total is None else total + weight * loss
        if total is None:
            raise ValueError("one loss or more must be given, got none")
        return total


def sid_loss(logits: Sequence[Tensor], categories: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""Compute ``L_sid``: at level ``l``, items of one category path of depth ``l`` are positives.

    .. math::  \frac{1}{N} \sum_l -\frac{1}{|P_l|} \sum_{p \in P_l}
        \log \frac{\exp(\cos(z^l_i, z^l_p) / \tau)}{\sum_{a \neq i} \exp(\cos(z^l_i, z^l_a) / \tau)}

    Positives are nested whatever the ids are: a category counts only where all categories above
    it agree. :func:`nested_categories` refuses ids for which that makes a difference.

    Args:
        logits: ``z^1, ..., z^N``, each of shape ``[B, K_l]``.
        categories: Category ids, coarse to fine, shape ``[B, N]``; -1 from the level on where
            the category is unknown.
        temperature: What cosines are divided by.

    Returns:
        Mean over the levels, shape ``[]``. An item without positive at a level adds nothing
        there, and a level without any is 0.

    Raises:
        ValueError: If a shape does not fit, categories are not integers, or the temperature
            is not positive.
    """
    rows = categories.shape[0]
    paths = _check.integer(_check.shape(categories, "categories", [-1, len(logits)]), "categories")
    same = torch.ones(rows, rows, dtype=torch.bool, device=paths.device)
    losses: list[Tensor] = []
    for level, z in enumerate(logits):
        own = paths[:, level]
        same = same & (own.unsqueeze(0) == own.unsqueeze(1)) & (own >= 0).unsqueeze(1)
        losses.append(multi_positive_info_nce(z, same, temperature=temperature))
    return torch.stack(losses).mean()


def nested_categories(
    categories: Tensor | NDArray[Any] | Sequence[Sequence[int]],
) -> Tensor:
    """Check that category paths are the paths of one tree.

    Args:
        categories: Category ids, coarse to fine, shape ``[V, N]``; -1 where unknown.

    Returns:
        The ids as int64, shape ``[V, N]``, on their device.

    Raises:
        TypeError: If they are not integers.
        ValueError: If the shape is another one, an id is below two others, a known id is below
            an unknown one, or an id is less than -1.

    Example:
        >>> nested_categories(np.array([[0, 3], [0, 4], [1, 3]]))
        Traceback (most recent call last):
        ...
        ValueError: categories must be nested, got 3 of level 1 below 0 (row 0) and 1 (row 2)
    """
    if not isinstance(categories, Tensor):
        rows = np.array(categories)
        if rows.dtype.kind not in "iu":  # torch knows no strings
            raise TypeError(f"categories must be integers, got {rows.dtype}")
        categories = torch.from_numpy(rows)
    paths = categories
    if paths.is_floating_point() or paths.is_complex() or paths.dtype == torch.bool:
        raise TypeError(f"categories must be integers, got {paths.dtype}")
    if paths.dim() != 2 or paths.shape[1] == 0:
        raise ValueError(f"categories must have shape [V, N], got {list(paths.shape)}")
    ids = paths.detach().cpu().numpy()
    if ids.size and ids.min() < -1:
        raise ValueError(f"categories must be at least -1, got {ids.min()}")
    for level in range(1, ids.shape[1]):
        _below_one(ids[:, level], ids[:, level - 1], level)
    return paths.long()


def _below_one(own: NDArray[Any], above: NDArray[Any], level: int) -> None:
    known = (own >= 0).nonzero()[0]
    orphans = known[above[known] < 0]
    if len(orphans):
        raise ValueError(
            "categories must be unknown below an unknown one, "
            f"got {own[orphans[0]]} of level {level} in row {orphans[0]}"
        )
    _, first, number = np.unique(own[known], return_index=True, return_inverse=True)
    parent = above[known[first]][number]
    torn = (parent != above[known]).nonzero()[0]
    if len(torn):
        row, other = known[torn[0]], known[first[number[torn[0]]]]
        raise ValueError(
            f"categories must be nested, got {own[row]} of level {level} "
            f"below {above[other]} (row {other}) and {above[row]} (row {row})"
        )


def _head(inputs: int, outputs: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
