r"""Search a long history by the first code of a semantic ID.

Behaviours that share the target's first code are alike by construction, and finding them needs no
vector product: a comparison of integers. When too few share it, those of the nearest codes join.
What was found is read beside the short history by two attentions, and a gate mixes them.

Source: GLASS, arXiv 2602.05663, semantic hard search and its neighbour codes; with a generated
code as there, or with the target's own, which a ranker knows (hard search of SIM, arXiv
2006.05639, with the SID for the category).
Differs from the source: codes are near by the Euclidean distance of their codebook vectors, as
K-means has it [derived]; if more than ``k`` match, nearer codes go first, then newer behaviours
[derived]; one gate value a query, which also reads how many were found and which an empty result
shuts [derived].

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``T`` found ones, ``K`` codes of the first
level, ``D`` width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import CrossAttention, _padding
from sidrank.layers._kept_buffers import KeepsBuffers
from sidrank.sequences import selection

__all__ = ["DualCrossAttention", "SemanticHardSearch"]


class SemanticHardSearch(KeepsBuffers):
    """Behaviours with the target's first code, and of near codes when they are few.

    Args:
        codebook: Vectors of the first level, shape ``[K, D]``.
        k: The most behaviours to return.
        min_found: With fewer matches than this, near codes join; 0 is never.
        num_near: How many near codes join.

    Raises:
        ValueError: If the codebook is no matrix of finite numbers, or a number is out of range.

    Example:
        >>> search = SemanticHardSearch(
        ...     codebook=torch.tensor([[0.0], [1.0], [9.0]]), k=5, min_found=2, num_near=1)
        >>> codes, mask = torch.tensor([[2, 0, 1, 2]]), torch.ones(1, 4).bool()
        >>> times, now = torch.tensor([[1, 2, 3, 4]]), torch.tensor([9])
        >>> index, found = search(torch.tensor([[2, 0]]), codes, mask, times, now)
        >>> index[found].tolist()  # two of code 2; one of code 0, so that code 1 joins
        [0, 3, 1, 2]
    """

    near: Tensor

    def __init__(self, *, codebook: Tensor, k: int, min_found: int = 0, num_near: int = 0) -> None:
        super().__init__()
        if codebook.dim() != 2 or codebook.is_meta or not bool(torch.isfinite(codebook).all()):
            raise ValueError(
                f"codebook must be a [K, D] matrix of finite numbers, got {_described(codebook)}"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if min_found < 0:
            raise ValueError(f"min_found must be at least 0, got {min_found}")
        if not 0 <= num_near < len(codebook):
            raise ValueError(f"num_near must be in [0, {len(codebook) - 1}], got {num_near}")
        self.k = k
        self.min_found = min_found
        # the code itself, then its nearest ones; the lower code on a tie
        vectors = codebook.detach().double()
        distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        distances.fill_diagonal_(-1.0)
        nearest = torch.argsort(distances, dim=1, stable=True)[:, : num_near + 1]
        self.register_buffer("near", nearest.contiguous())

    def forward(
        self, code: Tensor, history_codes: Tensor, mask: Tensor, times: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find behaviours.

        Args:
            code: First code of each target, or a generated one, shape ``[B, C]``, int64 or
                int32; -1 finds nothing.
            history_codes: First code of each behaviour, shape ``[B, L]``; -1 is never found.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``. Later behaviours, and those of
                that very instant, are not searched.

        Returns:
            Places in the history, oldest first, shape ``[B, C, T]`` with ``T = min(k, L)``,
            and which of them are real.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
            IndexError: On a CPU, if ``code`` is beyond the codebook.
        """
        code = _check.integer(_check.shape(code, "code", [-1, -1]), "code")
        codes = _check.shape(history_codes, "history_codes", [code.shape[0], -1])
        codes = _check.integer(codes, "history_codes")
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [codes.shape[0], codes.shape[1]])
        wanted = self.near[code.clamp(min=0)]  # [B, C, near]
        wanted = torch.where(code.unsqueeze(2) >= 0, wanted, -1)
        found = known & (codes >= 0)
        match = found.unsqueeze(1).unsqueeze(3) & (
            codes.unsqueeze(1).unsqueeze(3) == wanted.unsqueeze(2)
        )  # [B, C, L, near]
        own = match[:, :, :, 0]
        few = own.sum(dim=2, keepdim=True) < self.min_found
        chosen = own | (few & match.any(dim=3))
        closeness = -torch.argmax(match.to(torch.uint8), dim=3).float()
        return selection.best_by_time(closeness, chosen, times, self.k)

    @staticmethod
    def generated(logits: Tensor) -> Tensor:
        """Read the code to search for from a generator instead of a target.

        Args:
            logits: Scores of the first-level codes, shape ``[B, C, K]``; ``C`` may count beams.

        Returns:
            The best code of each, shape ``[B, C]``, int64.

        Example:
            >>> SemanticHardSearch.generated(torch.tensor([[[0.1, 2.0, 0.3]]]))
            tensor([[1]])
        """
        return logits.argmax(dim=2)


class DualCrossAttention(nn.Module):
    r"""Read the short history and what was found in the long one, and mix the answers.

    .. math::  Z = (1 - g)\, Z_{short} + g\, Z_{ret}, \qquad
        g = \sigma(W_g [Z_{short}; Z_{ret}; \log(1 + n)] + b)

    ``n`` is how many were found; a mean over them cannot tell. Where it is 0, so is ``g``.

    Args:
        dim: Width ``D`` of targets, behaviours and answers.
        num_heads: Attention heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> fuse = DualCrossAttention(dim=8, num_heads=2)
        >>> short, found = torch.randn(2, 4, 8), torch.randn(2, 3, 5, 8)
        >>> some, none = torch.ones(2, 4).bool(), torch.zeros(2, 3, 5).bool()
        >>> fuse(torch.randn(2, 3, 8), short, some, found, none).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, *, dim: int, num_heads: int = 1) -> None:
        super().__init__()
        self.dim = dim
        sizes = {"dim": dim, "query_dim": dim, "key_dim": dim, "num_heads": num_heads}
        self.short = CrossAttention(**sizes)
        self.retrieved = CrossAttention(**sizes)
        self.gate = nn.Linear(2 * dim + 1, 1)

    def forward(
        self,
        target: Tensor,
        short: Tensor,
        short_mask: Tensor,
        retrieved: Tensor,
        retrieved_mask: Tensor,
    ) -> Tensor:
        """Read both histories.

        Args:
            target: Queries, shape ``[B, C, D]``.
            short: Recent behaviours, as many as the caller keeps, shape ``[B, L, D]``.
            short_mask: Which are real, shape ``[B, L]``, bool.
            retrieved: Behaviours found for each target, shape ``[B, C, T, D]``, from
                :func:`~sidrank.sequences.take`.
            retrieved_mask: Which are real, shape ``[B, C, T]``, bool.

        Returns:
            Answers, shape ``[B, C, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        z_short, z_found, gate = self._read(target, short, short_mask, retrieved, retrieved_mask)
        return (1.0 - gate) * z_short + gate * z_found

    def gates(
        self,
        target: Tensor,
        short: Tensor,
        short_mask: Tensor,
        retrieved: Tensor,
        retrieved_mask: Tensor,
    ) -> Tensor:
        """How much of each answer comes from what was found.

        Args:
            target: As in :meth:`forward`.
            short: As in :meth:`forward`.
            short_mask: As in :meth:`forward`.
            retrieved: As in :meth:`forward`.
            retrieved_mask: As in :meth:`forward`.

        Returns:
            ``g``, shape ``[B, C, 1]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._read(target, short, short_mask, retrieved, retrieved_mask)[2]

    def _read(
        self,
        target: Tensor,
        short: Tensor,
        short_mask: Tensor,
        retrieved: Tensor,
        retrieved_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        target = _check.shape(target, "target", [-1, -1, self.dim])
        rows, candidates = target.shape[0], target.shape[1]
        found = _check.shape(retrieved, "retrieved", [rows, candidates, -1, self.dim])
        real = _padding.boolean(
            retrieved_mask, "retrieved_mask", [rows, candidates, found.shape[2]]
        )
        z_short = self.short(target, short, short_mask)
        # each candidate reads what was found for it: candidates become rows
        z_found = self.retrieved(
            target.flatten(0, 1).unsqueeze(1), found.flatten(0, 1), real.flatten(0, 1)
        ).reshape(rows, candidates, self.dim)
        count = real.sum(dim=2, keepdim=True)
        read = torch.cat([z_short, z_found, torch.log1p(count).to(z_found.dtype)], dim=2)
        return z_short, z_found, torch.sigmoid(self.gate(read)) * (count > 0)


def _described(x: Tensor) -> str:
    if x.is_meta:
        return "a meta tensor"
    bad = int((~torch.isfinite(x)).sum())
    return f"shape {list(x.shape)} with {bad} numbers that are not finite"
