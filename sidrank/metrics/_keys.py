"""Numbers that sort as scores do: unsigned integers of 32 bits where they suffice, else of 64.

An integer key sorts and packs faster than a float, leaves room for a label and a group beside
it, and says in one comparison what is a tie. Equal scores have equal keys (-0.0 equals 0.0) and
a larger score has a larger key, infinities included. NaN has no place; callers refuse it.

Source: the sign-magnitude order of IEEE 754 (2019, section 5.10).
Differs from the source: the two zeros are one key, because they are one score.

Shapes: ``[n]`` rows.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Keys", "float_keys", "key_floats", "narrow", "score_keys", "widen_keys"]

Keys: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
_Floats: TypeAlias = npt.NDArray[np.floating[Any]]
_BLOCK = 1 << 18  # rows whose temporaries stay in the processor's cache


def score_keys(scores: npt.NDArray[Any]) -> Keys:
    """Keys of one column of scores; comparable within the column only.

    Args:
        scores: Booleans, integers or floats without NaN, shape ``[n]``, ``n >= 1``.

    Returns:
        Keys, shape ``[n]``: 32 bits if the column's values, or its range of integers, fit.
    """
    if scores.dtype.kind == "f":
        return float_keys(narrow(scores))
    lowest, highest = int(scores.min()), int(scores.max())
    dtype = np.uint32 if highest - lowest < 1 << 32 else np.uint64
    # Subtraction of unsigned integers wraps around, which is what brings the lowest to zero.
    wide = scores.astype(np.uint64, copy=True)
    wide -= np.uint64(lowest % (1 << 64))
    return wide.astype(dtype, copy=False)


def narrow(scores: npt.NDArray[Any]) -> _Floats:
    """Give floats as float32 where that changes none of them, else as float64.

    Args:
        scores: Floats without NaN, shape ``[n]``.

    Returns:
        The same values, shape ``[n]``.
    """
    if scores.dtype != np.float64:
        return scores.astype(np.float32, copy=False)
    narrowed = np.empty(len(scores), np.float32)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, len(scores), _BLOCK):
            block = slice(start, start + _BLOCK)
            narrowed[block] = scores[block]
            if not np.array_equal(narrowed[block], scores[block]):
                return scores
    return narrowed


def float_keys(scores: _Floats) -> Keys:
    """Keys of float32 (32 bits) or float64 scores (64 bits), comparable between columns.

    Args:
        scores: Floats without NaN, shape ``[n]``.

    Returns:
        Keys, shape ``[n]``.
    """
    bits = scores.dtype.itemsize * 8
    unsigned = np.uint32 if bits == 32 else np.uint64
    signed = np.int32 if bits == 32 else np.int64
    keys = np.empty(len(scores), unsigned)
    for start in range(0, len(scores), _BLOCK):
        block = slice(start, start + _BLOCK)
        pattern = (scores[block] + 0.0).view(signed)  # -0.0 + 0.0 is 0.0
        # Negative floats sort backwards by their bits: flip all of those, and the others' sign.
        flip = (pattern >> (bits - 1)).view(unsigned) | unsigned(1 << (bits - 1))
        np.bitwise_xor(pattern.view(unsigned), flip, out=keys[block])
    return keys


def key_floats(keys: Keys) -> _Floats:
    """Scores of the keys that :func:`float_keys` gave.

    Args:
        keys: Keys of 32 or 64 bits, shape ``[n]``.

    Returns:
        float32 or float64, shape ``[n]``; the score -0.0 comes back as 0.0.
    """
    bits = keys.dtype.itemsize * 8
    unsigned, floating = (np.uint32, np.float32) if bits == 32 else (np.uint64, np.float64)
    top = unsigned(1 << (bits - 1))
    return (keys ^ np.where(keys & top, top, ~unsigned(0))).view(floating)


def widen_keys(keys: Keys) -> Keys:
    """Keys of 64 bits of the same scores.

    Args:
        keys: Keys from :func:`float_keys`, shape ``[n]``.

    Returns:
        Keys of 64 bits, shape ``[n]``, in the same order.
    """
    if keys.dtype == np.uint64:
        return keys
    return float_keys(key_floats(keys).astype(np.float64))
