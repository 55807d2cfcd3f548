"""The words of the sequence pages follow from the intervals."""

import math
from typing import Any

import pytest

from benchmarks.compression_pages import compression_study
from benchmarks.paired_seeds import half_closed, interval, labelled, paired, spans, verdict
from benchmarks.sparse_pages import sparse_study


def report(setting: str, reached: dict[str, list[float]]) -> dict[str, Any]:
    runs = [
        {"setting": setting, "seed": seed, "arm": arm, "auc": value, "layers": 9, "seconds": 1.0}
        | {"recipe": {"epochs": 4, "step": 0.003}}
        for arm, values in reached.items()
        for seed, value in enumerate(values, start=1)
    ]
    return {"users": 100, "runs": runs, "differences": {}}


def test_pairs_are_of_seeds_that_both_arms_have() -> None:
    found = report("long_brief", {"one": [0.7, 0.8, 0.9], "other": [0.6, 0.6]})
    assert paired(found, "long_brief", "one", "other") == pytest.approx([0.1, 0.2])
    share, beyond = half_closed(found, "long_brief", "other", "other", "one")
    assert share == 0.0
    assert beyond == pytest.approx([-0.05, -0.1])


def test_the_interval_is_students() -> None:
    span = interval([1.0, 2.0, 3.0])
    assert span == pytest.approx((2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert interval([1.0]) == (1.0, -math.inf, math.inf)
    assert interval([]) is None


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([(0.1, 0.05, 0.2)], "confirmed"),
        ([(0.1, -0.05, 0.2)], "open"),
        ([(-0.1, -0.2, -0.05)], "**denied**"),
        ([(0.1, 0.05, 0.2), (0.1, -0.01, 0.2)], "open"),
        ([(0.1, 0.05, 0.2), None], "open"),
        ([None], "open"),
    ],
)
def test_words(found: list[tuple[float, float, float] | None], word: str) -> None:
    assert verdict(*found) == word


def test_real_rows_need_both_intervals() -> None:
    some = report("movielens_per_user", {"one": [0.7, 0.71], "other": [0.6, 0.61]})
    assert spans(some, "movielens_per_user", "one", "other")[1] is None
    some["differences"]["movielens_per_user: other - one"] = {"auc": [-0.1, -0.2, -0.05]}
    assert labelled(some, "movielens_per_user", "one", "other") == (0.1, 0.05, 0.2)


def test_pages_say_what_the_figures_say() -> None:
    low, high = [0.6, 0.601, 0.602], [0.7, 0.702, 0.701]
    arms = {"compression_recent": low, "compression_full": high, "compression_tokens": high}
    page = compression_study(report("long_brief", arms))
    assert "what they close − half | confirmed" in page
    assert "stranger's past |" not in page  # that arm did not run
    page = compression_study(report("long_brief", arms | {"compression_tokens": low}))
    assert "what they close − half | **denied**" in page
    arms = {"sparse_equal": low, "sparse_shuffled": low[::-1], "sparse_time": high}
    page = sparse_study(report("session", arms))
    assert "above equal ones | confirmed" in page
    assert "half of the gain is left | confirmed" in page
