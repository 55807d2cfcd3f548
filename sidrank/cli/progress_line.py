"""One line on a terminal that says what a long command is doing and how far it is.

Shapes: none.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from sidrank.tokenizers.protocol import Progress

__all__ = ["progress_line"]

_PATIENCE = 1.0  # seconds before a bar appears


@contextmanager
def progress_line(*, hidden: bool = False) -> Generator[Progress]:
    """Show a bar on standard error, if that is a terminal; the bar of one stage at a time.

    Args:
        hidden: Show nothing.

    Yields:
        What is to be told of every step: the stage, steps done, steps in all (0 if unknown).
    """
    start = time.perf_counter()
    now, bar = "", None

    def told(stage: str, done: int, total: int) -> None:
        nonlocal now, bar
        if bar is None or stage != now:
            if bar is not None:
                bar.close()
            now, bar = stage, _bar(stage, total, start, hidden=hidden)
        bar.total = total or None
        bar.update(done - bar.n)

    try:
        yield told
    finally:
        if bar is not None:
            bar.close()


def _bar(stage: str, total: int, start: float, *, hidden: bool) -> "tqdm[Any]":
    return tqdm(
        desc=stage,
        total=total or None,
        leave=False,
        disable=True if hidden else None,  # None: unless it is a terminal
        delay=max(0.0, start + _PATIENCE - time.perf_counter()),
        miniters=1,
        unit_scale=True,
        dynamic_ncols=True,
    )
