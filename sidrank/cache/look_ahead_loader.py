"""A loader that lets tiered collections see the batches to come.

It reads some batches ahead and hands them out in order. While a batch trains, the rows of the next
``depth`` batches are fetched; the rows that the ``window`` batches ahead want last are given up
first. Neither changes what is computed, only how long it takes.

It holds ``max(window, depth)`` whole batches in memory, and the slots must hold the rows of
``depth + 1`` batches at once.

Source: BagPipe, arXiv 2202.12429.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

from torchrec import KeyedJaggedTensor

from sidrank.cache.errors import CacheError
from sidrank.cache.flight import Flight
from sidrank.cache.tiered import TieredEmbeddingBagCollection

__all__ = ["LookAheadLoader"]

Batch = TypeVar("Batch")


class LookAheadLoader(Generic[Batch]):
    """Reads ``loader`` ahead for the tiered collections of a model.

    Leave the loop, or go on to the next batch without the model, whenever you like: what was
    prefetched for nothing is let go. One iterator at a time.

    Args:
        loader: The batches; an epoch of them whenever it is iterated.
        collections: The collections that look up each batch, once.
        features: What of a batch they look up; it must be what the model will give them, after
            any module that renames ids.
        window: How many batches ahead are known to the choice of what to give up; 0: that choice
            is LRU's.
        depth: For how many batches ahead rows are fetched on the collections' own thread; 0: they
            are fetched when the batch is handed out.

    Raises:
        ValueError: If ``window`` or ``depth`` is below 0, or there is no collection.

    Example:
        >>> import torch
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from sidrank.cache.row_optimizer import RowOptimizer
        >>> table = EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=100, feature_names=["f"])
        >>> collection = TieredEmbeddingBagCollection(
        ...     [table], slots=4, optimizer=RowOptimizer(torch.optim.SGD, lr=0.1))
        >>> batches = [
        ...     KeyedJaggedTensor(["f"], torch.tensor([row, 9]), lengths=torch.tensor([1, 1]))
        ...     for row in range(5)]
        >>> for batch in LookAheadLoader(batches, [collection], window=3):
        ...     collection(batch).values().sum().backward()
        >>> collection.traffic["t"]
        Traffic(lookups=10, misses=6, evictions=2, written=3)
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        collections: Sequence[TieredEmbeddingBagCollection],
        *,
        features: Callable[[Batch], KeyedJaggedTensor] | None = None,
        window: int = 0,
        depth: int = 1,
    ) -> None:
        for name, value in (("window", window), ("depth", depth)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not collections:
            raise ValueError("collections must hold one, got none")
        self._loader = loader
        self._collections = list(collections)
        self._features: Callable[[Batch], KeyedJaggedTensor] = features or _sparse_features
        self._window = window
        self._depth = depth

    def __len__(self) -> int:
        """How many batches the loader has.

        Returns:
            The loader's own length.

        Raises:
            TypeError: If the loader does not know.
        """
        if not isinstance(self._loader, Sized):
            raise TypeError(f"loader must have a length, got {type(self._loader).__name__}")
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch.

        Yields:
            The loader's batches.

        Raises:
            CacheError: If the rows of the batches in flight do not fit, a tier has failed, or the
                model looked up other ids than were prefetched.
        """
        source = iter(self._loader)
        known: deque[Batch] = deque()
        flying: deque[tuple[Batch, list[Flight]]] = deque()
        more = True
        try:
            while True:
                while more and len(known) + len(flying) <= max(self._window, self._depth):
                    try:
                        known.append(next(source))
                    except StopIteration:
                        more = False
                        break
                    if self._window:
                        for collection in self._collections:
                            collection.announce(self._features(known[-1]))
                while known and len(flying) <= self._depth:
                    flying.append((known[0], self._prefetched(known.popleft())))
                if not flying:
                    return
                strays = [collection.strays for collection in self._collections]
                yield flying[0][0]
                self._let_go(flying.popleft()[1], strays)
        finally:
            for _, flights in flying:
                self._abandon(flights)
            for collection in self._collections:
                collection.forget_announced()

    def _prefetched(self, batch: Batch) -> list[Flight]:
        features = self._features(batch)
        background = self._depth > 0
        return [each.prefetch(features, background=background) for each in self._collections]

    def _let_go(self, flights: list[Flight], strays: list[int]) -> None:
        in_vain = [not flight.taken and flight.pins.valid for flight in flights]
        self._abandon(flights)
        for collection, missed, before in zip(self._collections, in_vain, strays, strict=True):
            if missed and collection.strays > before:
                raise CacheError(
                    "features must be what the model looks up, got a batch whose ids were"
                    " prefetched in vain while others were trained"
                )

    def _abandon(self, flights: list[Flight]) -> None:
        for collection, flight in zip(self._collections, flights, strict=True):
            collection.abandon(flight)


def _sparse_features(batch: Any) -> KeyedJaggedTensor:
    """A batch that is itself what is looked up, or TorchRec's own ``Batch``."""
    return batch if isinstance(batch, KeyedJaggedTensor) else batch.sparse_features
