"""Write the same bundle again and again, and die each time at another moment.

Run as a script by test_bundle.py, with a directory to work in; prints what happened as JSON.
Each attempt is a fork, so that torch is imported once.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from sidrank.semantic_ids import SIDSpec, SIDTable, save_bundle

TABLE = SIDTable([3, 1, 2], [[0, 1], [1, 0], [1, 1]], spec=SIDSpec((2, 2)))
OPERATIONS = {"open", "os.mkdir", "os.rename"}


class Tokenizer:
    def __init__(self):
        self.arguments = {"levels": [2, 2]}

    def state_dict(self):
        return {"table": torch.zeros(300)}

    def decode(self, codes):
        return codes.float()


def attempt(folder, *, operation=None, size=None):
    """Die before the n-th file operation, or when a file grows beyond a size."""
    folder.mkdir()
    path = folder / "bundle"
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if operation is not None:
            kill_before(operation)
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save_bundle(path, TABLE, tokenizer=Tokenizer())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    manifests = list(folder.glob(".bundle.*.tmp/manifest.json"))
    return {
        "path": str(path),
        "hash": TABLE.content_hash,
        "killed": os.WIFSIGNALED(status),
        "published": path.exists(),
        # all was written and only the new name was missing
        "whole": any(manifest.read_bytes().endswith(b"}\n") for manifest in manifests),
    }


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
    outcomes = []
    while not outcomes or outcomes[-1]["killed"]:
        number = len(outcomes) + 1
        outcomes.append(attempt(folder / f"operation-{number}", operation=number))
    outcomes += [attempt(folder / f"size-{size}", size=size) for size in range(0, 1400, 97)]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
