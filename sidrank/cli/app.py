"""The typer application: one function a command, each importing its room when called.

What a user got wrong (a missing file, a value out of range) ends with exit code 2 and one line on
stderr; everything else is a bug and keeps its traceback.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Semantic IDs for rankers that already run on TorchRec.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which parts work on this machine, and what to type if one does not."""
    from sidrank.cli.doctor import run

    raise typer.Exit(run(as_json=as_json))


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for report.html and report.json.", file_okay=False)
    ] = Path("sidrank-demo"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Paired seeds or folds of each arm.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the original MovieLens-100K files.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every arm and every protocol.")] = False,
) -> None:
    """Give a DLRM semantic IDs on MovieLens-100K, with its controls, and report the gain."""
    with _one_line_errors("demo", importing=True):
        from sidrank import demo as room
    with _one_line_errors("demo"):
        room.run(out=out, seeds=seeds, data=data, full=full)


@app.command()
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="Parquet (a file or a folder of files), CSV or NPZ.")
    ],
    label: Annotated[str, typer.Option(help="Column of labels, 0 or 1.")],
    score: Annotated[str, typer.Option(help="Column of scores; larger means likelier.")],
    compare: Annotated[
        str | None,
        typer.Option(help="Column of a second model's scores; differences are score − compare."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of groups (users, requests) for GAUC.")
    ] = None,
    slices: Annotated[
        str | None, typer.Option("--slice", help="Column to slice by (country, surface).")
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Scores are logits: judge their sigmoid.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML) with plots.")] = None,
) -> None:
    """Say how good scores are: exact AUC, GAUC, calibration, slices, and a paired test."""
    with _one_line_errors("evaluate", importing=True):
        from sidrank.cli import evaluate as room
        from sidrank.cli.evaluation_columns import Names
    names = Names(
        label=label, score=score, compare=compare, group=group, slices=slices, weight=weight
    )
    with _one_line_errors("evaluate"):
        room.run(file, names, logits=logits, as_json=as_json, report=report)


@contextmanager
def _one_line_errors(command: str, *, importing: bool = False) -> Generator[None]:
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if importing or isinstance(error, ImportError):
            message += "; `sidrank doctor` says what to install"
        typer.echo(f"sidrank {command}: {message}", err=True)
        raise typer.Exit(2) from None
