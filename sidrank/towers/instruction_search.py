r"""Search a long history with an instruction instead of the target.

A language model may say, off the request path, what a user is after; only the vector of that
instruction reaches the ranker. It queries the history: which behaviours speak to this intent? One
search serves all candidates of a request. Two adapters bring instruction and items into one space
(``sidrank.losses.Q2ILoss`` trains them); a user without an instruction is searched with a learned
one.

Source: OxygenREC, arXiv 2512.22386, instruction-guided retrieval and its Q2I adapters.
Differs from the source: linear adapters; ``k`` best by score, in the order of time; the learned
instruction for users without one [derived].

Shapes: ``B`` rows, ``L`` behaviours, ``T`` found ones, ``D`` width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.cosine import unit
from sidrank.sequences import selection

__all__ = ["InstructionGuidedSearch"]


class InstructionGuidedSearch(nn.Module):
    r"""The ``k`` behaviours that fit an instruction best.

    .. math::  u = \frac{A_q q}{\lVert A_q q \rVert}, \quad v_l = \frac{A_i e_l}{\lVert A_i e_l
        \rVert}, \quad \mathrm{top}_k\; \langle u, v_l \rangle

    The choice has no gradient; the scores of the chosen behaviours do.

    Args:
        instruction_dim: Width of an instruction ``q``.
        item_dim: Width of an item's vector ``e``.
        dim: Width ``D`` of the space they meet in.
        k: The most behaviours to find.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> search = InstructionGuidedSearch(instruction_dim=6, item_dim=4, dim=8, k=3)
        >>> history, times = torch.randn(2, 9, 4), torch.arange(9).expand(2, 9)
        >>> index, mask, scores = search(
        ...     torch.randn(2, 6), torch.tensor([True, False]), history,
        ...     torch.ones(2, 9).bool(), times, torch.tensor([9, 2]))
        >>> mask.tolist()  # the second request came at time 2
        [[True, True, True], [True, True, False]]
    """

    def __init__(self, *, instruction_dim: int, item_dim: int, dim: int, k: int) -> None:
        super().__init__()
        sizes = {"instruction_dim": instruction_dim, "item_dim": item_dim, "dim": dim, "k": k}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.instruction_dim = instruction_dim
        self.item_dim = item_dim
        self.k = k
        self.query_adapter = nn.Linear(instruction_dim, dim, bias=False)
        self.item_adapter = nn.Linear(item_dim, dim, bias=False)
        self.default = nn.Parameter(torch.empty(instruction_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learned instruction anew; the adapters have their own."""
        nn.init.normal_(self.default, std=self.instruction_dim**-0.5)

    def queries(self, instruction: Tensor, present: Tensor) -> Tensor:
        """Bring instructions into the common space.

        Args:
            instruction: Cached vectors, shape ``[B, instruction_dim]``.
            present: Which rows have one, shape ``[B]``, bool; what the others hold is not read.

        Returns:
            Vectors of length one, shape ``[B, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return unit(self.query_adapter(self._known(instruction, present)))

    def items(self, items: Tensor) -> Tensor:
        """Bring items into the common space.

        Args:
            items: Item vectors, shape ``[..., item_dim]``.

        Returns:
            Vectors of length one, shape ``[..., D]``.
        """
        return unit(self.item_adapter(items))

    def forward(
        self,
        instruction: Tensor,
        present: Tensor,
        history: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find behaviours.

        Args:
            instruction: Cached vectors, shape ``[B, instruction_dim]``, made before the request.
            present: Which rows have one, shape ``[B]``, bool.
            history: Item vectors of the behaviours, shape ``[B, L, item_dim]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                found.

        Returns:
            Places in the history, oldest first, which of them are real, and their scores in
            [-1, 1] (0 where nothing was found), each of shape ``[B, T]`` with ``T = min(k, L)``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        query = self._known(instruction, present)
        history = _check.shape(history, "history", [query.shape[0], -1, self.item_dim])
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [history.shape[0], history.shape[1]])
        # in float64, as every search: what is found must not depend on batch or autocast
        u = unit(_exact_linear(query, self.query_adapter.weight))
        v = unit(_exact_linear(history, self.item_adapter.weight))
        scores = u.unsqueeze(1) @ v.transpose(1, 2)
        index, real = selection.best_by_time(scores, known.unsqueeze(1), times, self.k)
        found = self.items(selection.take(history, index, real).squeeze(1))
        fit = (found * unit(self.query_adapter(query)).unsqueeze(1)).sum(dim=2)
        return index.squeeze(1), real.squeeze(1), fit

    def _known(self, instruction: Tensor, present: Tensor) -> Tensor:
        q = _check.shape(instruction, "instruction", [-1, self.instruction_dim])
        has_one = _padding.boolean(present, "present", [q.shape[0]])
        return torch.where(has_one.unsqueeze(1), q, self.default)


def _exact_linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.detach().double(), weight.detach().double())
