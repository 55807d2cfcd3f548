"""Residual-quantised autoencoder: the space that is quantised is learned with the codebooks.

An encoder maps vectors to latent ones, ``z = E(x)``; with ``r_0 = z``, level ``l`` takes
``c_l = argmin_k |r_{l-1} - mu_{l,k}|`` and passes on ``r_l = r_{l-1} - mu_{l,c_l}``; a decoder
rebuilds ``x`` from the sum of the codewords. The gradient passes straight through the
quantiser. Each part of the recipe can be switched off, so that its effect can be measured:

- moving averages: ``n_k <- g n_k + (1 - g) N_k``, ``m_k <- g m_k + (1 - g) sum x``,
  ``mu_k = m_k / n_k``; without them codewords follow the gradient of
  ``|stop(r_{l-1}) - mu_{l,c_l}|^2``;
- dead-code reset: a codeword unused for some steps moves to a residual of the batch;
- k-means start, or a start of so much noise around one point;
- diversity: the entropy of the mean soft assignment of a batch, at most ``log K``;
- contrastive: co-engaged items are closer than the other items of the batch (InfoNCE);
- random last levels: their codes are drawn uniformly instead of learned.

Source: GR2 (arXiv 2602.07774) for the recipe, TIGER (arXiv 2305.05065) for the residual
autoencoder. Differs from the source, where it was silent:

- [derived] a random code is a function of the vector's float32 bits and the seed, frozen that
  way: the same vector always gets the same code, and equal vectors still collide;
- [derived] a random level has no codebook, and :meth:`RQVAE.decode` leaves it out;
- [derived] the soft assignment of the diversity loss is a softmax of ``-|r - mu|^2`` over the
  batch's mean of the least of them; levels are averaged;
- [derived] the contrastive loss compares cosines of ``z``, before quantisation, in both
  directions; neither another copy of the positive item nor another partner of the item is a
  negative;
- [derived] the autoencoder begins with the principal components of the vectors, so with a
  k-means start it begins where residual k-means ends;
- [derived] Adam, its step fading at the end, ReLU networks, one shift and one scale for the
  data.

Shapes: ``V`` items, ``D`` width of a vector, ``d`` of a latent one, ``N`` levels, ``K_l`` codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._autoencoder import Autoencoder, Network
from sidrank.tokenizers._descriptions import as_json, described
from sidrank.tokenizers._epochs import Training, run_epochs, untouched
from sidrank.tokenizers._inputs import as_codes, as_pairs, as_vectors
from sidrank.tokenizers._residual_codebooks import (
    MovingCodebook,
    RQVAECodebook,
    sample_latents,
    start_codebooks,
    summed,
)
from sidrank.tokenizers._rq_vae_step import RQVAELosses, RQVAEStep
from sidrank.tokenizers._state import taken_over
from sidrank.tokenizers._vector_codes import vector_codes
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.k_means import nearest
from sidrank.tokenizers.protocol import Progress

__all__ = ["RQVAE", "RQVAECodebook", "RQVAELosses"]


class RQVAE:
    """Residual-quantised autoencoder tokenizer.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``.
        network: Sizes of the encoder; the decoder mirrors it.
        codebook: How codewords start, move and are drawn.
        losses: Weights of the losses.
        training: How long and how fast to train.
        seed: Seed of all sampling.

    The four descriptions may also be given as dictionaries of their attributes, which is what
    :attr:`arguments` holds.

    Raises:
        ValueError: If there is no level, a size is less than 1, every level would be random,
            or ``seed`` is negative.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> tokenizer = RQVAE(levels=(2, 2), training=Training(epochs=300)).fit(x)
        >>> tokenizer.encode(x)[:, 0].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
        True
    """

    def __init__(
        self,
        *,
        levels: Sequence[int] = (256, 256, 256),
        network: Network | Mapping[str, Any] | None = None,
        codebook: RQVAECodebook | Mapping[str, Any] | None = None,
        losses: RQVAELosses | Mapping[str, Any] | None = None,
        training: Training | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.levels = tuple(levels)
        self.network = described(Network, network)
        self.codebook = described(RQVAECodebook, codebook)
        self.losses = described(RQVAELosses, losses)
        self.training = described(Training, training)
        self.seed = seed
        if self.codebook.random_last_m >= len(self.levels):
            raise ValueError(
                f"random_last_m must be less than the {len(self.levels)} levels, "
                f"got {self.codebook.random_last_m}"
            )
        self._autoencoder: Autoencoder | None = None
        self._codebooks: list[Tensor] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
            "network": as_json(self.network),
            "codebook": as_json(self.codebook),
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
        """Learn the encoder, the codebooks and the decoder together.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32.
            weights: Must be None: every item counts the same.
            pairs: Rows of co-engaged items, shape ``[P, 2]``; needs a contrastive loss.
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
            raise ValueError("weights must be None for RQVAE, got some")
        joined = as_pairs(pairs, len(x))
        if joined is not None and self.losses.contrastive == 0:
            raise ValueError("pairs must be None if losses.contrastive is 0, got some")
        with untouched(x.device):
            self._autoencoder, self._codebooks = self._learn(x, joined, progress)
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Encode vectors and quantise greedily, level by level; ties go to the lowest code.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``.

        Raises:
            NotFittedError: If it has not learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        autoencoder = self._fitted()
        x = as_vectors(x, width=autoencoder.width)
        here = autoencoder.to(x.device)
        books = [book.to(x.device) for book in self._codebooks]
        codes = torch.empty(len(x), len(self.levels), dtype=torch.int32, device=x.device)
        for rows, residual in here.latents(x):
            for level, book in enumerate(books):
                indices = nearest(residual, book)[0]
                codes[rows, level] = indices.int()
                residual = residual - book[indices]
        for level in range(len(books), len(self.levels)):
            drawn = vector_codes(x, size=self.levels[level], seed=(self.seed, level))
            codes[:, level] = drawn.int()
        return codes

    def decode(self, codes: Tensor | NDArray[Any]) -> Tensor:
        """Rebuild vectors from the sums of their codewords; random levels add nothing.

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
        return autoencoder.to(codes.device).rebuild(summed(codes, self._codebooks))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learned.

        Returns:
            ``shift`` and ``scale`` of the vectors, ``encoder.*``, ``decoder.*``, and
            ``codebooks.0`` to ``codebooks.{N-M-1}``, float32; random levels have none.

        Raises:
            NotFittedError: If it has not learned yet.
        """
        books = {f"codebooks.{level}": book for level, book in enumerate(self._codebooks)}
        state = self._fitted().state() | books
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
        books = {
            f"codebooks.{level}": [size, self.network.latent]
            for level, size in enumerate(self._learned_levels())
        }
        taken = taken_over(state, Autoencoder.shapes(state, self.network) | books)
        self._autoencoder = Autoencoder.of_state(taken, self.network)
        self._codebooks = [taken[name] for name in books]
        return self

    def _learned_levels(self) -> tuple[int, ...]:
        return self.levels[: len(self.levels) - self.codebook.random_last_m]

    def _learn(
        self, x: Tensor, pairs: Tensor | None, progress: Progress | None
    ) -> tuple[Autoencoder, list[Tensor]]:
        rng = np.random.default_rng(self.seed)
        autoencoder = Autoencoder.untrained(x, self.network, rng)
        start = start_codebooks(
            sample_latents(x, autoencoder, self._learned_levels(), self.seed),
            self._learned_levels(),
            noise=self.codebook.start_noise,
            seed=self.seed,
            progress=progress,
        )
        books = [MovingCodebook(codewords, self.codebook, rng) for codewords in start]
        run_epochs(
            x,
            pairs,
            training=self.training,
            networks=autoencoder.parameters(),
            codewords=[book.codewords for book in books if book.by_gradient],
            codeword_step=self.codebook.step,
            loss_of=RQVAEStep(autoencoder, books, self.losses),
            rng=rng,
            progress=progress,
        )
        return autoencoder.to("cpu"), [book.codewords.detach().cpu() for book in books]

    def _fitted(self) -> Autoencoder:
        if self._autoencoder is None:
            raise NotFittedError("RQVAE must be fitted or loaded first, got no codebooks")
        return self._autoencoder
