import dataclasses

import numpy as np
import pytest

from sidrank.demo import work
from sidrank.demo.work import Task, sid_quality
from sidrank.semantic_ids import SIDTable


def run(fold, arm, monkeypatch):
    monkeypatch.setattr(work, "_fold", lambda *_: fold)
    return work._run(Task("cold_items", 0, arm, None))


def test_low_coverage_of_the_semantic_ids_is_an_error(fold, monkeypatch):
    few = fold.table.item_ids[::10]
    table = SIDTable(few, fold.table.lookup(few), spec=fold.table.spec)
    stale = dataclasses.replace(fold, table=table)
    with pytest.raises(ValueError, match=r"coverage of item must be at least 0.5, got 0"):
        run(stale, "hybrid", monkeypatch)


def test_an_arm_without_semantic_ids_has_no_coverage_to_check(fold, monkeypatch):
    result = run(fold, "host_scalars", monkeypatch)
    assert result.judged.logits["host_scalars"].shape == fold.judge.shape
    assert result.parameters > 0
    assert result.seconds > 0
    assert not len(result.gate)


def test_regression_ranks(fold, monkeypatch):
    result = run(fold, "lr", monkeypatch)
    logits, labels = result.judged.logits["lr"], fold.labels
    wins = logits[labels == 1][:, None] > logits[labels == 0]
    assert wins.mean() > 0.6


def test_rows_are_counted(fold, monkeypatch):
    rows = run(fold, "sid", monkeypatch).rows
    assert rows["head"] + rows["new_tail"] == rows["test"] == len(fold.judge)
    assert rows["cold"] == np.isin(fold.frequency, 0).sum()
    assert rows["test_users"] <= rows["test"]


def test_what_an_item_costs(fold):
    found = sid_quality(fold)
    assert found["sid_bytes_per_item"] == 4 * fold.table.spec.num_levels
    assert found["vector_bytes_per_item"] == fold.vectors.vectors[0].nbytes
    assert [sum(level) for level in found["usage"]] == [len(fold.table)] * 2
