"""Do static fields flatten the behaviours of a trained stream? The SCP diagnosis of its arms.

Reads the weights that ``benchmarks.sequence_study`` left in ``build/`` and runs held-out rows
through them, with the static fields in the stream and without them. Also of the same arms as they
were born, because mixing alone moves the rank: at birth the figures say nothing of collapse.
Besides the rank, how much of the behaviours' variance the static fields explain.

    python -m benchmarks.sequence_study --arms unified_vanilla ... --out ..._token_former.json
    python -m benchmarks.sequence_collapse
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import benchmarks.sequence_study as study
from benchmarks.sequence_arms_token_former import LENGTH, UnifiedStream
from benchmarks.sequence_rows import SequenceBatch, SequenceRows
from benchmarks.sequence_settings import SETTINGS
from sidrank.metrics.sequential_collapse import SequentialCollapse, sequential_collapse

__all__ = ["diagnose", "main", "share_of_fields"]

STUDY = study.FOLDER / "results" / "sequence_study_token_former.json"
RESULT = study.FOLDER / "results" / "sequence_collapse.json"
ROWS = 512  # requests of the test part


def main(given: Sequence[str] | None = None) -> None:
    """Diagnose what the study ran and no earlier diagnosis has; write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    report = json.loads(asked.study.read_text())
    users, runs, logs = report["users"], list[dict[str, Any]](), dict[Any, SequenceRows]()
    if asked.out.exists():
        runs = json.loads(asked.out.read_text())["runs"]
    done = {(run["setting"], run["seed"], run["arm"]) for run in runs}
    for run in report["runs"]:
        setting, seed, name = run["setting"], run["seed"], run["arm"]
        if (setting, seed, name) in done:
            continue
        path = study.scores(name, setting, seed, users).with_suffix(".pt")
        if not path.exists():
            raise SystemExit(f"{path} is missing: run benchmarks.sequence_study again")
        if (setting, seed) not in logs:
            logs = {(setting, seed): SETTINGS[setting].rows(seed, users=users)}
        rows = logs[setting, seed]
        torch.manual_seed(seed)
        model = study.arms()[name].build(rows, seed)
        found = {"born": _found(model, rows)}
        model.load_state_dict(torch.load(path, weights_only=True))
        found["trained"] = _found(model, rows)
        runs.append({"setting": setting, "seed": seed, "arm": name, **found})
        print(seed, setting, name, found["trained"], flush=True)
        _write(asked.out, runs, users)


def diagnose(
    model: UnifiedStream, rows: SequenceRows, *, requests: int = ROWS, min_rows: int = 4096
) -> SequentialCollapse:
    """Effective rank of behaviours after each layer, with the static fields and without.

    Args:
        model: An arm.
        rows: The log; rows of its test part are read.
        requests: How many of them.
        min_rows: Fewest behaviours.

    Returns:
        The report.
    """
    return sequential_collapse(
        model,
        _batches(model, rows, requests),
        layers=[f"encoder.blocks.{layer}" for layer in range(len(model.encoder.blocks))],
        roles=_roles,
        role_names=["behaviour"],
        present=partial(_run, fields=True),
        masked=partial(_run, fields=False),
        min_rows=min_rows,
    )


@torch.no_grad()
def share_of_fields(
    model: UnifiedStream, rows: SequenceRows, *, requests: int = ROWS
) -> list[float]:
    """Share of the behaviours' variance, after each layer, that the static fields explain linearly.

    Args:
        model: An arm.
        rows: The log; rows of its test part are read.
        requests: How many of them.

    Returns:
        A number from 0 to 1 for each layer.
    """
    states: dict[int, list[Tensor]] = {}
    fields: list[Tensor] = []

    def reader(layer: int, batch: SequenceBatch) -> Callable[..., None]:
        def read(_part: nn.Module, _given: object, output: Tensor) -> None:
            states.setdefault(layer, []).append(output[_roles("", output, batch) == 0].double())

        return read

    model.eval()
    for batch in _batches(model, rows, requests):
        hooks = [
            block.register_forward_hook(reader(layer, batch))
            for layer, block in enumerate(model.encoder.blocks)
        ]
        _run(model, batch, fields=True)
        for hook in hooks:
            hook.remove()
        given = model.given[batch.user]
        fields.append(given.repeat_interleave(batch.behaviours.mask.sum(dim=1), dim=0))
    columns = torch.cat(fields).unbind(dim=1)
    told = torch.cat([functional.one_hot(column).double() for column in columns], dim=1)
    left, values, _ = torch.linalg.svd(told - told.mean(dim=0), full_matrices=False)
    basis = left[:, values > 1e-6 * values.max()]
    shares: list[float] = []
    for layer in sorted(states):
        some = torch.cat(states[layer])
        some = some - some.mean(dim=0)
        shares.append(float((basis.T @ some).square().sum() / some.square().sum()))
    return shares


def _batches(model: UnifiedStream, rows: SequenceRows, requests: int) -> list[SequenceBatch]:
    draws = torch.Generator().manual_seed(0)
    test = rows.parts["test"]
    chosen = test[torch.randperm(len(test), generator=draws)[:requests]]
    return [rows.batch(part, model.cut) for part in chosen.split(256)]


def _write(path: Path, runs: list[dict[str, Any]], users: int) -> None:
    """Whole or not at all."""
    runs.sort(key=lambda run: (run["setting"], run["seed"], run["arm"]))
    head = {"command": "python -m benchmarks.sequence_collapse", "users": users, "requests": ROWS}
    lines = ",\n".join(json.dumps(run) for run in runs)  # a line each
    waiting = path.with_suffix(".part")
    waiting.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "runs": [\n{lines}\n]\n}}\n')
    waiting.replace(path)


def _run(model: UnifiedStream, batch: SequenceBatch, fields: bool) -> object:
    """Every token to the top; without fields they are left out of the stream."""
    static, behaviours, mask = model.past(batch)
    static = static if fields else static[:, :0]
    return model.encoder.every_token(static, behaviours, mask, model.targets(batch).unsqueeze(1))


def _roles(layer: str, states: Tensor, batch: SequenceBatch) -> Tensor:
    """0 for a behaviour: real ones follow fields and separator, which windowed layers lack."""
    before = states.shape[1] - (LENGTH + 2)  # behaviours, separator, target
    place = torch.arange(states.shape[1]) - before
    count = batch.behaviours.mask.sum(dim=1, keepdim=True)
    return torch.where((place >= 0) & (place < count), 0, -1)


def _found(model: UnifiedStream, rows: SequenceRows) -> dict[str, list[float]]:
    """Rank with the fields, score, and share of the fields, layer by layer."""
    report = diagnose(model, rows)
    found = {"rank": report.present[:, 0], "score": report.score[:, 0]}
    shares = {name: list(map(float, values)) for name, values in found.items()}
    shares["fields"] = share_of_fields(model, rows)
    return {name: [round(value, 4) for value in values] for name, values in shares.items()}


if __name__ == "__main__":
    main()
