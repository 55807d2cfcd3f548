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


@app.command()
def tokenize(
    items: Annotated[
        Path, typer.Argument(help="Parquet (a file or a folder of files), CSV or NPZ.")
    ],
    item_id: Annotated[str, typer.Option("--id", help="Column of item ids, 64-bit integers.")],
    out: Annotated[Path, typer.Option(help="Bundle to write; must not exist.")],
    embedding: Annotated[
        str | None,
        typer.Option(help="Column of vectors, or prefix* for columns of one number each."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Columns of text to make vectors of, joined by commas.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="One of rq-kmeans, rq-kmeans-fsq, rq-vae, r3-vae, capacity-rq."),
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Codes of each level, joined by commas: 256,256,256.")
    ] = None,
    append_to: Annotated[
        Path | None,
        typer.Option(help="Older bundle: take its tokenizer, keep its codes, add what is new."),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(help="Column of exposures (rq-kmeans and capacity-rq weigh items)."),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Column of categories to compare prefixes with.")
    ] = None,
    collisions: Annotated[
        str | None,
        typer.Option(help="keep (the default), next-nearest or suffix, for items of one SID."),
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Items to learn from.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all sampling.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to compute with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML) with plots.")] = None,
) -> None:
    """Give items semantic IDs: learn them from vectors, or add items to an older bundle."""
    with _one_line_errors("tokenize", importing=True):
        from sidrank.cli import tokenize as room
        from sidrank.cli.tokenize_items import ItemColumns
        from sidrank.cli.tokenize_plan import Plan, as_levels
    with _one_line_errors("tokenize"):
        columns = ItemColumns(
            id=item_id,
            embedding=embedding,
            text=() if text is None else text.split(","),
            weight=weight,
            category=category,
        )
        plan = Plan(
            tokenizer=tokenizer,
            levels=None if levels is None else as_levels(levels),
            sample=sample,
            seed=seed,
            collisions=collisions,
            append_to=append_to,
        )
        room.run(items, columns, plan, out=out, report=report, as_json=as_json, threads=threads)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `sidrank tokenize` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML) with plots.")] = None,
) -> None:
    """Check a bundle of semantic IDs, and say how good they are."""
    with _one_line_errors("inspect", importing=True):
        from sidrank.cli import inspect as room
    with _one_line_errors("inspect"):
        room.run(bundle, as_json=as_json, report=report)


@app.command()
def trace(
    rows: Annotated[
        Path, typer.Argument(help="Parquet (a file or a folder of files), CSV or NPZ.")
    ],
    columns: Annotated[str, typer.Option(help="Columns of ids, joined by commas.")],
    batch: Annotated[int, typer.Option(help="Rows that a GPU trains on in one step.")],
    world_size: Annotated[int, typer.Option(help="GPUs that train together.")],
    out: Annotated[Path, typer.Option(help="Trace to write.")],
    tables: Annotated[
        Path | None,
        typer.Option(help="Tables (JSON, as for plan) that the columns read as features."),
    ] = None,
    sampling: Annotated[float, typer.Option(help="Share of each table's rows to follow.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how often caches of any size would miss, from a log of ids."""
    with _one_line_errors("trace", importing=True):
        from sidrank.cli import trace as room
    with _one_line_errors("trace"):
        room.run(
            rows,
            columns.split(","),
            room.Batches(batch, world_size),
            out=out,
            tables=tables,
            sampling=sampling,
            as_json=as_json,
        )


@app.command()
def plan(
    tables: Annotated[
        Path,
        typer.Argument(help="JSON list of {name, rows, dim, features, pooling, dtype, optimizer}."),
    ],
    trace: Annotated[Path, typer.Option(help="What `sidrank trace` wrote of these tables.")],
    world_size: Annotated[int, typer.Option(help="GPUs to plan for, 1 to 1024.")],
    hbm_gib: Annotated[float, typer.Option(help="HBM of each GPU that tables may take, GiB.")],
    ddr_gib: Annotated[
        float, typer.Option(help="Host memory for each GPU that tables may take, GiB.")
    ] = 128.0,
    batch: Annotated[int, typer.Option(help="Rows that a GPU trains on in one step.")] = 512,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, which load_constraints reads.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML) with plots.")] = None,
) -> None:
    """Plan tables and their caches on GPUs that need not be there; exit 1 if they do not fit."""
    with _one_line_errors("plan", importing=True):
        from sidrank.cli import plan as room
        from sidrank.sharding.remedies import Cluster
    with _one_line_errors("plan"):
        cluster = Cluster(world_size, hbm_gib, ddr_gib, batch)
        found = room.run(tables, trace, cluster, as_json=as_json, report=report)
    raise typer.Exit(0 if found["fits"] else 1)


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
