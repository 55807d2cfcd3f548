"""What an R3-VAE learns from one batch: its rating, its losses and its step.

Shapes: ``B`` items of a step, ``Q`` pairs, ``d`` width of a latent vector, ``K`` codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sidrank.semantic_ids.cohesion import preference_discrimination
from sidrank.tokenizers._autoencoder import Autoencoder
from sidrank.tokenizers._epochs import Batch

__all__ = ["R3VAELosses", "R3VAERating", "R3VAEStep", "project", "rate"]

_COOLED = 0.8  # share of the steps after which the temperature has reached its end
_SMALLEST_PAIRS = 1e-3  # with less soft weight than this, a codeword has no pairs to compare
_ENCODER_SHARE = 0.25  # of the distortion's gradient, next to what codewords see


@dataclass(frozen=True, slots=True)
class R3VAERating:
    """How sharply a vector chooses among the codewords, and where these start.

    Attributes:
        hot: Temperature of the first step.
        cold: Temperature of the last fifth of the steps; between them it falls geometrically.
        step: Learning rate of the codewords, as a multiple of the networks'.
        noise: Gumbel noise on the scores in training, in temperatures; 0 for none.
        start_noise: None starts from k-means of the encoded vectors. A number starts every
            codeword at their mean plus normal noise, so many times their root mean square.
    """

    hot: float = 0.05
    cold: float = 0.002
    step: float = 2.0
    noise: float = 1.0
    start_noise: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.cold <= self.hot < torch.inf:
            raise ValueError(
                f"temperatures must satisfy 0 < cold <= hot, got {self.cold} and {self.hot}"
            )
        if not 0 < self.step < torch.inf:
            raise ValueError(f"step must be positive and finite, got {self.step}")
        if not 0 <= self.noise < torch.inf:
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")
        if self.start_noise is not None and not 0 <= self.start_noise < torch.inf:
            raise ValueError(f"start_noise must be at least 0 or None, got {self.start_noise}")
        if self.noise == 0 == self.start_noise:
            raise ValueError("start_noise must be positive if noise is 0, got 0")

    def temperature(self, elapsed: float) -> float:
        """Tell the temperature of a step.

        Args:
            elapsed: Share of the steps that are over.

        Returns:
            The temperature.
        """
        return self.hot * (self.cold / self.hot) ** min(1.0, elapsed / _COOLED)


@dataclass(frozen=True, slots=True)
class R3VAELosses:
    """Weights of what is added to the squared error of the rebuilt vector.

    Attributes:
        distortion: Weight of the expected squared distance ``|e - c|^2`` of a residual from a
            codeword that is drawn by its rating; the encoder sees a quarter of it.
        cohesion: Weight of one minus the soft Semantic Cohesion.
        discrimination: Weight of ``softplus(margin - PD)`` with the soft Preference
            Discrimination ``PD``, if ``fit`` is given pairs.
        margin: Where that loss begins to fade.
    """

    distortion: float = 1.0
    cohesion: float = 0.01
    discrimination: float = 0.1
    margin: float = 0.5

    def __post_init__(self) -> None:
        weights = (self.distortion, self.cohesion, self.discrimination)
        if not all(0 <= weight < torch.inf for weight in weights):
            raise ValueError(f"weights of losses must be finite and at least 0, got {weights}")
        if not -torch.inf < self.margin < torch.inf:
            raise ValueError(f"margin must be finite, got {self.margin}")


class R3VAEStep:
    """Computes the loss of a batch.

    Args:
        autoencoder: What encodes and decodes.
        reference: Direction that is not quantised, shape ``[d]``, of any length.
        books: Codewords of the levels, shape ``[K, d]`` each.
        rating: How sharply they are chosen.
        losses: Weights of the losses.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        reference: Tensor,
        books: Sequence[Tensor],
        rating: R3VAERating,
        losses: R3VAELosses,
        seed: int,
    ) -> None:
        self.autoencoder = autoencoder
        self.reference = reference
        self.books = books
        self.rating = rating
        self.losses = losses
        self._generator = torch.Generator(reference.device).manual_seed(seed)

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the loss.

        Args:
            batch: Vectors and pairs of a step.

        Returns:
            The loss, shape ``[]``.
        """
        temperature = self.rating.temperature(batch.elapsed)
        unit = F.normalize(self.reference, dim=0)
        x = self.autoencoder.standardise(batch.x)
        latents = self.autoencoder.encoder(x)
        quantised, rated = self.quantise(project(latents, unit), temperature)
        level = (latents @ unit).mean() * unit
        loss = F.mse_loss(self.autoencoder.decoder(quantised + level), x)
        if not loss.isfinite():  # the training loop says so better than a metric could
            return loss
        for (residual, weights), book in zip(rated, self.books, strict=True):
            loss = loss + self.penalty(residual, weights, book)
        if batch.paired is not None:
            paired = self.autoencoder.encoder(self.autoencoder.standardise(batch.paired))
            both, _ = self.quantise(project(paired.flatten(0, 1), unit), temperature)
            if not both.isfinite().all():
                return both.sum()
            left = torch.arange(len(both) // 2, device=both.device)
            joined = torch.stack([left, left + len(left)], dim=1)
            found = preference_discrimination(torch.cat([both, quantised]), joined)
            loss = loss + self.losses.discrimination * F.softplus(self.losses.margin - found)
        return loss

    def quantise(
        self, residual: Tensor, temperature: float
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Sum the softly chosen codewords of all levels.

        Args:
            residual: Projected latent vectors, shape ``[B, d]``.
            temperature: How softly.

        Returns:
            The sums, shape ``[B, d]``; and for each level the residuals that it rated, shape
            ``[B, d]``, and the weights of its codewords, shape ``[B, K]``.
        """
        total = torch.zeros_like(residual)
        rated: list[tuple[Tensor, Tensor]] = []
        for book in self.books:
            weights = rate(residual, book, temperature, noise=self._noise(residual, book))
            rated.append((residual, weights))
            chosen = weights @ book
            total = total + chosen
            residual = residual - chosen.detach()
        return total, rated

    def penalty(self, residual: Tensor, weights: Tensor, book: Tensor) -> Tensor:
        """Add up the regularisers of one level.

        Args:
            residual: Residuals that it rated, shape ``[B, d]``.
            weights: Weights of its codewords, shape ``[B, K]``.
            book: Its codewords, shape ``[K, d]``.

        Returns:
            Distortion and cohesion loss, weighted, shape ``[]``.
        """
        penalty = residual.new_zeros(())
        if self.losses.distortion > 0:
            fixed = weights.detach()
            distortion = _distortion(residual.detach(), book, fixed)
            distortion = distortion + _ENCODER_SHARE * _distortion(residual, book.detach(), fixed)
            penalty = penalty + self.losses.distortion * distortion
        if self.losses.cohesion > 0:
            # residuals without gradient: they could agree by shrinking to one direction
            cohesion = _soft_cohesion(residual.detach(), weights)
            penalty = penalty + self.losses.cohesion / len(self.books) * (1 - cohesion)
        return penalty

    def _noise(self, residual: Tensor, codewords: Tensor) -> Tensor | None:
        """Gumbel noise, the fastest way: ``-log(-log(u))`` of uniform numbers."""
        if self.rating.noise == 0:
            return None
        drawn = residual.new_empty(len(residual), len(codewords))
        drawn.uniform_(generator=self._generator).clamp_(min=1e-30)
        return drawn.log_().neg_().log_().mul_(-self.rating.noise)


def rate(
    residual: Tensor, codewords: Tensor, temperature: float, *, noise: Tensor | None = None
) -> Tensor:
    """Rate every codeword by its cosine.

    Args:
        residual: Residuals, shape ``[B, d]``.
        codewords: Codewords, shape ``[K, d]``.
        temperature: What cosines are divided by.
        noise: What is then added, shape ``[B, K]``.

    Returns:
        Weights, shape ``[B, K]``; each row sums to one.
    """
    cosines = F.normalize(residual, dim=1) @ F.normalize(codewords, dim=1).T
    scores = cosines / temperature
    return (scores if noise is None else scores + noise).softmax(dim=1)


def project(latents: Tensor, unit: Tensor) -> Tensor:
    """Take a direction out of vectors.

    Args:
        latents: Vectors, shape ``[B, d]``.
        unit: The direction, shape ``[d]``, length one.

    Returns:
        The vectors without it, shape ``[B, d]``.
    """
    return latents - (latents @ unit).unsqueeze(1) * unit


def _distortion(residual: Tensor, codewords: Tensor, weights: Tensor) -> Tensor:
    """Mean over items, codewords by weight, and numbers, of the squared differences."""
    squares = residual.square().sum(dim=1).mean()
    squares = squares + weights.mean(dim=0) @ codewords.square().sum(dim=1)
    products = (residual * (weights @ codewords)).sum(dim=1).mean()
    return (squares - 2 * products) / residual.shape[1]


def _soft_cohesion(residual: Tensor, weights: Tensor) -> Tensor:
    """``semantic_cohesion`` in float32: a regulariser of every step can do without float64."""
    units = F.normalize(residual, dim=1)
    cosines = (weights.T @ units).square().sum(dim=1) - weights.square().sum(dim=0)
    pairs = weights.sum(dim=0).square() - weights.square().sum(dim=0)
    counted = pairs > _SMALLEST_PAIRS
    return (cosines[counted] / pairs[counted]).sum() / counted.sum().clamp(min=1)
