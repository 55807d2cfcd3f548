"""Write a run's report: one JSON file, and one page that needs nothing but itself.

Both files are written under a temporary name and renamed, so a reader never meets half a
report, and a run that fails leaves the last good one in place.

Shapes: the report is a tree of dictionaries, lists, numbers, strings, booleans and None.
Every part may be absent and is then left out of the page:

- ``settings``: ``dataset, label, seeds, draws, full, total_seconds``.
- ``splits.<split>``: ``rows`` (counts by name), ``arms.<arm>.<metric>`` (a number),
  ``paired.<arm>_vs_<arm>.<metric>`` (``[mean, low, high]``) and
  ``by_frequency.<arm>_vs_<arm>`` (a list of ``{bucket, rows, delta: [mean, low, high]}``).
- ``upgrade``: ``max_abs_delta_logit_step0, steps, arms, paired``.
- ``gate``: ``true, shuffled`` (ten numbers), ``range, range_shuffled`` (intervals).
- ``sid``: the keys of ``sidrank inspect``, and ``usage`` (items of each code, by level).
- ``environment``: names and values.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from sidrank.demo.page import render
from sidrank.demo.wording import Report
from sidrank.pages import write_whole

__all__ = ["write_report"]


def write_report(report: Report, out: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html``.

    Args:
        report: The report; numpy and torch scalars and arrays are converted, and a number that is
            not finite becomes null.
        out: Directory to write to; made if it does not exist.

    Returns:
        The paths of the two files.

    Raises:
        TypeError: If the report holds something that JSON does not, or a key that is no string.
    """
    clean = cast(Report, _plain(report, "report"))
    # Both are made before either is written: a page that fails must not leave a lone JSON.
    text = json.dumps(clean, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(clean)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return write_whole(out / "report.json", text), write_whole(out / "report.html", page)


def _plain(value: object, where: str) -> object:
    """Reduce a value to what JSON holds."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} must have strings as keys, got {key!r}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{where} must be what JSON can hold, got {type(value).__name__}")
