"""R3-VAE: codewords are rated and summed in training, so every one of them learns each step.

An encoder maps a vector to a latent one, ``z``. A learned *reference* direction ``r`` is taken
out of it, ``e_0 = z - <z, r> r``. Level ``l`` *rates* all codewords, ``s_k = cos(e_{l-1}, c_k)``
over a temperature, and in training passes on the residual of their weighted sum,
``q_l = sum_k softmax(s)_k c_k``, ``e_l = e_{l-1} - q_l``: no straight-through estimate, so the
gradient reaches every codeword. Codes are ``argmax_k s_k``. The temperature falls during
training until the weighted sums are the codewords that the codes stand for.

Source: R3-VAE (arXiv 2604.11440). Differs from the source, where it was not seen:

- [derived] what the reference does is a projection; items are rebuilt with the mean component
  along it, ``Dec(sum_l q_l + mean(<z, r>) r)``, so that :meth:`R3VAE.decode` needs codes only;
- [derived] the temperature falls geometrically over four fifths of the steps and then stays;
- [derived] at inference the residual is that of the chosen codeword, ``e_{l-1} - c_k``;
- [derived] Gumbel noise is added to the scores in training. Without it an encoder learns to
  speak in mixtures of codewords, placed ever closer to their borders as it cools: weighted
  sums never become codewords, and long training destroys what a short one had learned. It
  also parts codewords that start equal, whose gradients would be equal for ever;
- [derived] a distortion term, the expected squared distance ``sum_k w_k |e_{l-1} - c_k|^2``,
  draws codewords to what they are rated for; the gradient of the next level's residual does
  not pass through the sum that was taken off it;
- [derived] codewords start from k-means of the encoded vectors; those that start at one point
  part as it cools, as in deterministic annealing (Rose, 1998);
- [derived] the autoencoder begins with the principal components of the vectors, and the
  reference along the last latent axis, where the least is lost;
- [derived] the cohesion regulariser is ``1 - SC`` of the residuals that a level rates, with
  its weights, averaged over the levels; its vectors carry no gradient;
- [derived] the discrimination regulariser is ``softplus(margin - PD)`` of the weighted sums;
- [derived] Adam, its step fading at the end, ReLU networks, one shift and one scale for the
  data.

Shapes: ``V`` items, ``D`` width of a vector, ``d`` of a latent one, ``N`` levels, ``K_l`` codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._autoencoder import Autoencoder, Network
from sidrank.tokenizers._descriptions import as_json, described
from sidrank.tokenizers._epochs import Training, run_epochs, untouched
from sidrank.tokenizers._inputs import as_codes, as_pairs, as_vectors
from sidrank.tokenizers._mlp import exact_linear
from sidrank.tokenizers._r3_vae_step import (
    R3VAELosses,
    R3VAERating,
    R3VAEStep,
    project,
    rate,
)
from sidrank.tokenizers._residual_codebooks import sample_latents, start_codebooks, summed
from sidrank.tokenizers._state import taken_over
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.k_means import nearest
from sidrank.tokenizers.protocol import Progress

__all__ = ["R3VAE", "R3VAELosses", "R3VAERating"]


class R3VAE:
    """Reference-anchored, rated residual autoencoder tokenizer.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``.
        network: Sizes of the encoder; the decoder mirrors it.
        rating: How sharply codewords are chosen, and where they start.
        losses: Weights of the losses.
        training: How long and how fast to train.
        seed: Seed of all sampling.

    The four descriptions may also be given as dictionaries of their attributes, which is what
    :attr:`arguments` holds.

    Raises:
        ValueError: If there is no level, a size is less than 1, the latent width is less than
            2, or ``seed`` is negative.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> tokenizer = R3VAE(levels=(2, 2), training=Training(epochs=300)).fit(x)
        >>> tokenizer.encode(x)[:, 0].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
        True
    """

    def __init__(
        self,
        *,
        levels: Sequence[int] = (256, 256, 256),
        network: Network | Mapping[str, Any] | None = None,
        rating: R3VAERating | Mapping[str, Any] | None = None,
        losses: R3VAELosses | Mapping[str, Any] | None = None,
        training: Training | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.levels = tuple(levels)
        self.network = described(Network, network)
        self.rating = described(R3VAERating, rating)
        self.losses = described(R3VAELosses, losses)
        self.training = described(Training, training)
        self.seed = seed
        if self.network.latent < 2:
            raise ValueError(f"network.latent must be at least 2, got {self.network.latent}")
        self._autoencoder: Autoencoder | None = None
        self._reference = torch.empty(0)
        self._component = torch.empty(0)
        self._codebooks: list[Tensor] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
            "network": as_json(self.network),
            "rating": as_json(self.rating),
            "losses": as_json(self.losses),
            "training": as_json(self.training),
            "seed": self.seed,
        }

    def fit(
        self,
        x: Tensor | NDArray[Any],
        *,
        weights: Tensor | NDArray[Any] | None = None,
        pairs: Tensor | NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the encoder, the reference, the codebooks and the decoder together.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32.
            weights: Must be None: every item counts the same.
            pairs: Rows of co-engaged items, shape ``[P, 2]``; needs a discrimination loss.
            progress: Told of every codebook started and every epoch.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37; if
                ``weights`` are given, or ``pairs`` that the losses have no use for; or if
                the loss does not stay finite.
        """
        x = as_vectors(x)
        if x.numel() == 0:
            raise ValueError(f"x must hold at least one number, got {list(x.shape)}")
        if weights is not None:
            raise ValueError("weights must be None for R3VAE, got some")
        joined = as_pairs(pairs, len(x))
        if joined is not None and self.losses.discrimination == 0:
            raise ValueError("pairs must be None if losses.discrimination is 0, got some")
        with untouched(x.device):
            self._learn(x, joined, progress)
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Encode vectors and choose the codeword of highest cosine, level by level.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``; ties go to the lowest.

        Raises:
            NotFittedError: If it has not learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        autoencoder = self._fitted()
        x = as_vectors(x, width=autoencoder.width)
        reference = self._reference.to(x.device).double()
        keep = torch.eye(len(reference)).to(reference) - torch.outer(reference, reference)
        books = [book.to(x.device) for book in self._codebooks]
        units = [_units(book) for book in books]
        codes = torch.empty(len(x), len(self.levels), dtype=torch.int32, device=x.device)
        for rows, latents in autoencoder.to(x.device).latents(x):
            residual = exact_linear(latents.double(), keep, torch.zeros_like(reference)).float()
            for level, book in enumerate(books):
                # of unit vectors, the nearest has the highest cosine
                indices = nearest(_units(residual), units[level])[0]
                codes[rows, level] = indices.int()
                residual = residual - book[indices]
        return codes

    def decode(self, codes: Tensor | NDArray[Any]) -> Tensor:
        """Rebuild vectors from the sums of their codewords.

        Args:
            codes: Codes, shape ``[n, N]``, any integer dtype.

        Returns:
            Vectors, shape ``[n, D]``, float32, on the device of ``codes``.

        Raises:
            NotFittedError: If it has not learned yet.
            TypeError: If ``codes`` are not integers.
            ValueError: If ``codes`` has another number of levels or leaves a codebook.
        """
        autoencoder = self._fitted()
        codes = as_codes(codes, self.levels)
        anchor = (self._component * self._reference).to(codes.device)
        return autoencoder.to(codes.device).rebuild(summed(codes, self._codebooks) + anchor)

    def soft_hard_gap(self, x: Tensor | NDArray[Any]) -> float:
        """Measure how far the weighted sums of training are from the codewords of inference.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Mean distance between the two sums over all levels, at the coldest temperature,
            as a share of the mean length of the latter. Cool further if it is not small.

        Raises:
            NotFittedError: If it has not learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        autoencoder = self._fitted()
        x = as_vectors(x, width=autoencoder.width)
        here = autoencoder.to(x.device)
        hard = summed(self.encode(x), self._codebooks)
        apart = 0.0
        for rows, latents in here.latents(x):
            residual = project(latents, self._reference.to(x.device))
            soft = torch.zeros_like(residual)
            for book in self._codebooks:
                codewords = book.to(x.device)
                chosen = rate(residual, codewords, self.rating.cold) @ codewords
                soft, residual = soft + chosen, residual - chosen
            apart += float((soft - hard[rows]).norm(dim=1).sum())
        return apart / max(float(hard.norm(dim=1).sum()), 1e-30)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learned.

        Returns:
            ``shift`` and ``scale`` of the vectors, ``encoder.*``, ``decoder.*``, the unit
            ``reference``, the mean ``component`` along it, and ``codebooks.0`` to
            ``codebooks.{N-1}``, float32.

        Raises:
            NotFittedError: If it has not learned yet.
        """
        state = self._fitted().state()
        state |= {"reference": self._reference, "component": self._component}
        state |= {f"codebooks.{level}": book for level, book in enumerate(self._codebooks)}
        return {name: tensor.clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take what another tokenizer with the same arguments has learned.

        Args:
            state: What :meth:`state_dict` returned.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a tensor is missing, unknown, not float32, not finite, or of
                another shape.
        """
        latent = self.network.latent
        books = {f"codebooks.{level}": [size, latent] for level, size in enumerate(self.levels)}
        shapes = Autoencoder.shapes(state, self.network)
        shapes |= {"reference": [latent], "component": [1], **books}
        taken = taken_over(state, shapes)
        self._autoencoder = Autoencoder.of_state(taken, self.network)
        self._reference, self._component = taken["reference"], taken["component"]
        self._codebooks = [taken[name] for name in books]
        return self

    def _learn(self, x: Tensor, pairs: Tensor | None, progress: Progress | None) -> None:
        rng = np.random.default_rng(self.seed)
        autoencoder = Autoencoder.untrained(x, self.network, rng)
        reference = torch.eye(self.network.latent, device=x.device)[-1]
        latents = sample_latents(x, autoencoder, self.levels, self.seed)
        books = start_codebooks(
            project(latents, F.normalize(reference, dim=0)),
            self.levels,
            noise=self.rating.start_noise,
            seed=self.seed,
            progress=progress,
        )
        seed = int(rng.integers(2**62))
        step = R3VAEStep(autoencoder, reference, books, self.rating, self.losses, seed)
        run_epochs(
            x,
            pairs,
            training=self.training,
            networks=[*autoencoder.parameters(), reference],
            codewords=books,
            codeword_step=self.rating.step,
            loss_of=step,
            rng=rng,
            progress=progress,
        )
        unit = F.normalize(reference.detach(), dim=0)
        trained = autoencoder.to(x.device)
        component = sum(float((z @ unit).double().sum()) for _, z in trained.latents(x)) / len(x)
        self._autoencoder = trained.to("cpu")
        self._reference = unit.cpu()
        self._component = torch.tensor([component], dtype=torch.float32)
        self._codebooks = [book.detach().cpu() for book in books]

    def _fitted(self) -> Autoencoder:
        if self._autoencoder is None:
            raise NotFittedError("R3VAE must be fitted or loaded first, got no codebooks")
        return self._autoencoder


def _units(rows: Tensor) -> Tensor:
    """Rows of length one; a running sum has the same order of additions for any batch."""
    wide = rows.double()
    lengths = wide.square().cumsum(dim=1)[:, -1:].sqrt()
    return (wide / torch.where(lengths > 0, lengths, 1.0)).float()
