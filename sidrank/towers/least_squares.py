r"""What a user thought of his past items, carried to a candidate by regularised least squares.

A softmax over behaviours averages: two behaviours that say the same count twice, and one alone
says as much as twenty. Here each request fits a linear model of its own from the vectors of the
past items to what is known of them (stars, likes, watched shares) and reads it at the candidate:

.. math::  \hat y = q^\top H^\top (H H^\top + \Lambda)^{-1} y, \qquad
    \sigma^2 = q^\top q - q^\top H^\top (H H^\top + \Lambda)^{-1} H q

Evidence adds up, repetitions share what they say, and the variance tells how much the history
knows of the candidate at all. It is the mean and the variance of a Gaussian process whose kernel is
the product of item vectors, so the scale of the vectors matters: double them and the history is
trusted four times as much.

Of both ways to solve it, by behaviours and by directions, the smaller system is taken: where ``L``
exceeds ``D``, a request costs ``L D^2`` and its candidates ``C D^2``. A program exported for any
length goes by directions.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25 and
2.26, by directions 2.11 and 2.12; as a layer of attention: von Oswald et al., arXiv 2309.05858 (the
Mesa layer). Differs from the sources: the noise is learned.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``D`` width, ``K`` kinds of answers.
"""

import math

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.towers import least_squares

__all__ = ["LeastSquaresRead"]


class LeastSquaresRead(nn.Module):
    r"""Past answers in, the expected answer for each candidate out, with its variance.

    Args:
        dim: Width ``D`` of candidates and behaviours. Give them a constant entry, and the mean of
            the answers is fitted, too.
        noise: ``Lambda`` at birth, the variance of an answer around what the vectors explain. It is
            what makes the system solvable in float32 where behaviours repeat: keep it above a
            millionth of the squared length of a vector times ``L``.

    Raises:
        ValueError: If ``dim`` is less than one or ``noise`` not positive and finite.

    Example:
        >>> read = LeastSquaresRead(dim=2, noise=1e-6)
        >>> past = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> stars = torch.tensor([[[2.0], [-1.0]]])
        >>> mean, variance = read(torch.ones(1, 1, 2), past, stars, torch.ones(1, 2).bool())
        >>> round(mean.item(), 3), round(variance.item(), 3)
        (1.0, 0.0)
    """

    def __init__(self, *, dim: int, noise: float = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not (noise > 0 and math.isfinite(noise)):
            raise ValueError(f"noise must be positive and finite, got {noise}")
        self.dim = dim
        self.noise = noise
        self.log_noise = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The noise at birth."""
        nn.init.constant_(self.log_noise, math.log(self.noise))

    def forward(
        self, target: Tensor, history: Tensor, answers: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fit each row's history and read it at its candidates.

        Computed in float32 at least, also under autocast.

        Args:
            target: Candidates, shape ``[B, C, D]``.
            history: Behaviours, shape ``[B, L, D]``; padding may hold anything.
            answers: What is known of them, centred, shape ``[B, L, K]``; padding may hold
                anything.
            mask: Which behaviours are real and earlier than the request, shape ``[B, L]``, bool.

        Returns:
            Expected answers, zero where no behaviour is real, shape ``[B, C, K]``, and the
            variance of the candidate's, at most that without a history, shape ``[B, C]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.dim])
        history = _check.shape(history, "history", [target.shape[0], -1, self.dim])
        rows, length = history.shape[0], history.shape[1]
        answers = _check.shape(answers, "answers", [rows, length, -1])
        real = _padding.boolean(mask, "mask", [rows, length])
        history, answers = _padding.zeroed(history, real), _padding.zeroed(answers, real)
        return least_squares.solved(target, history, answers, self.log_noise)


@torch.fx.wrap
def solved(
    target: Tensor, history: Tensor, answers: Tensor, log_noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance; a behaviour of zeros changes neither.

    Args:
        target: Shape ``[B, C, D]``.
        history: Shape ``[B, L, D]``, finite.
        answers: Shape ``[B, L, K]``, finite.
        log_noise: Logarithm of the noise, shape ``[]``.

    Returns:
        Shapes ``[B, C, K]`` and ``[B, C]``.
    """
    with torch.autocast(history.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(target.dtype, history.dtype), torch.float32)
        q, h, y = target.to(wide), history.to(wide), answers.to(wide)
        noise = log_noise.to(wide).exp()
        length, width = h.shape[1:]
        # fewer directions than behaviours, or nobody knows yet: right at any length
        if isinstance(length, torch.SymInt) or length > width:
            square = h.transpose(1, 2) @ h + noise * _one(width, h)
            factor = torch.linalg.cholesky(square)
            mean = q @ torch.cholesky_solve(h.transpose(1, 2) @ y, factor)
            unknown = torch.cholesky_solve(q.transpose(1, 2), factor).transpose(1, 2)
            return mean, noise * (q * unknown).sum(dim=2)
        across = h @ q.transpose(1, 2)  # [B, L, C]
        square = h @ h.transpose(1, 2) + noise * _one(length, h)
        shares = torch.cholesky_solve(across, torch.linalg.cholesky(square))
        mean = shares.transpose(1, 2) @ y
        known = (shares * across).sum(dim=1)
        return mean, ((q * q).sum(dim=2) - known).clamp(min=0.0)


def _one(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
