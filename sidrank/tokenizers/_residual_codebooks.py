"""Codebooks that learn while an encoder learns to be quantised by them.

Level ``l`` assigns a residual to its nearest codeword and passes on the difference. Codewords
move by exponential moving averages of what was assigned to them, or, without, by gradients.

Shapes: ``B`` items of a step, ``d`` width, ``K`` codes of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidrank.tokenizers._autoencoder import Autoencoder
from sidrank.tokenizers.k_means import k_means, nearest
from sidrank.tokenizers.protocol import Progress

__all__ = [
    "MovingCodebook",
    "RQVAECodebook",
    "sample_latents",
    "start_codebooks",
    "summed",
]

_START_ITERATIONS = 10
_START_SAMPLE = 1 << 14
_SAMPLES_PER_CODE = 32


def sample_latents(x: Tensor, autoencoder: Autoencoder, levels: Sequence[int], seed: int) -> Tensor:
    """Encode a sample of vectors that is large enough to start codebooks from.

    Args:
        x: Vectors, shape ``[V, D]``, float32.
        autoencoder: What encodes them.
        levels: Codebook sizes.
        seed: Seed of the sample.

    Returns:
        Latent vectors, shape ``[n, d]``, ``n <= V``.
    """
    size = min(len(x), max(_START_SAMPLE, _SAMPLES_PER_CODE * max(levels)))
    rows = np.sort(np.random.default_rng(seed).choice(len(x), size, replace=False))
    sample = x[torch.from_numpy(rows).to(x.device)]
    return torch.cat([latents for _, latents in autoencoder.latents(sample)])


def start_codebooks(
    latents: Tensor,
    levels: Sequence[int],
    *,
    noise: float | None,
    seed: int,
    progress: Progress | None,
) -> list[Tensor]:
    """Choose the codewords that training starts from, level by level.

    Args:
        latents: Latent vectors to start from, shape ``[n, d]``, float32.
        levels: Codebook sizes.
        noise: None takes the centroids of k-means on the residuals. A number puts every
            codeword on their mean and adds normal noise, so many times their root mean square.
        seed: Seed of the sampling.
        progress: Told after every level.

    Returns:
        Codebooks, one per level, shape ``[K, d]``.
    """
    residual = latents
    codebooks: list[Tensor] = []
    for level, size in enumerate(levels):
        if noise is None:
            book = k_means(
                residual, num_codes=size, iterations=_START_ITERATIONS, seed=[seed, level]
            )
        else:
            book = residual.mean(dim=0) + noise * _normal(residual, size, [seed, level])
        codebooks.append(book)
        residual = residual - book[nearest(residual, book)[0]]
        if progress is not None:
            progress("first codebooks", level + 1, len(levels))
    return codebooks


def summed(codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Add up the codewords of each item.

    Args:
        codes: Codes, shape ``[n, N]``; levels beyond the codebooks are left out.
        codebooks: One codebook per level, shape ``[K, d]``.

    Returns:
        Latent vectors, shape ``[n, d]``, float32, on the device of ``codes``.
    """
    total = codebooks[0].new_zeros(len(codes), codebooks[0].shape[1], device=codes.device)
    for level, book in enumerate(codebooks):
        total += book.to(codes.device)[codes[:, level].long()]
    return total


@dataclass(frozen=True, slots=True)
class RQVAECodebook:
    """How codewords start, move and are drawn.

    Attributes:
        ema: Share of the moving averages that a step keeps, ``g``; None moves codewords by
            gradients.
        step: Learning rate of codewords without ``ema``, as a multiple of the networks'.
        reset_after: Steps without use after which a codeword moves to a residual of the
            batch; None lets it be.
        start_noise: None starts from k-means of the encoded vectors. A number starts every
            codeword at their mean plus normal noise, so many times their root mean square.
        random_last_m: Number of last levels whose codes are drawn and not learned.
    """

    ema: float | None = 0.99
    step: float = 1.0
    reset_after: int | None = 100
    start_noise: float | None = None
    random_last_m: int = 0

    def __post_init__(self) -> None:
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be within [0, 1) or None, got {self.ema}")
        if not 0 < self.step < torch.inf:
            raise ValueError(f"step must be positive and finite, got {self.step}")
        if self.reset_after is not None and self.reset_after < 1:
            raise ValueError(f"reset_after must be at least 1 or None, got {self.reset_after}")
        if self.start_noise is not None and not 0 <= self.start_noise < torch.inf:
            raise ValueError(f"start_noise must be at least 0 or None, got {self.start_noise}")
        if self.random_last_m < 0:
            raise ValueError(f"random_last_m must be at least 0, got {self.random_last_m}")


class MovingCodebook:
    """The codewords of one level in training.

    Args:
        codewords: First codewords, shape ``[K, d]``; changed in place.
        settings: How they move.
        rng: Where the vectors for dead codewords are drawn from.
    """

    def __init__(
        self, codewords: Tensor, settings: RQVAECodebook, rng: np.random.Generator
    ) -> None:
        self.codewords = codewords
        self.by_gradient = settings.ema is None
        self.idle = torch.zeros(len(codewords), dtype=torch.int64, device=codewords.device)
        self._decay = settings.ema
        self._reset_after = settings.reset_after
        self._rng = rng
        self._counts = torch.ones_like(codewords[:, 0])
        self._sums = codewords.detach().clone()

    def observe(self, residual: Tensor, codes: Tensor) -> None:
        """Take note of a step's assignments, and move the codewords.

        Args:
            residual: What the level was given, shape ``[B, d]``.
            codes: What it assigned, shape ``[B]``.
        """
        with torch.no_grad():
            counts = codes.bincount(minlength=len(self.codewords))
            used = counts > 0
            if self._decay is not None:
                new = torch.zeros_like(self._sums).index_add_(0, codes, residual)
                self._counts.lerp_(counts.to(self._counts), 1 - self._decay)
                self._sums.lerp_(new, 1 - self._decay)
                # n and m of an unused codeword shrink together: their ratio stays
                self.codewords[used] = self._sums[used] / self._counts[used].unsqueeze(1)
            self.idle = torch.where(used, 0, self.idle + 1)
            if self._reset_after is not None:
                self._reset(self.idle >= self._reset_after, residual)

    def _reset(self, dead: Tensor, residual: Tensor) -> None:
        rows = dead.nonzero().squeeze(1)
        if not len(rows):
            return
        drawn = self._rng.permutation(len(residual))
        drawn = torch.from_numpy(np.resize(drawn, len(rows))).to(residual.device)
        self.codewords[rows] = residual[drawn]
        self._sums[rows] = residual[drawn]
        self._counts[rows] = 1.0
        self.idle[rows] = 0


def _normal(residual: Tensor, size: int, seed: Sequence[int]) -> Tensor:
    """Normal vectors as long as the residuals are, shape ``[K, d]``."""
    drawn = np.random.default_rng(seed).standard_normal((size, residual.shape[1]))
    scale = residual.square().mean().sqrt()
    return torch.from_numpy(drawn).to(residual) * scale
