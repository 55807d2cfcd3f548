"""What a trained arm has read of a planted log: its logits against each part of the true one.

Adds ``reads`` to a study's result, from the logits that the study left in ``build/``: for each
planted setting, arm and part the mean correlation over the seeds. A model that knew all would
correlate with each part as much as the true logit does, which stands there as ``truth``.

    python -m benchmarks.sequence_reads benchmarks/results/sequence_study_hyformer.json
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import benchmarks.sequence_study as study
from benchmarks.sequence_settings import SETTINGS

__all__ = ["main"]

Reads = dict[str, dict[str, list[float]]]


def main(given: Sequence[str] | None = None) -> None:
    """Read logits, write correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    path: Path = parser.parse_args(given).study
    report = study.json.loads(path.read_text())
    users, found = report["users"], dict[str, Reads]()
    pairs = sorted({(run["setting"], run["seed"]) for run in report["runs"]})
    for setting, seed in pairs:
        rows = SETTINGS[setting].rows(seed, users=users)
        if rows.probability is None:
            continue
        test = rows.parts["test"]
        parts = {name: values[test].numpy() for name, values in rows.logit_parts.items()}
        logits = {"truth": np.sum(list(parts.values()), axis=0)}
        for run in report["runs"]:
            if (run["setting"], run["seed"]) == (setting, seed):
                logits[run["arm"]] = np.load(study.scores(run["arm"], setting, seed, users))
        for arm, values in logits.items():
            table = found.setdefault(setting, {}).setdefault(arm, {})
            for part, truth in parts.items():
                table.setdefault(part, []).append(float(np.corrcoef(values, truth)[0, 1]))
    report["reads"] = {
        setting: {
            arm: {part: round(statistics.fmean(each), 4) for part, each in table.items()}
            for arm, table in tables.items()
        }
        for setting, tables in found.items()
    }
    study.write(path, report)


if __name__ == "__main__":
    main()
