"""What an RQ-VAE learns from one batch: its losses and its step.

Shapes: ``B`` items of a step, ``Q`` pairs, ``d`` width of a latent vector, ``K`` codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sidrank.losses import two_way_info_nce
from sidrank.tokenizers._autoencoder import Autoencoder
from sidrank.tokenizers._epochs import Batch
from sidrank.tokenizers._residual_codebooks import MovingCodebook

__all__ = ["RQVAELosses", "RQVAEStep"]


@dataclass(frozen=True, slots=True)
class RQVAELosses:
    """Weights of what is added to the squared error of the rebuilt vector.

    Attributes:
        commitment: Weight of ``|r_{l-1} - stop(mu_{l,c_l})|^2``, summed over the levels.
        diversity: Weight of ``log K`` minus the entropy of the mean soft assignment.
        contrastive: Weight of InfoNCE on the pairs, if ``fit`` is given pairs.
        temperature: Temperature of InfoNCE.
    """

    commitment: float = 0.25
    diversity: float = 0.0
    contrastive: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        weights = (self.commitment, self.diversity, self.contrastive)
        if not all(0 <= weight < torch.inf for weight in weights):
            raise ValueError(f"weights of losses must be finite and at least 0, got {weights}")
        if not 0 < self.temperature < torch.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")


class RQVAEStep:
    """Computes the loss of a batch, and lets the codebooks take note of it.

    Args:
        autoencoder: What encodes and decodes.
        books: The learned levels.
        losses: Weights of the losses.
    """

    def __init__(
        self, autoencoder: Autoencoder, books: Sequence[MovingCodebook], losses: RQVAELosses
    ) -> None:
        self.autoencoder = autoencoder
        self.books = books
        self.losses = losses

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the loss.

        Args:
            batch: Vectors and pairs of a step.

        Returns:
            The loss, shape ``[]``.
        """
        x = self.autoencoder.standardise(batch.x)
        latents = self.autoencoder.encoder(x)
        quantised, penalty = self.quantise(latents)
        straight = latents + (quantised - latents).detach()
        loss = F.mse_loss(self.autoencoder.decoder(straight), x) + penalty
        if batch.pairs is not None and batch.paired is not None:
            paired = self.autoencoder.encoder(self.autoencoder.standardise(batch.paired))
            contrast = two_way_info_nce(
                *paired, temperature=self.losses.temperature, pairs=batch.pairs
            )
            loss = loss + self.losses.contrastive * contrast
        return loss

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Assign codes level by level.

        Args:
            latents: Encoded vectors, shape ``[B, d]``.

        Returns:
            Sums of their codewords, shape ``[B, d]``, without gradient, and the losses of the
            codebooks, shape ``[]``.
        """
        residual, total = latents, torch.zeros_like(latents)
        penalty = latents.new_zeros(())
        for book in self.books:
            # what is observed moves the codewords, so the gradient must not hold on to them
            codewords = book.codewords.clone()
            distances = _squared_distances(residual, codewords)
            codes = distances.detach().argmin(dim=1)
            chosen = codewords[codes]
            if book.by_gradient:
                penalty = penalty + F.mse_loss(chosen, residual.detach())
            penalty = penalty + self.losses.commitment * F.mse_loss(residual, chosen.detach())
            if self.losses.diversity > 0:
                share = self.losses.diversity / len(self.books)
                penalty = penalty + share * _missing_entropy(distances)
            book.observe(residual.detach(), codes)
            total = total + chosen.detach()
            residual = residual - chosen.detach()
        return total, penalty


def _squared_distances(residual: Tensor, codewords: Tensor) -> Tensor:
    lengths = residual.square().sum(dim=1, keepdim=True) + codewords.square().sum(dim=1)
    return lengths - 2 * residual @ codewords.T


def _missing_entropy(distances: Tensor) -> Tensor:
    """``log K`` minus the entropy of the mean soft assignment."""
    scale = distances.detach().amin(dim=1).mean().clamp(min=1e-6)
    mean = (-distances / scale).softmax(dim=1).mean(dim=0)
    return torch.special.entr(mean).sum().neg() + math.log(len(mean))
