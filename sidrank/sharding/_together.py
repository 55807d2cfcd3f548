"""What ranks do in step, so that all go on or all refuse, and none waits for one that failed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["on_all_ranks", "on_first_rank"]

_T = TypeVar("_T")


def on_first_rank(action: Callable[[], _T]) -> _T:
    """Let the first rank do something.

    Args:
        action: What it does.

    Returns:
        What it found, on every rank.

    Raises:
        Exception: What the first rank raised, on every rank.
    """
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = action()
        except Exception as error:  # whatever it is, nobody is to wait for this rank
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def on_all_ranks(value: _T) -> list[_T]:
    """Tell every rank.

    Args:
        value: This rank's.

    Returns:
        That of each rank, first rank first.
    """
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
