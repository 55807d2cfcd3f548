"""The encoder and the decoder around a quantiser, shared by the tokenizers that learn both.

Both are multilayer perceptrons with ReLU between the layers, and begin as the principal
components of the vectors: from random weights, a thousand steps would rebuild worse.

Vectors are first shifted to mean zero and scaled by one number to mean square one, so that
learning rates and loss weights mean the same for any data, and angles and ratios of distances
stay what they were. Training computes in float32; what is published (latent vectors for codes,
rebuilt vectors) comes from exact sums, the same for any batch and any number of threads
(``_mlp.py``).

Shapes: ``V`` items, ``D`` width of a vector, ``d`` width of a latent vector.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sidrank.tokenizers._mlp import MLP

__all__ = ["Autoencoder", "Network", "blocks"]

_BLOCK = 1 << 20  # float64 numbers in the widest layer of one block: 8 MiB


@dataclass(frozen=True, slots=True)
class Network:
    """Sizes of an encoder; the decoder has the same in reverse.

    Attributes:
        hidden: Widths of the hidden layers; none makes both linear.
        latent: Width ``d`` of the vectors that are quantised.
    """

    hidden: tuple[int, ...] = (128,)
    latent: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON makes it a list
        if min((*self.hidden, self.latent)) < 1:
            raise ValueError(
                f"hidden and latent must be at least 1, got {self.hidden} and {self.latent}"
            )


class Autoencoder:
    """A shift, a scale, an encoder and a decoder.

    Args:
        shift: What is subtracted from a vector, shape ``[D]``, float32.
        scale: What it is then divided by, shape ``[1]``, float32.
        encoder: Standardised vectors ``[n, D]`` to latent ones ``[n, d]``.
        decoder: Latent vectors back to standardised ones.
    """

    def __init__(self, shift: Tensor, scale: Tensor, encoder: MLP, decoder: MLP) -> None:
        self.shift = shift
        self.scale = scale
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def untrained(cls, x: Tensor, network: Network, rng: np.random.Generator) -> "Autoencoder":
        """Begin with the principal components of ``x`` and random units beside them.

        Args:
            x: Vectors, shape ``[V, D]``, float32.
            network: Its sizes.
            rng: Where the weights come from.

        Returns:
            The autoencoder, on the device of ``x``.
        """
        shift, scale = _moments(x)
        widths = (x.shape[1], *network.hidden, network.latent)
        encoder, decoder = MLP.random(widths, rng), MLP.random(widths[::-1], rng)
        size = min(x.shape[1], network.latent, *(width // 2 for width in network.hidden))
        components = _components(x, shift, scale, size) * network.latent**0.5
        if components.numel():
            chosen = torch.eye(network.latent, size)
            encoder.carry(components, chosen)
            decoder.carry(chosen.T, components.T / components.square().sum(dim=1))
        return cls(shift, scale, encoder, decoder).to(x.device)

    @property
    def width(self) -> int:
        """Width ``D`` of the vectors."""
        return len(self.shift)

    def to(self, device: torch.device | str) -> "Autoencoder":
        """Return it elsewhere, without gradients.

        Args:
            device: Where.

        Returns:
            An autoencoder of its own tensors if they are there already, of copies if not.
        """
        shift, scale = self.shift.to(device), self.scale.to(device)
        return Autoencoder(shift, scale, self.encoder.to(device), self.decoder.to(device))

    def parameters(self) -> list[Tensor]:
        """List what is trained.

        Returns:
            Weights and biases of the encoder and the decoder.
        """
        found = (self.encoder.tensors("encoder") | self.decoder.tensors("decoder")).values()
        return list(found)

    def standardise(self, x: Tensor) -> Tensor:
        """Shift and scale vectors, as training sees them.

        Args:
            x: Vectors, shape ``[n, D]``, float32.

        Returns:
            The standardised vectors, float32.
        """
        return (x - self.shift) / self.scale

    def latents(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Encode vectors exactly, block by block.

        Args:
            x: Vectors, shape ``[n, D]``, float32.

        Yields:
            Rows, and their latent vectors, shape ``[rows, d]``, float32.
        """
        for rows in blocks(len(x), self._widest()):
            standard = (x[rows].double() - self.shift.double()) / self.scale.double()
            yield rows, self.encoder.exact(standard).float()

    def rebuild(self, latents: Tensor) -> Tensor:
        """Decode latent vectors exactly.

        Args:
            latents: Latent vectors, shape ``[n, d]``, float32.

        Returns:
            Vectors, shape ``[n, D]``, float32.
        """
        vectors = latents.new_empty(len(latents), self.width)
        for rows in blocks(len(latents), self._widest()):
            standard = self.decoder.exact(latents[rows].double())
            vectors[rows] = (standard * self.scale.double() + self.shift.double()).float()
        return vectors

    def state(self) -> dict[str, Tensor]:
        """List its tensors by name.

        Returns:
            ``shift``, ``scale``, ``encoder.*`` and ``decoder.*``.
        """
        nets = self.encoder.tensors("encoder") | self.decoder.tensors("decoder")
        return {"shift": self.shift, "scale": self.scale} | nets

    @staticmethod
    def shapes(state: Mapping[str, Tensor], network: Network) -> dict[str, list[int]]:
        """Tell which tensors an autoencoder of some sizes has.

        Args:
            state: Tensors by name; the width is that of ``shift``.
            network: The sizes.

        Returns:
            The shape of each tensor of :meth:`state`.
        """
        shift = state.get("shift")
        width = shift.numel() if shift is not None else 1
        widths = (max(1, width), *network.hidden, network.latent)
        shapes = {"shift": [widths[0]], "scale": [1]}
        for name, sizes in (("encoder", widths), ("decoder", widths[::-1])):
            for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
                shapes[f"{name}.{layer}.weight"] = [outputs, inputs]
                shapes[f"{name}.{layer}.bias"] = [outputs]
        return shapes

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], network: Network) -> "Autoencoder":
        """Take the tensors of another one of the same sizes.

        Args:
            state: What :meth:`state` returned, checked; other names in it are left alone.
            network: The sizes.

        Returns:
            The autoencoder; its tensors are those of ``state``.
        """
        layers = range(len(network.hidden) + 1)
        nets = [
            MLP(
                [state[f"{name}.{layer}.weight"] for layer in layers],
                [state[f"{name}.{layer}.bias"] for layer in layers],
            )
            for name in ("encoder", "decoder")
        ]
        return cls(state["shift"], state["scale"], *nets)

    def _widest(self) -> int:
        return max(max(weight.shape) for weight in self.encoder.weights)


def blocks(length: int, width: int) -> Iterator[slice]:
    """Cut rows into slices of bounded size.

    Args:
        length: Number of rows.
        width: Numbers in the widest row.

    Returns:
        The slices.
    """
    rows = max(1, _BLOCK // width)
    return (slice(start, start + rows) for start in range(0, length, rows))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each column, and the root of the mean square around them (1 if that is zero)."""
    mean = x.new_zeros(x.shape[1], dtype=torch.float64)
    for rows in blocks(*x.shape):
        mean += x[rows].double().sum(dim=0) / len(x)
    shift = mean.float()
    square = 0.0
    for rows in blocks(*x.shape):
        square += float((x[rows].double() - shift.double()).square().mean(dim=1).sum()) / len(x)
    scale = torch.tensor([square**0.5], dtype=torch.float32, device=x.device)
    return shift, torch.where(scale > 0, scale, 1.0)


def _components(x: Tensor, shift: Tensor, scale: Tensor, size: int) -> Tensor:
    """Principal components, shape ``[size, D]``, so long that the square sum they give is 1."""
    moments = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows in blocks(*x.shape):
        standard = (x[rows].double() - shift.double()) / scale.double()
        moments += standard.T @ standard / len(x)
    variances, vectors = torch.linalg.eigh(moments.cpu())
    variance = variances[len(variances) - size :].clamp(min=0).sum()
    length = torch.where(variance > 0, variance.rsqrt(), 1.0)
    return (vectors.T.flip(0)[:size] * length).float()
