"""`sidrank trace`: from a log of ids to how often caches of any size would miss.

The rows of the log are taken in their order, as many at a time as all GPUs train on in one step.

Shapes: none.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from sidrank.cache.access_trace import AccessTrace
from sidrank.cli.trace_rows import Readers, global_batches, largest_ids, readers
from sidrank.data import RowFile, open_rows

__all__ = ["Batches", "run"]

_PATIENCE = 2.0  # seconds before a progress bar appears
_SHARES = (0.01, 0.05, 0.2)  # of a table's rows in its cache, for the terminal


class Batches(NamedTuple):
    """How a log is cut."""

    batch: int
    """Rows that a GPU trains on in a step."""
    world_size: int
    """GPUs."""

    @property
    def size(self) -> int:
        """Rows of a global batch."""
        return self.batch * self.world_size


def run(
    path: Path,
    columns: Sequence[str],
    batches: Batches,
    *,
    out: Path,
    tables: Path | None = None,
    sampling: float = 1.0,
    as_json: bool = False,
) -> dict[str, Any]:
    """Trace a log, write the trace, and print what it says.

    Args:
        path: A parquet, CSV or NPZ file, or a folder of parquet files.
        columns: Its columns of ids. Each reads a table of its name with as many rows as its
            largest id asks for, unless ``tables`` says otherwise.
        batches: How it is cut.
        out: Where to write the trace.
        tables: The tables that the columns read as features; what `sidrank plan` takes.
        sampling: Share of the rows of each table to follow.
        as_json: Print JSON instead of a table.

    Returns:
        Figures: ``batches``, ``global_batch``, ``rows_left_out``, ``sampling`` and ``tables``,
        each with its rows, distinct rows a batch, share of first accesses, misses by load factor
        and drift (None of one batch).

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the log, one of its columns, the tables or ``out`` is not as it must be.
    """
    _check(path, columns, batches, out)
    rows = open_rows(path)
    if tables is not None:
        read = readers(tables, columns)
    else:
        with _bar("looking at ids", rows) as bar:
            largest = largest_ids(rows, columns, bar.update)
        read = Readers(
            {column: [column] for column in columns},
            {column: last + 1 for column, last in largest.items() if last >= 0},
        )
        if not read.rows:
            raise ValueError(f"{path} must hold rows, got 0")
    trace = AccessTrace(read.rows, sampling=sampling)
    seen = 0
    with _bar("tracing", rows) as bar:

        def told(count: int) -> None:
            nonlocal seen
            seen += count
            bar.update(count)

        for ids in global_batches(rows, read, batches.size, told):
            trace.observe(ids)
    if not trace.batches:
        raise ValueError(
            f"{path} must hold at least one global batch of {batches.size:,} rows, got {seen:,}"
        )
    found = _figures(trace, batches, left_out=seen - trace.batches * batches.size)
    trace.save(out)
    sys.stdout.write(
        json.dumps(found, indent=2, allow_nan=False) + "\n" if as_json else _table(found, out)
    )
    sys.stdout.flush()
    return found


def _check(path: Path, columns: Sequence[str], batches: Batches, out: Path) -> None:
    if not columns or len(set(columns)) < len(columns) or "" in columns:
        raise ValueError(f"columns must be names, each once, got {','.join(columns)!r}")
    if batches.batch < 1:
        raise ValueError(f"batch must be at least 1, got {batches.batch}")
    if batches.world_size < 1:
        raise ValueError(f"world-size must be at least 1, got {batches.world_size}")
    if out.exists() and not out.is_file():
        raise ValueError(f"out must be a file, got {out}, which is something else")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out must lie in a folder that exists, got {out}")
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"out must not replace the log that is read, got {out}")
    with tempfile.TemporaryFile(dir=out.absolute().parent):  # before an hour of reading
        pass


@contextmanager
def _bar(what: str, rows: RowFile) -> Generator["tqdm[Any]"]:
    with tqdm(
        desc=what,
        total=rows.num_rows,
        unit=" rows",
        unit_scale=True,
        leave=False,
        disable=None,  # unless stderr is a terminal
        delay=_PATIENCE,
    ) as bar:
        yield bar


def _figures(trace: AccessTrace, batches: Batches, *, left_out: int) -> dict[str, Any]:
    drift: dict[str, float] | None = None
    if trace.batches >= 2:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drift = trace.drift()
        for warning in caught:
            sys.stderr.write(f"sidrank trace: {warning.message}\n")
    tables: dict[str, Any] = {}
    for name, curve in trace.curves().items():
        tables[name] = {
            "rows": curve.rows,
            "touched": round(curve.cold),
            "unique_per_batch": curve.unique_per_batch,
            "first_accesses": curve.cold / max(curve.accesses, 1.0),
            "misses": {str(share): curve.miss_rate(share) for share in _SHARES},
            "drift": None if drift is None else drift[name],
        }
    return {
        "batches": trace.batches,
        "global_batch": batches.size,
        "rows_left_out": left_out,
        "sampling": trace.sampling,
        "tables": tables,
    }


def _table(found: dict[str, Any], out: Path) -> str:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("table", overflow="fold")
    heads = ["rows", "distinct a batch", "first accesses", "halves differ"]
    for head in [*heads, *(f"missed at {share:.0%}" for share in _SHARES)]:
        table.add_column(head, justify="right")
    for name, each in found["tables"].items():
        table.add_row(
            Text(name),
            f"{each['rows']:,}",
            f"{each['unique_per_batch']:,.1f}",
            f"{each['first_accesses']:.1%}",
            "–" if each["drift"] is None else f"{each['drift']:.3f}",
            *(f"{rate:.1%}" for rate in each["misses"].values()),
        )
    told = f"{found['batches']:,} global batches of {found['global_batch']:,} rows"
    if found["rows_left_out"]:
        told += f", {found['rows_left_out']:,} rows at the end left out"
    console = Console()
    with console.capture() as capture:
        console.print(Group(Text(f"{told}; written to {os.fspath(out)}", style="bold"), table))
    return capture.get()
