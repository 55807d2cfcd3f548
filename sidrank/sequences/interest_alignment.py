r"""How well a target's semantic ID fits a history, as features.

The cosine between the target's SID embedding and that of each behaviour says how alike they are;
a soft discretisation turns each cosine into a vector, so that "very alike" may mean something
else than "a little alike, three times"; the largest and the mean of each lane go to the ranker.

Source: SID-Coord, arXiv 2604.10471, interest alignment.
Differs from the source: the answer for an empty history is learned [derived]; the cosine of a zero
vector is 0 and has no gradient [derived], so the SID tables it reads must not all be zero at birth
unless something else moves them.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``D`` width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import SoftDiscretization, _padding
from sidrank.layers.cosine import unit

__all__ = ["InterestAlignment"]


class InterestAlignment(nn.Module):
    r"""Similarity of each target to a set of behaviours.

    .. math::  s_l = \cos(e_{sid}(target), e_{sid}(l)), \qquad
        y = \big[\max_l \mathrm{AutoDis}(s_l);\ \tfrac{1}{L} \sum_l \mathrm{AutoDis}(s_l)\big]

    The order of the behaviours does not matter.

    Args:
        discretization: Embeds the cosines in ``dim`` lanes.

    Example:
        >>> from sidrank.layers import SoftDiscretization
        >>> align = InterestAlignment(discretization=SoftDiscretization(dim=4))
        >>> target, history = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
        >>> align(target, history, torch.ones(2, 5).bool()).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, *, discretization: SoftDiscretization) -> None:
        super().__init__()
        self.discretization = discretization
        self.default = nn.Parameter(torch.empty(2 * discretization.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the answer for an empty history to zero; the discretisation has its own."""
        nn.init.zeros_(self.default)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Compare each target with the history.

        Args:
            target: SID embeddings, shape ``[B, C, D]``.
            history: SID embeddings, shape ``[B, L, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool; only such as were known
                when the request came.

        Returns:
            Features, shape ``[B, C, 2 * dim]``; the learned default where no behaviour is real.

        Raises:
            ValueError: If the shapes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, -1])
        history = _check.shape(history, "history", [target.shape[0], -1, target.shape[2]])
        real = _padding.boolean(mask, "mask", [history.shape[0], history.shape[1]])
        cosines = unit(target) @ unit(_padding.zeroed(history, real)).transpose(1, 2)
        embedded = self.discretization.lanes(cosines)  # [dim, B, C, L]
        count, real = real.sum(dim=1, keepdim=True), real.unsqueeze(1)
        mean = (embedded * real).sum(dim=3) / count.clamp(min=1)
        # one more behaviour at -inf: the largest of none is not defined
        largest = F.pad(torch.where(real, embedded, -torch.inf), (0, 1), value=-torch.inf)
        both = torch.cat([largest.amax(dim=3), mean]).movedim(0, -1)
        return torch.where(count.unsqueeze(2) > 0, both, self.default)
