r"""SwiGLU: the feed-forward layer of the decoder blocks.

Source: Shazeer, arXiv 2002.05202, FFN_SwiGLU; no biases, as there.

Shapes: ``D`` width.
"""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SwiGLU"]


class SwiGLU(nn.Module):
    r"""Two layers, the first of them gated.

    .. math::  (\mathrm{SiLU}(x W_g) \odot x W_u)\, W_o

    Args:
        dim: Width ``D`` in and out.
        hidden: Width between the layers.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> import torch
        >>> SwiGLU(dim=4, hidden=8)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        for name, size in {"dim": dim, "hidden": hidden}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers.

        Args:
            x: Shape ``[..., D]``.

        Returns:
            Shape ``[..., D]``.
        """
        return self.out(functional.silu(self.gate(x)) * self.up(x))
