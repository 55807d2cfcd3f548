"""The one interface of every tokenizer."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Progress", "Tokenizer"]


class Progress(Protocol):
    """Told of every step of a fit."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note of what is going on, steps done, and steps in all."""
        ...


class Tokenizer(Protocol):
    """Item vectors to semantic IDs, and back to approximate vectors.

    The same vectors, arguments and seed give the same codebooks, and a vector gives the same
    codes alone or in a batch of any size, with any number of threads. What a tokenizer has no
    use for (``weights``, ``pairs``) it refuses: nothing is ignored in silence.
    """

    @property
    def levels(self) -> tuple[int, ...]:
        """Codebook sizes ``K_1, ..., K_N``."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        ...

    def fit(
        self,
        x: Tensor | NDArray[Any],
        /,
        *,
        weights: Tensor | NDArray[Any] | None = None,
        pairs: Tensor | NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from vectors ``[V, D]``, exposures ``[V]`` and co-engaged rows ``[P, 2]``."""
        ...

    def encode(self, x: Tensor | NDArray[Any], /) -> Tensor:
        """Quantise vectors ``[n, D]`` to codes ``[n, N]``, int32."""
        ...

    def decode(self, codes: Tensor | NDArray[Any], /) -> Tensor:
        """Rebuild vectors ``[n, D]``, float32, from codes ``[n, N]``."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return its tensors by name; empty tensors are not allowed."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> Self:
        """Take the tensors of another tokenizer with the same arguments."""
        ...
