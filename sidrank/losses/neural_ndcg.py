r"""NDCG that can be differentiated: what is trained is what is measured.

Sorting is a permutation matrix that jumps when two scores swap. NeuralSort puts a softmax in the
place of each of its rows: row ``i`` says which row of the list is ``i``-th, as a distribution.
Sinkhorn's scaling makes every row of the list appear once in sum. With the temperature the
matrix goes to the permutation, and the loss to minus NDCG.

.. math::
    \hat P_{i\cdot} = \mathrm{softmax}\big(((n + 1 - 2i)\, s - A_s \mathbf 1) / \tau\big), \quad
    A_s = |s_j - s_k|, \qquad
    \mathrm{loss} = -\frac{1}{|Q|} \sum_{q} \frac{\sum_{i \le k} d_i \,
        [\mathrm{Sinkhorn}(\hat P)\, (2^y - 1)]_i}{\mathrm{IDCG@}k},
    \quad d_i = \frac{1}{\log_2(i + 1)}

Sinkhorn's matrix is ``diag(u) P diag(v)``, so only the two vectors are iterated; the loss needs
matrix times vector and never the scaled matrix. The gradient goes back through every iteration,
exactly, and is found in the forward pass block by block: memory is that of one block and of the
rows, however many lists there are.

Source: Pobrotyn and Białobrzeski, NeuralNDCG, arXiv 2102.07831, equations 6 to 9; Grover et al.,
NeuralSort, ICLR 2019, arXiv 1903.08850, equation 5; DFS Ranking, arXiv 2604.13796, which trains
a ranker of lists that close with it. Differs from the sources: a list stops at 1e-6 by itself,
not with its batch [derived]; padding is left out of the matrix instead of hidden by low scores.

Shapes: ``R`` rows; in private parts ``[q, n]`` a block of lists.
"""

from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from sidrank.losses import request_lists
from sidrank.losses.request_lists import Block

__all__ = ["neural_ndcg"]

_ITERATIONS, _TOLERANCE = 50, 1e-6


def neural_ndcg(
    logits: Tensor,
    labels: Tensor,
    requests: Tensor,
    *,
    temperature: float = 1.0,
    k: int | None = None,
) -> Tensor:
    r"""Minus the mean NDCG of the requests' lists, smoothed.

    Adding a number to all scores of a request changes nothing, so these logits are no
    probabilities: add a pointwise loss where they must be. A list of one, or of one label,
    has no gradient. Costs ``n * n`` a list of ``n`` rows in time, and in memory for the longest
    list alone. Computed in float32 (float64 if given), also under autocast. Lengths and labels
    are read on the host; to ``torch.compile`` it is one operator. It has no second derivative.

    Args:
        logits: Scores, higher is better, shape ``[R]``, any float.
        labels: Relevance grades (0 and 1 if binary), not negative, shape ``[R]``.
        requests: Request of each row, any integers in any order, shape ``[R]``; for lists that
            lie one after another see :func:`request_ids`.
        temperature: ``tau``, in units of the scores. Small: close to NDCG, and flat between
            swaps.
        k: Ranks that count; None is all.

    Returns:
        A number in [-1, 0], shape ``[]``: the mean over the requests that have a grade above
        zero; 0 if none has.

    Raises:
        ValueError: If a shape or dtype does not fit, the temperature is not positive and
            finite, ``k`` is less than one, or a label is negative, NaN or has no finite gain.

    Example:
        >>> logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
        >>> labels, requests = torch.tensor([0, 1, 0, 1]), torch.tensor([7, -7, 7, -7])
        >>> round(float(neural_ndcg(logits, labels, requests, temperature=0.01)), 4)
        -1.0
    """
    if not (temperature > 0 and isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    logits, labels, requests = request_lists.columns(logits, labels, requests)
    wanted = torch.is_grad_enabled() and logits.requires_grad
    return _found(logits, labels, requests, temperature, k, wanted)[0]


@torch.library.custom_op("sidrank::neural_ndcg", mutates_args=())
def _found(
    logits: Tensor,
    labels: Tensor,
    requests: Tensor,
    temperature: float,
    k: int | None,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    gains = _gains(labels)
    kept = (request_lists.extremes(gains, requests)[1] > 0).nonzero().squeeze(1)

    def found(s: Tensor, gain: Tensor, block: Block, wanted: bool) -> tuple[Tensor, Tensor | None]:
        return _of_block(s, gain, block, temperature, k, wanted)

    value, slopes = request_lists.mean_over_lists(
        logits[kept], gains[kept], requests[kept], wanted, found
    )
    return value, torch.zeros_like(logits).index_copy_(0, kept, slopes)


request_lists.with_known_gradient(_found)


def _gains(labels: Tensor) -> Tensor:
    gains = labels.exp2() - 1
    good = (labels >= 0) & gains.isfinite()
    if not bool(good.all()):
        row = int((~good).int().argmax())
        rule = "labels must not be negative and must have a finite gain"
        raise ValueError(f"{rule}, got {labels[row].item()} in row {row}")
    return gains


def _of_block(
    s: Tensor, gain: Tensor, block: Block, temperature: float, k: int | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Minus the smooth NDCG of each list, and its gradient."""
    rank = torch.arange(1, s.shape[1] + 1, device=s.device, dtype=s.dtype)
    discount = (rank + 1).log2().reciprocal()
    if k is not None:
        discount[k:] = 0
    ideal = (gain.sort(dim=1, descending=True).values * discount).sum(dim=1)
    gain = gain / ideal.unsqueeze(1)
    s = (s - s.sum(dim=1, keepdim=True) / block.lengths.unsqueeze(1)) / temperature
    weight = block.lengths.unsqueeze(1) + 1 - 2 * rank  # of rank i, [q, n]
    p = _neural_sort(s, weight, block.real)
    across = p.mT.contiguous()  # a vector times rows that lie together is the fast product
    scales = _sinkhorn(p, across)
    discount = discount * block.real
    value = -(discount * scales.u[-1] * _times(across, gain * scales.v[-1])).sum(dim=1)
    if not wanted:
        return value, None
    by_p = _by_p(p, across, scales, discount, gain)
    return value, _by_s(by_p, p, s, weight, block.real) / temperature


def _neural_sort(s: Tensor, weight: Tensor, real: Tensor) -> Tensor:
    """Row-stochastic ``P``, ``[q, n, n]``; places without a row keep to themselves."""
    away = (s.unsqueeze(2) - s.unsqueeze(1)).abs_().mul_(real.unsqueeze(1)).sum(dim=2)
    z = weight.unsqueeze(2) * s.unsqueeze(1)
    z -= away.masked_fill_(~real, torch.inf).unsqueeze(1)
    p = z.softmax(dim=2).mul_(real.unsqueeze(2))
    # products of what is smaller still are denormal numbers, which processors are slow with
    p = torch.threshold_(p, torch.finfo(p.dtype).eps ** 4, 0.0)
    p.diagonal(dim1=1, dim2=2).add_(~real)  # so their scales stay 1
    return p


class _Scales(NamedTuple):
    """Scales of rows and of columns, at birth and after each iteration."""

    u: list[Tensor]
    v: list[Tensor]
    moved: list[Tensor | None]
    """Which lists an iteration changed; None is all."""


def _sinkhorn(p: Tensor, across: Tensor) -> _Scales:
    u = v = torch.ones_like(p[:, 0])
    scales = _Scales([u], [v], [])
    moving, count = torch.ones_like(p[:, 0, 0], dtype=torch.bool), len(p)
    for turn in range(_ITERATIONS):
        columns = _times(p, u)
        if turn:
            worst = (columns * v).sub_(1).abs_().amax(dim=1)
            moving = moving & ~(worst < _TOLERANCE)  # NaN goes on
            count = int(moving.sum())
            if count == 0:
                break
        new_v = columns.reciprocal_()
        new_u = _times(across, new_v).reciprocal_()
        if count < len(p):
            still = moving.unsqueeze(1)
            new_u, new_v = torch.where(still, new_u, u), torch.where(still, new_v, v)
        u, v = new_u, new_v
        scales.u.append(u)
        scales.v.append(v)
        scales.moved.append(moving if count < len(p) else None)
    return scales


def _by_p(p: Tensor, across: Tensor, scales: _Scales, discount: Tensor, gain: Tensor) -> Tensor:
    """Gradient of the loss by the matrix that is scaled, back through every iteration.

    Each iteration adds two products of a vector with a vector to it; they are collected.
    """
    u, v, moved = scales
    left, right = discount * u[-1], gain * v[-1]
    outer_left, outer_right = [-left], [right]
    by_u, by_v = discount * _times(across, right), gain * _times(p, left)
    for t in range(len(moved), 0, -1):
        was = moved[t - 1]
        r = (by_u * u[t]).mul_(u[t])
        if was is not None:
            r *= was.unsqueeze(1)
        by_v = by_v - _times(p, r)
        c = (by_v * v[t]).mul_(v[t])
        if was is not None:
            c *= was.unsqueeze(1)
        outer_left += [r, u[t - 1]]
        outer_right += [v[t], c]
        before = _times(across, c).neg_()
        by_u = before if was is None else torch.where(was.unsqueeze(1), before, by_u)
        by_v = torch.zeros_like(by_v) if was is None else by_v * ~was.unsqueeze(1)
    return torch.stack(outer_left).permute(1, 2, 0) @ torch.stack(outer_right).permute(1, 0, 2)


def _by_s(by_p: Tensor, p: Tensor, s: Tensor, weight: Tensor, real: Tensor) -> Tensor:
    """Gradient by the scores, over the temperature, of a gradient by ``P``; spoils ``by_p``."""
    by_z = by_p.mul_(p)
    by_z -= p * by_z.sum(dim=2, keepdim=True)
    by_away = -by_z.sum(dim=1)
    sign = (s.unsqueeze(2) - s.unsqueeze(1)).sign_().mul_(real.unsqueeze(1))
    # sign is odd: a row's own distance, and its part in that of the others
    others = _times(sign.neg(), by_away)
    return _times(by_z, weight) + by_away * sign.sum(dim=2) + others


def _times(p: Tensor, x: Tensor) -> Tensor:
    """``x P`` for each list, ``[q, n]``."""
    return torch.bmm(x.unsqueeze(1), p).squeeze(1)
