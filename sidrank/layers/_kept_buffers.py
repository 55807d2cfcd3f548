"""Buffers that keep their values wherever the module goes.

Meta-device construction, ``to_empty`` and sharding wrappers re-create buffers in silence, as
zeros or as whatever memory held. Codebook vectors and lists of codes would still be valid
numbers, and every search wrong. Here they are moved instead, and keep their dtype.
"""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

__all__ = ["KeepsBuffers"]


class KeepsBuffers(nn.Module):
    """A module without parameters whose buffers hold given numbers."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `fn` may empty a buffer or round it, so it only tells where to go
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            probe = fn(buffer[:1].clone())
            if probe.device.type != "meta":
                moved = buffer.to(probe.device)
                self._buffers[name] = moved.share_memory_() if probe.is_shared() else moved
        return self
