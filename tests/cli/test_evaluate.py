import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.cli.evaluation_figures import probabilities
from sidrank.metrics import auc, grouped_auc, log_loss, normalized_entropy
from sidrank.metrics.bootstrap import cluster_bootstrap
from sidrank.metrics.calibration import brier_score, calibration, expected_calibration_error
from sidrank.metrics.delong import delong, paired_delong
from sidrank.metrics.multiplicity import benjamini_hochberg
from sidrank.metrics.slices import slice_metrics
from tests.cli.evaluations import evaluate, figures, impressions
from tests.data.row_files import FORMATS, write_rows

WEIGHTINGS = ("unweighted", "impressions", "positives")
KEYS = {
    "rows", "positives", "auc", "logloss", "normalized_entropy", "calibration", "ece", "gauc",
    "groups", "slices", "compare", "auc_interval", "brier", "gauc_interval", "notes",
}  # fmt: skip
COMPARE_KEYS = {
    "delta_auc", "p_value", "interval", "auc", "gauc", "delta_gauc", "delta_gauc_interval",
    "logloss", "normalized_entropy", "calibration", "brier", "ece",
}  # fmt: skip


@pytest.fixture(scope="module")
def log():
    return impressions()


@pytest.fixture(scope="module")
def path(log, tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("log") / "log.parquet", log)


class TestKeys:
    @pytest.mark.parametrize(
        "options", [{}, {"group": "user"}, {"slice": "country"}, {"compare": "old"}]
    )
    def test_are_always_the_same(self, path, options):
        found = figures(path, **options)
        assert set(found) == KEYS
        assert (found["gauc"] is None) == (found["groups"] is None) == ("group" not in options)
        assert (found["slices"] == {}) == ("slice" not in options)
        assert (found["compare"] is None) == ("compare" not in options)
        for each in found["slices"].values():
            assert set(each) == KEYS - {"slices", "notes"}

    def test_of_what_is_nested(self, path):
        found = figures(path, group="user", compare="old", slice="country")
        assert set(found["gauc"]) == set(found["gauc_interval"]) == set(WEIGHTINGS)
        assert set(found["groups"]) == {"total", "used", "single_class"}
        assert set(found["compare"]) == COMPARE_KEYS
        for each in found["slices"].values():
            assert set(each["compare"]) == COMPARE_KEYS | {"adjusted_p_value"}


class TestNumbers:
    def test_equal_direct_calls(self, log, path):
        found = figures(path, group="user")
        labels, scores = log["label"], log["score"]
        assert found["rows"] == 400
        assert found["positives"] == labels.sum()
        assert found["auc"] == auc(labels, scores)
        estimate = delong(labels, scores, groups=log["user"])
        assert found["auc_interval"] == [estimate.low, estimate.high]
        assert found["logloss"] == log_loss(labels, scores)
        assert found["normalized_entropy"] == normalized_entropy(labels, scores)
        assert found["calibration"] == calibration(labels, scores)
        assert found["brier"] == brier_score(labels, scores)
        assert found["ece"] == expected_calibration_error(labels, scores)
        assert found["gauc"] == {
            kind: grouped_auc(labels, scores, log["user"], weighting=kind) for kind in WEIGHTINGS
        }
        users = [labels[log["user"] == user] for user in np.unique(log["user"])]
        used = sum(0 < user.sum() < len(user) for user in users)
        assert found["groups"] == {
            "total": len(users), "used": used, "single_class": len(users) - used,
        }  # fmt: skip
        assert found["notes"] == []

    def test_with_weights(self, log, path):
        found = figures(path, group="user", weight="weight", compare="old")
        given = (log["label"], log["score"], log["weight"])
        assert found["rows"] == 400
        assert found["auc"] == auc(*given)
        assert found["logloss"] == log_loss(*given)
        assert found["ece"] == expected_calibration_error(*given)
        for kind in WEIGHTINGS:
            expected = grouped_auc(*given[:2], log["user"], weights=given[2], weighting=kind)
            assert found["gauc"][kind] == expected
        delta = auc(*given) - auc(log["label"], log["old"], log["weight"])
        assert found["compare"]["delta_auc"] == delta
        assert found["auc_interval"] is found["compare"]["interval"] is None
        assert found["compare"]["p_value"] is None
        assert found["notes"] == [
            "Rows are weighted: AUC and its difference have no interval and no p-value."
        ]

    def test_comparison(self, log, path):
        found = figures(path, compare="old", group="user")["compare"]
        expected = paired_delong(log["label"], log["score"], log["old"], groups=log["user"])
        assert found["auc"] == auc(log["label"], log["old"])
        assert found["delta_auc"] == expected.difference > 0
        assert found["interval"] == [expected.low, expected.high]
        assert found["p_value"] == expected.p_value
        assert found["logloss"] == log_loss(log["label"], log["old"])
        for kind in WEIGHTINGS:
            mine, theirs = (
                grouped_auc(log["label"], log[name], log["user"], weighting=kind)
                for name in ("score", "old")
            )
            assert found["gauc"][kind] == theirs
            assert found["delta_gauc"][kind] == pytest.approx(mine - theirs, abs=1e-15)

    def test_comparison_with_itself(self, path):
        found = figures(path, compare="score", group="user")["compare"]
        assert (found["delta_auc"], found["interval"], found["p_value"]) == (0, [0, 0], 1)
        assert found["delta_gauc"] == dict.fromkeys(WEIGHTINGS, 0)

    @pytest.mark.parametrize("kind", WEIGHTINGS)
    @pytest.mark.parametrize("compare", [None, "old"])
    def test_gauc_interval_is_near_the_bootstrap(self, log, path, kind, compare):
        found = figures(path, group="user", **({"compare": compare} if compare else {}))
        ends = found["compare"]["delta_gauc_interval"] if compare else found["gauc_interval"]
        control = log[compare] if compare else None
        drawn = cluster_bootstrap(
            log["label"], log["score"], log["user"], control=control, weighting=kind
        )
        assert ends[kind] == pytest.approx([drawn.low, drawn.high], abs=0.03)
        assert ends[kind][1] - ends[kind][0] == pytest.approx(drawn.high - drawn.low, rel=0.15)

    def test_slices_are_files_of_their_own(self, log, path, tmp_path):
        found = figures(path, slice="country", group="user", compare="old", weight="weight")
        assert list(found["slices"]) == ["de", "fr", "us"]
        for country, each in found["slices"].items():
            rows = {name: column[log["country"] == country] for name, column in log.items()}
            alone = figures(
                write_rows(tmp_path / f"{country}.parquet", rows),
                group="user", compare="old", weight="weight",
            )  # fmt: skip
            each["compare"].pop("adjusted_p_value")
            assert each == {name: alone[name] for name in each}

    def test_slices_equal_the_table_of_slices(self, log, path):
        found = figures(path, slice="country")["slices"]
        table = slice_metrics(log["label"], log["score"], log["country"])
        assert [each["auc"] for each in found.values()] == table.auc.tolist()
        for key, column in (("logloss", table.log_loss), ("calibration", table.calibration)):
            assert [each[key] for each in found.values()] == pytest.approx(column, rel=1e-12)

    def test_p_values_of_slices_are_adjusted(self, path):
        found = figures(path, slice="country", compare="old")["slices"]
        compared = [each["compare"] for each in found.values()]
        expected = benjamini_hochberg([each["p_value"] for each in compared])
        assert [each["adjusted_p_value"] for each in compared] == expected.tolist()


class TestInvariance:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_to_the_format(self, log, path, suffix, tmp_path):
        options = {"group": "user", "compare": "old", "slice": "country"}
        other = write_rows(tmp_path / f"log.{suffix}", log)
        assert figures(other, **options) == figures(path, **options)
        one, two = (figures(each, group="user", weight="weight") for each in (path, other))
        for key in ("auc", "logloss", "calibration", "ece", "groups"):
            assert one[key] == two[key]
        assert one["gauc"] == pytest.approx(two["gauc"], rel=1e-14)

    @settings(max_examples=10)
    @given(seed=st.integers(0, 2**32), size=st.integers(1, 450))
    def test_to_the_order_of_rows_and_row_groups(self, log, path, tmp_path_factory, seed, size):
        order = np.random.default_rng(seed).permutation(400)
        other = tmp_path_factory.mktemp("order") / "log.parquet"
        write_rows(other, {name: each[order] for name, each in log.items()}, row_group_size=size)
        options = {"group": "user", "compare": "old", "slice": "country"}
        one, two = figures(path, **options), figures(other, **options)
        assert one["auc"] == two["auc"]
        assert one["auc_interval"] == two["auc_interval"]
        assert one["gauc"] == two["gauc"]
        assert one["compare"]["p_value"] == two["compare"]["p_value"]
        assert one["logloss"] == pytest.approx(two["logloss"], rel=1e-14)
        assert list(one["slices"]) == list(two["slices"])

    def test_to_the_names_of_groups(self, path):
        one, two = figures(path, group="user"), figures(path, group="name")
        for key in ("gauc", "groups", "auc_interval"):
            assert one[key] == two[key]

    def test_to_parts(self, log, path, tmp_path):
        for name, rows in (("a", slice(0, 150)), ("b", slice(150, None))):
            part = {name: column[rows] for name, column in log.items()}
            write_rows(tmp_path / f"{name}.parquet", part)
        assert figures(tmp_path, group="name") == figures(path, group="name")

    def test_to_how_whole_numbers_are_stored(self, log, tmp_path):
        found = []
        for kind in (np.int8, np.float32, np.bool_):
            rows = {
                "label": log["label"].astype(kind),
                "score": (log["logit"] * 100).astype(np.int64),
            }
            found.append(figures(write_rows(tmp_path / "log.parquet", rows)))
        assert found[0] == found[1] == found[2]


class TestScales:
    def test_logits(self, log, path, tmp_path):
        plain = figures(path, group="user")
        rows = log | {"score": log["logit"]}
        found = figures(write_rows(tmp_path / "log.parquet", rows), group="user", logits=True)
        assert found["auc"] == plain["auc"]
        assert found["gauc"] == plain["gauc"]
        for key in ("logloss", "normalized_entropy", "calibration", "brier", "ece"):
            assert found[key] == pytest.approx(plain[key], rel=1e-12)

    def test_extreme_logits(self):
        logits = np.array([-np.inf, -745.0, -40.0, 0.0, 40.0, 745.0, np.inf])
        expected = [0.0, 0.0, np.exp(-40.0), 0.5, 1.0, 1.0, 1.0]
        assert probabilities(logits, "logit").tolist() == pytest.approx(expected, rel=1e-15)

    @pytest.mark.parametrize("score", [1.0000001, -1e-9, np.inf])
    def test_what_is_no_probability_still_ranks(self, log, tmp_path, score):
        rows = log | {"score": log["score"].copy()}
        rows["score"][7] = score
        found = figures(write_rows(tmp_path / "log.parquet", rows), group="user", slice="country")
        assert found["auc"] == auc(rows["label"], rows["score"])
        names = ("logloss", "normalized_entropy", "calibration", "brier", "ece")
        for each in (found, *found["slices"].values()):
            assert [each[name] for name in names] == [None] * 5
        assert "--logits" in found["notes"][0]


class TestWhatCannotBeSaid:
    def test_slice_of_one_class(self, log, tmp_path):
        rows = log | {"country": np.where(log["label"] == 1, "yes", log["country"])}
        rows["country"][:200] = log["country"][:200]
        found = figures(write_rows(tmp_path / "log.parquet", rows), slice="country", group="user")
        one = found["slices"]["yes"]
        assert one["positives"] == one["rows"] > 0
        assert one["auc"] is one["auc_interval"] is one["normalized_entropy"] is None
        assert one["gauc"] == dict.fromkeys(WEIGHTINGS)
        assert one["groups"]["used"] == 0
        assert one["logloss"] is not None
        assert found["notes"] == ["1 of 4 slices have one class and no AUC."]

    def test_slice_without_weight(self, log, tmp_path):
        rows = log | {"weight": np.where(log["country"] == "us", 0.0, 1.0)}
        path = write_rows(tmp_path / "log.parquet", rows)
        found = figures(path, slice="country", weight="weight", group="user", compare="old")
        one = found["slices"]["us"]
        assert one["rows"] > 0
        assert {one[key] for key in ("auc", "logloss", "calibration", "brier", "ece")} == {None}
        assert one["gauc"] is one["groups"] is one["compare"]["delta_auc"] is None

    def test_groups_of_one_row(self, log, tmp_path):
        rows = log | {"user": np.arange(400)}
        found = figures(write_rows(tmp_path / "log.parquet", rows), group="user")
        assert found["gauc"] == found["gauc_interval"] == dict.fromkeys(WEIGHTINGS)
        assert found["groups"] == {"total": 400, "used": 0, "single_class": 400}
        assert found["auc"] is not None
        assert "No group holds both classes: there is no GAUC." in found["notes"]

    def test_one_positive(self, tmp_path):
        rows = {"label": [0, 0, 1], "score": [0.1, 0.2, 0.3], "old": [0.2, 0.1, 0.1]}
        found = figures(write_rows(tmp_path / "log.parquet", rows), compare="old")
        assert found["auc"] == 1.0
        assert found["auc_interval"] is found["compare"]["p_value"] is None
        assert found["compare"]["delta_auc"] == 0.75
        assert "at least 2 positives" in found["notes"][0]

    def test_difference_too_large_to_test(self, tmp_path):
        rows = {"label": [0, 0, 1, 1], "score": [0.1, 0.2, 0.3, 0.4], "old": [0.4, 0.3, 0.2, 0.1]}
        found = figures(write_rows(tmp_path / "log.parquet", rows), compare="old")["compare"]
        assert found["delta_auc"] == 1.0
        assert found["interval"] is found["p_value"] is None


class TestTables:
    def test_show_the_figures(self, path):
        code, output, errors = evaluate(path, group="user", compare="old", slice="country")
        found = figures(path, group="user", compare="old", slice="country")
        assert (code, errors) == (0, "")
        for value in (found["auc"], found["gauc"]["unweighted"], found["ece"], found["logloss"]):
            assert f"{value:.6f}" in output
        for value in (found["slices"]["de"]["auc"], found["slices"]["us"]["auc"]):
            assert f"{value:.4f}" in output
        assert "clustered by group" in output
        assert max(len(line) for line in output.splitlines()) <= 80

    def test_say_what_is_null(self, log, tmp_path):
        path = write_rows(tmp_path / "log.parquet", log | {"score": log["logit"]})
        code, output, _ = evaluate(path)
        assert code == 0
        assert "are no probabilities" in " ".join(output.split())

    def test_most_slices_are_left_to_json(self, log, tmp_path):
        rows = log | {"slice": np.arange(400) // 4}
        path = write_rows(tmp_path / "log.parquet", rows)
        code, output, _ = evaluate(path, slice="slice")
        assert code == 0
        assert "and 70 smaller slices: --json has all" in output
        assert list(figures(path, slice="slice")["slices"]) == [str(n) for n in range(100)]

    def test_names_do_not_command_the_terminal(self, log, tmp_path):
        rows = log | {"country": np.array(["\x1b[2J", "[red]x"])[np.arange(400) % 2]}
        _, output, _ = evaluate(write_rows(tmp_path / "log.parquet", rows), slice="country")
        assert "\x1b" not in output
        assert "\\x1b[2J" in output
        assert "[red]x" in output


def test_the_real_command(path):
    command = [sys.executable, "-m", "sidrank.cli", "evaluate", str(path), "--json"]
    command += ["--label", "label", "--score", "score", "--group", "user"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stderr == ""
    assert json.loads(done.stdout) == figures(path, group="user")
