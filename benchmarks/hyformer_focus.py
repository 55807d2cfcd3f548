"""Where each arm of several sequences looks: its attention to views of the candidate's form.

On the planted setting ``types`` the answer starts at these views. Adds ``focus`` to a study's
result, from the weights that the study left in ``build/``: for each arm, the mean over seeds and
test rows (with such a view) of the attention that each reading of the views spends on them, before
training and after it; ``nowhere`` is the same of equal weights.

    python -m benchmarks.hyformer_focus benchmarks/results/sequence_study_hyformer.json
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import benchmarks.sequence_study as study
from benchmarks.sequence_arms_hyformer import SeveralSequences
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_settings import SETTINGS
from sidrank.layers import CrossAttention

__all__ = ["focus", "main"]

SETTING, TYPE, FIELD, ROWS = "types", "view", "form", 2_000


def main(given: Sequence[str] | None = None) -> None:
    """Read weights, write what they look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    path: Path = parser.parse_args(given).study
    report = study.json.loads(path.read_text())
    users, found = report["users"], dict[str, dict[str, list[list[float]]]]()
    runs = [run for run in report["runs"] if run["setting"] == SETTING]
    for seed in sorted({run["seed"] for run in runs}):
        rows = SETTINGS[SETTING].rows(seed, users=users)
        for name in sorted({run["arm"] for run in runs if run["seed"] == seed}):
            if name.endswith("_null"):
                continue
            torch.manual_seed(seed)  # as the study builds it
            model: Any = study.arms()[name].build(rows, seed)
            own = found.setdefault(name, {"birth": [], "trained": []})
            own["birth"].append(focus(model, rows)[0])
            path_of = study.scores(name, SETTING, seed, users).with_suffix(".pt")
            model.load_state_dict(torch.load(path_of))
            reached, nowhere = focus(model, rows)
            own["trained"].append(reached)
            found.setdefault("nowhere", {}).setdefault("", []).append([nowhere])
    report["focus"] = {
        name: {
            when: [_mean(each) for each in zip(*some, strict=True)] for when, some in own.items()
        }
        for name, own in found.items()
    }
    study.write(path, report)


@torch.no_grad()
def focus(model: SeveralSequences, rows: SequenceRows) -> tuple[list[float], float]:
    """Attention of each reading to views of the candidate's form, and what equal weights spend.

    Args:
        model: The arm.
        rows: The log; its first test rows are looked at.

    Returns:
        A share for each reading, and one.
    """
    batch = rows.batch(rows.parts["test"][:ROWS], model.cut)
    events = batch.by_type[TYPE]
    hit = events.mask & (events.fields[FIELD] == batch.candidate[FIELD].unsqueeze(1))
    some = hit.any(dim=1)
    shares: list[float] = []

    def watch(attend: nn.Module, given: tuple[Tensor, Tensor, Tensor], _: Tensor) -> None:
        assert isinstance(attend, CrossAttention)
        spent = (_weights(attend, *given) * hit).sum(dim=1)
        shares.append(float(spent[some].mean()))

    blocks: Any = model.fuse.blocks
    place = rows.types.index(TYPE)
    hooks = [block.decoders[place].register_forward_hook(watch) for block in blocks]
    model.eval()(batch)
    for hook in hooks:
        hook.remove()
    return shares, float((hit.sum(dim=1) / events.mask.sum(dim=1))[some].mean())


def _weights(attend: CrossAttention, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Of the one query of each row, the mean over heads, shape ``[B, L]``."""
    heads = (attend.num_heads, attend.head_dim)
    q, k = attend.query(queries).unflatten(2, heads), attend.key(keys).unflatten(2, heads)
    scores = torch.einsum("bqhd,blhd->bhl", q, k) * attend.head_dim**-0.5
    return scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=2).mean(dim=1)


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 4)


if __name__ == "__main__":
    main()
