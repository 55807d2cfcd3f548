"""Runs `sidrank evaluate` in this process."""

import json

import numpy as np
from typer.testing import CliRunner

from sidrank.cli.app import app


def evaluate(path, **options):
    """Exit code, standard output and standard error; True stands for a flag."""
    arguments = ["evaluate", str(path), "--label", "label", "--score", "score"]
    for name, value in options.items():
        arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def figures(path, **options):
    """What `--json` prints, read as strictly as JSON allows."""
    code, output, errors = evaluate(path, json=True, **options)
    assert (code, errors) == (0, "")

    def never(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(output, parse_constant=never)


def impressions(rows=400, seed=0):
    """Columns of a made-up log: probabilities, logits, users by number and by name, countries."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, rows)
    taste = rng.normal(size=40)[user] + rng.normal(size=rows)
    logit = np.round(taste - 1 + 0.3 * rng.normal(size=rows), 2)
    other = np.round(taste - 1 + 2.0 * rng.normal(size=rows), 2)
    return {
        "label": (rng.random(rows) < 1 / (1 + np.exp(1 - taste))).astype(np.int8),
        "score": 1 / (1 + np.exp(-logit)),
        "logit": logit,
        "old": 1 / (1 + np.exp(-other)),
        "user": user.astype(np.int64) * 1_000_003,
        "name": np.array([f"user {each}" for each in user]),
        "country": np.array(["de", "us", "fr"])[rng.integers(0, 3, rows)],
        "weight": rng.integers(0, 4, rows).astype(np.float64),
    }
