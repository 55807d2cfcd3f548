"""The version that serves, swapped under readers that go on with the one they began with.

A request takes the current version once and keeps it to its end, however many calls of the model
it needs, so no answer is made of two versions. No lock is held while anything is scored: taking a
version is one short step. A version that was replaced lives until its last reader is done and it
is no longer the one before the current, which is kept for :meth:`Versions.rollback`; then
its memory is free at once.

Source: ours.

Shapes: ``N`` candidates, ``M`` tasks.
"""

import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager

from torch import Tensor

from sidrank.embeddings import RankingRequests
from sidrank.serving.ranker_version import RankerVersion

__all__ = ["Versions"]

Check = Callable[[RankerVersion, RankerVersion | None], None]


class Versions:
    """Serves one version of a ranker, and takes the next while it does.

    Args:
        first: The version to begin with; it is checked too.
        check: Called with the new version and the current one (None before the first) before
            a version is published; what it raises keeps the new one out. None: no check. See
            :class:`~sidrank.serving.ProbeCheck`.

    Example:
        >>> import torch
        >>> class Constant(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.value = torch.nn.Parameter(torch.zeros(1))
        ...     def rank(self, requests):
        ...         return self.value.expand(requests.candidates.stride(), 1)
        >>> from sidrank.serving.delta import apply_delta, delta_between
        >>> trained = Constant()
        >>> versions = Versions(RankerVersion.first(trained))
        >>> with versions.pin() as old, torch.no_grad():
        ...     _ = trained.value.fill_(1.0)
        ...     versions.publish(apply_delta(old, delta_between(old, trained)))
        ...     old.model.value.item(), versions.current.model.value.item()
        (0.0, 1.0)
        >>> versions.rollback().number
        1
    """

    def __init__(self, first: RankerVersion, *, check: Check | None = None) -> None:
        self._check = check
        self._publishing = threading.RLock()
        self._known: list[weakref.ref[RankerVersion]] = []
        self._previous: RankerVersion | None = None
        if check is not None:
            check(first, None)
        self._current = first
        self._know(first)

    @property
    def current(self) -> RankerVersion:
        """The version that new requests get."""
        return self._current

    @contextmanager
    def pin(self) -> Generator[RankerVersion]:
        """Take the current version for a whole request.

        Yields:
            The version; it stays as it is until the end of the block and longer.
        """
        yield self._current  # one read: whatever is published next, this block has its version

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request on one version.

        Several calls may meet several versions. ``CandidateScorer`` takes one for all its calls.

        Args:
            requests: The requests.

        Returns:
            Logits, shape ``[N, M]``.
        """
        with self.pin() as version:
            return version.rank(requests)

    def publish(self, version: RankerVersion) -> None:
        """Give a version to all requests from now on.

        Args:
            version: One that grew from the current one, or a first one, which may be anything.

        Raises:
            ValueError: If it grew from another version than the current. Whatever the check raises.
                The current version goes on then.
        """
        with self._publishing:  # publishers wait for each other, requests for nobody
            current = self._current
            if version.parent not in (None, current.hash):
                raise ValueError(
                    f"version must have grown from the current version {current.number}"
                    f" ({current.hash}), got version {version.number} that grew from"
                    f" {version.parent}"
                )
            if self._check is not None:
                self._check(version, current)
            self._know(version)
            self._previous, self._current = current, version

    def rollback(self) -> RankerVersion:
        """Give the version before the current to all requests from now on, once.

        Returns:
            The version that serves now. The next delta must belong to it.

        Raises:
            ValueError: If there is none: nothing was published, or it was rolled back already.
        """
        with self._publishing:
            if self._previous is None:
                raise ValueError(
                    f"rollback must follow a publish, got none since version {self._current.number}"
                )
            self._previous, self._current = None, self._previous
            return self._current

    def living(self) -> list[int]:
        """Numbers of the versions that still hold memory.

        Returns:
            The current one, the one kept for a rollback, and any that somebody still reads.
        """
        with self._publishing:
            versions = [known() for known in self._known]
            return [version.number for version in versions if version is not None]

    def _know(self, version: RankerVersion) -> None:
        self._known = [known for known in self._known if known() not in (None, version)]
        self._known.append(weakref.ref(version))
