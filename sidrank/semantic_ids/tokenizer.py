"""What this room needs of a fitted tokenizer; the tokenizers themselves live a floor up."""

from typing import Any, Protocol

from torch import Tensor

__all__ = ["FittedTokenizer"]


class FittedTokenizer(Protocol):
    """A tokenizer that can be saved with the codes it made, and rebuild vectors from them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        ...

    def decode(self, codes: Tensor, /) -> Tensor:
        """Rebuild vectors ``[n, D]`` from codes ``[n, N]``."""
        ...
