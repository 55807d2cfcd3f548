"""Tokenize the same items again and again, and die by SIGKILL each time at another moment.

Run as a script by test_tokenize_killed.py, with a folder to work in; prints what happened as
JSON. Each attempt is a fork, so that torch is imported once. The moments are every step that the
command tells of (reading, each iteration, encoding, measuring, writing) and every file that it
opens, makes or renames.
"""

import io
import json
import os
import resource
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from sidrank.cli import tokenize
from sidrank.cli.tokenize_items import ItemColumns
from sidrank.cli.tokenize_plan import Plan
from sidrank.semantic_ids import load_bundle

OPERATIONS = {"open", "os.mkdir", "os.rename"}
COLUMNS = ItemColumns("item", "vector")


def attempt(folder, plan, *, step=None, operation=None):
    """Die at the n-th step, or before the n-th file operation; then try again in peace."""
    out = folder / f"bundle-{step}-{operation}"
    stages = folder / "stages.txt"
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if operation is not None:
            kill_before(operation)
        told = 0

        def progress(stage, _done, _total):
            nonlocal told
            told += 1
            if told == step:
                stages.write_text(stage)
                os.kill(os.getpid(), signal.SIGKILL)

        run(folder, plan, out, progress)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    published = out.exists()
    found = {
        "killed": killed,
        "failed": not killed and status != 0,
        "published": published,
        "stage": stages.read_text() if killed and step is not None else None,
        "leftovers": [each.name for each in folder.iterdir() if each.name.startswith(".")],
        "hash": load_bundle(out).table.content_hash if published else None,
    }
    if not published:
        found["hash"] = again(folder, plan, out)
    return found


def again(folder, plan, out):
    """What a leftover must not hinder: the same command."""
    run(folder, plan, out, lambda *_: None)
    return load_bundle(out).table.content_hash


def run(folder, plan, out, progress):
    with redirect_stdout(io.StringIO()):
        tokenize.run(folder / "items.npz", COLUMNS, plan, out=out, progress=progress)


def kill_before(operation):
    seen = 0

    def hook(event, _arguments):
        nonlocal seen
        if event in OPERATIONS:
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 3)).astype(np.float32)
    np.savez(folder / "items.npz", item=np.arange(60), vector=vectors)
    fresh = Plan(tokenizer="rq-kmeans", levels=(4, 4))
    # also loads what is imported late, so that every attempt opens the same files
    attempt(folder, fresh)
    again(folder, fresh, folder / "old")
    np.savez(folder / "items.npz", item=np.arange(90), vector=np.tile(vectors, (2, 1))[:90])
    plans = {"fresh": fresh, "append": Plan(append_to=folder / "old")}
    outcomes = []
    for kind, plan in plans.items():
        place = folder / kind
        place.mkdir()
        (place / "items.npz").write_bytes((folder / "items.npz").read_bytes())
        for name in ("step", "operation"):
            number = 0
            while not outcomes or number == 0 or outcomes[-1]["killed"]:
                number += 1
                outcomes.append({"kind": kind, "by": name} | attempt(place, plan, **{name: number}))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
