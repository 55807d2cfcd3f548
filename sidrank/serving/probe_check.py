"""Ask a new version some requests before anybody else does.

A version that came out of a trainer with NaN in it, or with a learning rate gone wrong, has the
right hash and the right shapes. It shows in what it answers: logits must be finite and of the
right shape, and the probabilities of known requests must not jump from one version to the next.

Source: ours.

Shapes: ``N`` candidates, ``M`` tasks.
"""

import torch

from sidrank.embeddings import RankingRequests
from sidrank.serving.ranker_version import RankerVersion

__all__ = ["ProbeCheck"]


class ProbeCheck:
    """A check for :class:`~sidrank.serving.Versions`.

    Args:
        requests: What is asked: real requests, with new items among the candidates.
        largest_shift: Most that the mean absolute difference of the probabilities of two
            successive versions may be, in any task; 0 < it <= 1.

    Raises:
        ValueError: If there is no candidate, or ``largest_shift`` is out of range.

    Example:
        >>> from torchrec import KeyedJaggedTensor
        >>> class Constant(torch.nn.Module):
        ...     def __init__(self, value):
        ...         super().__init__()
        ...         self.value = torch.nn.Parameter(torch.tensor([[value]]))
        ...     def rank(self, requests):
        ...         return self.value.expand(requests.candidates.stride(), 1)
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.zeros(1, 0), features("user", [7]), features("item", [1, 2]),
        ...     torch.tensor([2]))
        >>> check = ProbeCheck(asked, largest_shift=0.2)
        >>> good, bad = (RankerVersion.first(Constant(value)) for value in (0.5, 4.0))
        >>> check(good, None)
        >>> check(bad, good)
        Traceback (most recent call last):
        ValueError: version must shift probabilities by at most 0.2 on the probe, got 0.3596 ...
    """

    def __init__(self, requests: RankingRequests, *, largest_shift: float = 0.1) -> None:
        if not 0.0 < largest_shift <= 1.0:
            raise ValueError(f"largest_shift must be above 0 and at most 1, got {largest_shift}")
        if requests.candidates.stride() == 0:
            raise ValueError("requests must have at least one candidate, got none")
        self.requests = requests
        self.largest_shift = largest_shift

    @torch.inference_mode()
    def __call__(self, version: RankerVersion, current: RankerVersion | None) -> None:
        """Check a version.

        Args:
            version: The new one.
            current: The one that serves, None if none does.

        Raises:
            ValueError: If the new version does not answer as it must.
        """
        logits = version.rank(self.requests)
        rows = self.requests.candidates.stride()
        if logits.dim() != 2 or len(logits) != rows:
            raise ValueError(
                f"version must give logits of shape [{rows}, M] on the probe,"
                f" got {list(logits.shape)} of version {version.number}"
            )
        if not bool(logits.isfinite().all()):
            wrong = int((~logits.isfinite()).any(dim=1).sum())
            raise ValueError(
                f"version must give finite logits on the probe, got {wrong} of {rows} candidates"
                f" without in version {version.number}"
            )
        if current is None:
            return
        before = current.rank(self.requests)
        if before.shape != logits.shape:
            raise ValueError(
                f"version must give logits of shape {list(before.shape)} on the probe,"
                f" got {list(logits.shape)} of version {version.number}"
            )
        shift = float((logits.sigmoid() - before.sigmoid()).abs().mean(dim=0).max())
        if not shift <= self.largest_shift:
            raise ValueError(
                f"version must shift probabilities by at most {self.largest_shift} on the probe,"
                f" got {shift:.4f} in version {version.number}"
            )
