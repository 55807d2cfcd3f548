r"""Weights of several losses, learned with the model.

.. math::  \sum_t e^{-a_t} L_t + \tfrac12 a_t, \qquad a_t = \log \sigma_t^2

A task that cannot be predicted well has a large ``sigma`` and speaks softly; the logarithm keeps
it from falling silent. At birth all ``a`` are 0: the sum is the plain sum of the losses.

Source: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018,
arXiv 1705.07115, section 3.2 for cross-entropies. Differs from the source: tasks without a row in
the batch are left out of it [derived]; without that, the weight of a rare task only grows.

Shapes: ``T`` tasks.
"""

import torch
from torch import Tensor, nn

from sidrank import _check

__all__ = ["UncertaintyWeighting"]


class UncertaintyWeighting(nn.Module):
    """Sum of losses, each by its learned uncertainty.

    A loss must not be negative in the long run, as no likelihood is: for ``neural_ndcg``, which
    is in [-1, 0], pass ``1 + loss``. Give the log-variances no weight decay.

    Args:
        num_tasks: ``T``.

    Raises:
        ValueError: If there is no task.

    Example:
        >>> weighting = UncertaintyWeighting(num_tasks=2)
        >>> weighting(torch.tensor([0.3, 0.5])).item()
        0.800000011920929
    """

    def __init__(self, *, num_tasks: int) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {num_tasks}")
        self.num_tasks = num_tasks
        self.log_variances = nn.Parameter(torch.empty(num_tasks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at the plain sum."""
        nn.init.zeros_(self.log_variances)

    def forward(self, losses: Tensor, present: Tensor | None = None) -> Tensor:
        """Weigh the losses of a batch.

        Args:
            losses: One for each task, ``torch.stack([...])``, shape ``[T]``.
            present: Tasks that had rows in this batch, shape ``[T]``, bool; None is all. The
                others count nothing, whatever their loss says, and their weight stays.

        Returns:
            What to minimise, shape ``[]``; it may be negative.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        losses = _check.shape(losses, "losses", [self.num_tasks])
        log_variances = self.log_variances.to(torch.promote_types(losses.dtype, torch.float32))
        counted = _counted(losses, present)
        weighted = torch.where(counted, losses, 0) * (-log_variances).exp() + log_variances / 2
        return torch.where(counted, weighted, 0).sum()


@torch.fx.wrap
def _counted(losses: Tensor, present: Tensor | None) -> Tensor:
    if present is None:
        return torch.ones_like(losses, dtype=torch.bool)
    if present.dtype != torch.bool:
        raise ValueError(f"present must be bool, got {present.dtype}")
    return _check.shape(present, "present", [losses.shape[0]])
