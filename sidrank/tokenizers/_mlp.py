"""Layers with ReLU between them, and what they give computed the same for any batch.

A published code must not depend on the batch that an item was encoded in, and a matrix product
in floating point does: its additions are reordered with its shape and its threads. Here both
factors are first rounded to integers of so few bits that every product and every partial sum
is an integer below 2^53. Float64 holds those exactly, so any order gives the same bits, on any
number of threads, with or without fused multiply-add.

The price is a relative rounding of about 2^-23 of the largest number of a row (for up to 128
inputs), which is what float32 rounds to.

Shapes: ``n`` rows, ``D`` inputs, ``H`` outputs, ``m`` numbers carried through.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MLP", "exact_linear"]

_SIGNIFICAND = 53  # bits of an integer that float64 holds exactly


class MLP:
    """Linear layers with ReLU between them.

    Args:
        weights: One matrix ``[H, D]`` per layer, float32.
        biases: One vector ``[H]`` per layer, float32.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.biases = list(biases)

    @classmethod
    def random(cls, widths: Sequence[int], rng: np.random.Generator) -> "MLP":
        """Draw weights as He et al. (2015) do, biases zero.

        Args:
            widths: Width of the input and of each layer.
            rng: Where the numbers come from.

        Returns:
            The network, on the CPU.
        """
        weights: list[Tensor] = []
        for inputs, outputs in pairwise(widths):
            drawn = rng.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)
            weights.append(torch.from_numpy(drawn.astype(np.float32)))
        return cls(weights, [w.new_zeros(len(w)) for w in weights])

    def carry(self, first: Tensor, last: Tensor) -> None:
        """Make it begin as the linear map ``last @ first``.

        As ``v = relu(v) - relu(-v)``, a number passes hidden layers in a pair of units. Units
        beyond the pairs stay random, and the outputs do not see them until they learn to.

        Args:
            first: What the first layer computes, shape ``[m, D]``; hidden layers must have
                ``2m`` units or more.
            last: What the last layer makes of it, shape ``[H, m]``.
        """
        size = 2 * len(first)
        if len(self.weights) == 1:
            self.weights[0][:] = last @ first
            return
        self.weights[0][:size] = torch.cat([first, -first])
        for weight in self.weights[1:-1]:
            weight[:size] = torch.eye(size, weight.shape[1])
        self.weights[-1].zero_()
        self.weights[-1][:, :size] = torch.cat([last, -last], dim=1)

    def to(self, device: torch.device | str) -> "MLP":
        """Return it elsewhere, without gradients.

        Args:
            device: Where.

        Returns:
            A network of its own weights if it is there already, of copies if not.
        """
        weights = [weight.detach().to(device) for weight in self.weights]
        return MLP(weights, [bias.detach().to(device) for bias in self.biases])

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layers in float32, with gradients.

        Args:
            x: Rows, shape ``[n, D]``, float32.

        Returns:
            Outputs, shape ``[n, H]``, float32.
        """
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(F.relu(x) if layer else x, weight, bias)
        return x

    def exact(self, x: Tensor) -> Tensor:
        """Apply the layers so that a row's output does not depend on the other rows.

        Args:
            x: Rows, shape ``[n, D]``, float64.

        Returns:
            Outputs, shape ``[n, H]``, float64.
        """
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = exact_linear(F.relu(x) if layer else x, weight, bias)
        return x

    def tensors(self, name: str) -> dict[str, Tensor]:
        """List the weights and biases under the names of a state.

        Args:
            name: First part of the names.

        Returns:
            ``{name}.{layer}.weight`` and ``{name}.{layer}.bias``.
        """
        found: dict[str, Tensor] = {}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found |= {f"{name}.{layer}.weight": weight, f"{name}.{layer}.bias": bias}
        return found


def exact_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``x @ weight.T + bias``, each row a function of that row alone.

    Args:
        x: Rows, shape ``[n, D]``, float64.
        weight: Weights, shape ``[H, D]``.
        bias: Biases, shape ``[H]``.

    Returns:
        Outputs, shape ``[n, H]``, float64.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> exact_linear(x, torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
        tensor([[11.5000]], dtype=torch.float64)
    """
    # D products of numbers below 2^left and 2^right are below 2^53 together
    bits = _SIGNIFICAND - (x.shape[1] - 1).bit_length()
    rows, row_unit = _integers(x, bits // 2)
    columns, column_unit = _integers(weight.double(), bits - bits // 2)
    return (rows @ columns.T) * row_unit * column_unit.T + bias.double()


def _integers(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round each row to integers of at most ``2**bits`` times a power of two."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    mantissa, _ = torch.frexp(largest)
    # largest = mantissa * 2^e, so the quotient is exactly 2^e
    power = torch.where(largest > 0, largest / mantissa, 1.0)
    unit = power * 2.0**-bits
    return (rows / unit).round(), unit
