"""Refuse histories that know what happens after their request.

Modules cannot look at values without stalling a GPU, so those that are told the times hide what is
not earlier, and those that are not believe their mask. This check belongs where batches are made: a
loader that joins behaviours wrongly gives a fine AUC offline and nothing online.

Shapes: ``B`` requests, ``L`` behaviours.
"""

import numpy as np

from sidrank.semantic_ids._integers import as_integers

__all__ = ["refuse_future_behaviours"]


def refuse_future_behaviours(times: object, mask: object, now: object) -> None:
    """Raise if a history holds a behaviour that is not strictly earlier than its request.

    Args:
        times: When the behaviours happened, in any integer unit, shape ``[B, L]``; what stands at
            padding is not read.
        mask: Which behaviours are real, shape ``[B, L]``, bool.
        now: When each request came, same unit, shape ``[B]``.

    Raises:
        TypeError: If times are not integers.
        ValueError: If the shapes differ, ``mask`` is not bool, or a real behaviour is not earlier
            than its request.

    Example:
        >>> refuse_future_behaviours([[5, 9]], [[True, True]], [9])
        Traceback (most recent call last):
        ValueError: times of row 0 must be earlier than its request at 9, got 9
    """
    when, requests = as_integers(times, "times"), as_integers(now, "now")
    real = np.asarray(mask)
    if real.dtype != np.bool_:
        raise ValueError(f"mask must be bool, got {real.dtype}")
    if when.ndim != 2 or real.shape != when.shape:
        raise ValueError(
            f"mask must have the shape [B, L] of times, got {list(real.shape)} for"
            f" {list(when.shape)}"
        )
    if requests.shape != when.shape[:1]:
        raise ValueError(f"now must have shape [{len(when)}], got {list(requests.shape)}")
    late = real & (when >= requests[:, None])
    if late.any():
        row, place = np.argwhere(late)[0]
        raise ValueError(
            f"times of row {row} must be earlier than its request at {requests[row]},"
            f" got {when[row, place]}"
        )
