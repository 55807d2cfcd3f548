"""Runs `sidrank tokenize` and `sidrank inspect` in this process, on made-up items."""

import json

import numpy as np
from typer.testing import CliRunner

from sidrank.cli.app import app
from tests.data.row_files import write_rows

KMEANS = {"embedding": "vector", "tokenizer": "rq-kmeans", "levels": "8,8"}


def catalogue(items=120, width=4, seed=0):
    """Columns of items in some groups: ids of any sign and size, vectors, categories, titles."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 12, items)
    vectors = rng.normal(size=(12, width))[group] + 0.2 * rng.normal(size=(items, width))
    ids = rng.choice(10**6, items, replace=False).astype(np.int64) - 1000
    ids[:3] = [2**63 - 1, -(2**63), 0]
    return {
        "item": ids,
        "vector": vectors.astype(np.float32),
        "category": np.array([f"kind {each // 3}" for each in group]),
        "title": np.array([f"thing {each} number {row}" for row, each in enumerate(group)]),
        "shown": rng.exponential(size=items),
    }


def write(path, columns):
    """Write items; a matrix becomes a column of lists where there are no matrices."""
    if path.suffix != ".npz":
        columns = {
            name: each.tolist() if getattr(each, "ndim", 1) == 2 else each
            for name, each in columns.items()
        }
    return write_rows(path, columns)


def sidrank(*arguments, **options):
    """Exit code, standard output and standard error; True stands for a flag."""
    words = [str(each) for each in arguments]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def figures(*arguments, **options):
    """What `--json` prints, read as strictly as JSON allows."""
    code, output, errors = sidrank(*arguments, json=True, **options)
    assert (code, errors) == (0, ""), errors

    def never(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(output, parse_constant=never)


def tokenize(path, out, **options):
    return figures("tokenize", path, id="item", out=out, **(KMEANS | options))


def append(path, old, out, **options):
    return figures(
        "tokenize", path, id="item", embedding="vector", append_to=old, out=out, **options
    )


def refused(*arguments, words=(), **options):
    """Exit code 2, one line on standard error that holds the words, nothing else."""
    code, output, errors = sidrank(*arguments, **options)
    assert (code, output) == (2, ""), (code, output, errors)
    assert errors.startswith(f"sidrank {arguments[0]}: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors, errors
    return errors
