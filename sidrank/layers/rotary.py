r"""Rotary position embedding (RoPE): attention scores that depend on distance alone.

Pairs of channels of queries and keys turn by an angle proportional to their position, so that the
product of a query at ``p`` and a key at ``q`` is a function of ``p - q``.

Source: Su et al., RoFormer, arXiv 2104.09864, section 3.2.2, in the layout that pairs channel
``i`` with channel ``i + d/2``.

Shapes: ``B`` rows, ``H`` heads, ``T`` tokens, ``d`` width of a head.
"""

import torch
from torch import Tensor, nn

from sidrank import _check

__all__ = ["RotaryEmbedding", "Turns"]

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of each position, ``[T, d/2]`` or ``[B, 1, T, d/2]`` each."""


class RotaryEmbedding(nn.Module):
    r"""Turn queries or keys by their positions.

    .. math::  x_i \cos(p\,\theta_i) - x_{i + d/2} \sin(p\,\theta_i), \qquad
        x_{i + d/2} \cos(p\,\theta_i) + x_i \sin(p\,\theta_i), \qquad \theta_i = b^{-2i/d}

    Args:
        head_dim: Width ``d`` of a head, even.
        base: ``b``; the slowest pair turns once in about :math:`2 \pi b` places.

    Raises:
        ValueError: If ``head_dim`` is odd or less than two, or ``base`` is not above one.

    Example:
        >>> rotary = RotaryEmbedding(head_dim=4)
        >>> rotary(torch.ones(2, 1, 3, 4), torch.arange(3)).shape
        torch.Size([2, 1, 3, 4])
    """

    def __init__(self, *, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim must be even and at least 2, got {head_dim}")
        if not base > 1.0:
            raise ValueError(f"base must be above 1, got {base}")
        self.head_dim = head_dim
        self.base = base

    def turns(self, positions: Tensor) -> Turns:
        """The angles of some positions, to be made once for many layers.

        Args:
            positions: Integers or floats, shape ``[T]`` or ``[B, T]``.

        Returns:
            What ``forward`` takes in their place, float32.
        """
        return _angles(positions, self.head_dim // 2, self.base, torch.float32)

    def forward(self, x: Tensor, positions: Tensor | Turns) -> Tensor:
        """Turn.

        Args:
            x: Queries or keys, shape ``[B, H, T, d]``.
            positions: Their positions, shape ``[T]`` or ``[B, T]``, or the ``turns`` of them.

        Returns:
            Shape ``[B, H, T, d]``, in the dtype of ``x``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, -1, -1, self.head_dim])
        return _turn(x, positions, self.base)


@torch.fx.wrap
def _angles(positions: Tensor, half: int, base: float, dtype: torch.dtype) -> Turns:
    # float64: at position 50,000 a float32 angle is wrong in the third digit. The frequencies are
    # made here, since a buffer would come back empty from the meta device
    places = torch.arange(half, device=positions.device, dtype=torch.float64)
    angles = positions.double().unsqueeze(-1) * base ** (-places / half)
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@torch.fx.wrap
def _turn(x: Tensor, positions: Tensor | Turns, base: float) -> Tensor:
    half = x.shape[3] // 2
    if isinstance(positions, Tensor) and positions.shape[-1] != x.shape[2]:
        raise ValueError(f"positions must be {x.shape[2]} a row, got {positions.shape[-1]}")
    # a rounded angle is a wrong place: half precision turns in float32 and is rounded after
    wide = torch.promote_types(x.dtype, torch.float32)
    turns = _angles(positions, half, base, wide) if isinstance(positions, Tensor) else positions
    cosine, sine = turns
    left, right = x[..., :half], x[..., half:]
    turned = torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=3)
    return turned.to(x.dtype)
