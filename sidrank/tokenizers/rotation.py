"""A learned orthogonal rotation, for quantisers that work on one coordinate at a time.

Scalar and product quantisers cut along the axes, so how the vectors lie to the axes decides
what is lost. With the quantiser ``q`` fixed, the best rotation of ``x`` is orthogonal
Procrustes: ``R = U V'`` where ``U S V' = x' q(x R)``, and with ``R`` fixed ``q`` is applied
anew; the two take turns.

Residual k-means gains nothing from one: distances are kept, so the nearest centroid of a turned
vector is the turned nearest centroid, at every level. It would only move the rounding.

Source: OPQ in its non-parametric form (Ge et al., 2013); ITQ (Gong and Lazebnik, 2011) is the
same with signs for ``q``. Differs from the sources: a quantiser that learns anew may do worse
after a turn, so the best rotation so far is kept and the first turn without a gain is the last
[derived].

Shapes: ``V`` vectors, ``D`` width.
"""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._inputs import as_vectors

__all__ = ["learned_rotation"]

_BLOCK = 1 << 20  # float64 numbers in one block: 8 MiB


def learned_rotation(
    x: Tensor | NDArray[Any],
    quantise: Callable[[Tensor], Tensor],
    *,
    iterations: int = 20,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Find the rotation after which a quantiser loses least, from none at all.

    ``U V'`` does not depend on the signs of singular vectors or the order of equal values; only
    where the quantiser leaves coordinates at zero is it not unique, and those lose nothing by it.

    Args:
        x: Vectors, shape ``[V, D]``, any floating dtype; centre them if the quantiser is.
        quantise: Given vectors ``[V, D]``, float32, returns what it rebuilds them as, of the
            same shape. It may learn from them first.
        iterations: Most turns.
        progress: Told the number of turns and the squared error of the best rotation so far.

    Returns:
        ``R``, shape ``[D, D]``, float32, on the CPU, with ``R' R = I``: ``x @ R`` are the
        turned vectors, and ``y @ R.T`` turns them back.

    Raises:
        ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37, if
            ``iterations`` is less than 0, or if ``quantise`` returns another shape or
            something that is not finite.

    Example:
        >>> x = torch.tensor([[3.0, 1.0], [-1.0, 3.0], [-3.0, -1.0], [1.0, -3.0]])
        >>> turned = x @ learned_rotation(x, lambda y: y.sign() * 5**0.5)
        >>> torch.allclose(turned.abs(), torch.tensor(5**0.5), atol=1e-3)
        True
    """
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    rows = as_vectors(x)
    if rows.numel() == 0:
        raise ValueError(f"x must hold at least one number, got {list(rows.shape)}")
    best = torch.eye(rows.shape[1], dtype=torch.float64)
    least, products = _tried(rows, best, quantise)
    for turn in range(1, iterations + 1):
        rotation = _nearest_rotation(products)
        error, products = _tried(rows, rotation, quantise)
        if not error < least:
            break
        best, least = rotation, error
        if progress is not None:
            progress(turn, least)
    return best.float()


def _tried(
    x: Tensor, rotation: Tensor, quantise: Callable[[Tensor], Tensor]
) -> tuple[float, Tensor]:
    """Squared error of the quantiser after the rotation, and ``x' q(x R)``, float64."""
    wide = rotation.to(x.device)
    step = max(1, _BLOCK // x.shape[1])
    turned = torch.empty_like(x)
    for block, out in zip(x.split(step), turned.split(step), strict=True):
        out.copy_(block.double() @ wide)
    rebuilt = quantise(turned)
    if rebuilt.shape != x.shape:
        raise ValueError(f"quantise must return shape {list(x.shape)}, got {list(rebuilt.shape)}")
    error, products = 0.0, torch.zeros_like(wide)
    blocks = (rebuilt.split(step), turned.split(step), x.split(step))
    for found, wanted, block in zip(*blocks, strict=True):
        error += float((found.double() - wanted.double()).square().sum())
        products.addmm_(block.double().T, found.double())
    if not bool(products.isfinite().all()):
        raise ValueError("quantise must return finite numbers, got others")
    return error, products.cpu()


def _nearest_rotation(products: Tensor) -> Tensor:
    """The orthogonal matrix that maximises the trace of its transpose times ``products``."""
    left, _, right = torch.linalg.svd(products)
    return left @ right
