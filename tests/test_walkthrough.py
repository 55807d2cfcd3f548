"""A foreign training script and the same with semantic IDs, on two ranks; see examples/."""

import difflib
import runpy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from sidrank.embeddings import load_host_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"
PLAIN, HYBRID = EXAMPLES / "plain_dlrm.py", EXAMPLES / "hybrid_dlrm.py"


def _walk(folder):
    """Train the host, load it into both models; the first answers, and how training goes on."""
    plain, hybrid = runpy.run_path(str(PLAIN)), runpy.run_path(str(HYBRID))
    host = f"{folder}/host"
    plain["train"](4, host)
    before, optimizer = plain["build"]()
    state = {"model": before.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.load(state, checkpoint_id=host)
    before.load_state_dict(state["model"])
    after, optimizer = hybrid["build"](hybrid["item_sids"](""))
    load_host_checkpoint(after, host, optimizer=optimizer)
    rank = dist.get_rank()
    with torch.no_grad():
        _, (_, expected, _) = before(next(plain["batches"](rank)))
        loss, (_, found, _) = after(next(hybrid["batches"](rank)))
    losses = hybrid["train"](25, f"{folder}/hybrid", host, "")
    return torch.equal(found, expected), loss.item(), losses


def test_one_script_becomes_the_other(ranks, tmp_path):
    for equal, loss, losses in ranks.run(_walk, str(tmp_path)):
        assert equal
        assert losses[0] == loss  # the pipeline begins where the host was
        assert losses[-1] < losses[0] - 0.1
    assert (tmp_path / "hybrid" / ".metadata").exists()


def test_little_of_the_foreign_script_changes():
    lines = [path.read_text().splitlines() for path in (PLAIN, HYBRID)]
    delta = list(difflib.ndiff(*lines))
    assert not any("sidrank" in line for line in lines[0] if "import" in line)
    body = [line for line in delta if line.startswith("- ")]
    # the model, its optimiser, its pipeline, and what main passes on; the rest is added
    assert len(body) <= 12, body
