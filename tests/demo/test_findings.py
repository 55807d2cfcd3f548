import pytest

from sidrank.demo.findings import findings, headline, highlights, key_findings
from tests.demo.synthetic import interval, synthetic_report


def badges(report, section="cold_items"):
    return [finding.badge for finding in findings(report)[section]]


def text(report, section="cold_items"):
    return " ".join(finding.text for finding in findings(report)[section])


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (0.06, "Semantic IDs gain +0.060 AUC on items the ranker has never seen"),
        (0.005, "Semantic IDs show no gain on items the ranker has never seen: +0.005 AUC"),
        (-0.005, "Semantic IDs show no gain on items the ranker has never seen: −0.005 AUC"),
        (-0.06, "Semantic IDs lose on items the ranker has never seen: −0.060 AUC"),
    ],
)
def test_headline_follows_the_interval(gain, says):
    assert headline(synthetic_report(gain=gain)).startswith(says)


@pytest.mark.parametrize(
    ("vector", "scalars", "says"),
    [
        (0.0, 0.0, "as much from the raw item vector or its two scalars alone"),
        (0.02, 0.02, "less from the raw item vector or its two scalars alone"),
        (-0.02, 0.0, "more from the raw item vector, as much from its two scalars alone"),
        (0.0, 0.02, "as much from the raw item vector, less from its two scalars alone"),
    ],
)
def test_headline_names_what_the_controls_explain(vector, scalars, says):
    assert headline(synthetic_report(vector=vector, scalars=scalars)).endswith(says)


def test_headline_without_cold_items_speaks_of_all_rows():
    report = synthetic_report()
    del report["splits"]["cold_items"]
    assert headline(report).startswith("Semantic IDs show no gain over the host: +0.000 AUC")
    assert headline({}) == "This run holds no comparison of the hybrid with its host"


def test_a_gain_of_shuffled_codes_is_a_failed_control_on_the_first_screen():
    report = synthetic_report(shuffled=0.03)
    assert headline(report).endswith("shuffled SIDs gain too")
    assert badges(report).count("control fails") == 2
    failed = [finding for finding in key_findings(report) if finding.badge == "control fails"]
    assert failed[0].tone == "loss"
    assert "part of the hybrid's lead is not the content of the codes" in failed[0].text
    assert "control fails" not in badges(synthetic_report(shuffled=-0.03))


@pytest.mark.parametrize(
    ("lead", "badge", "says"),
    [
        (0.02, "explains part", "gains +0.0400 (67% of the hybrid's gain)"),
        (0.0, "explains all", "That explains all that can be shown; the hybrid's lead over it: +"),
        (-0.02, "does better", "gains +0.0800 (133% of the hybrid's gain)"),
    ],
)
def test_what_a_control_explains(lead, badge, says):
    report = synthetic_report(vector=lead, scalars=lead)
    assert badges(report).count(badge) == 4  # two controls, cold items and all rows
    assert says in text(report)


def test_the_control_falls_back_on_the_means_of_the_arms():
    report = synthetic_report(gain=0.06)
    split = report["splits"]["cold_items"]
    for pair in ("host_vector_vs_host", "host_scalars_vs_host"):
        del split["paired"][pair]
    split["arms"]["host_vector"]["auc_cold"] = split["arms"]["host"]["auc_cold"] + 0.03
    assert "gains +0.0300 (50% of the hybrid's gain) from the raw item vector" in text(report)
    split["arms"]["host_scalars"]["auc_cold"] = split["arms"]["host"]["auc_cold"] - 0.03
    assert "changes by −0.0300 from the vector's two scalars" in text(report)


def test_no_control_explains_a_gain_that_is_none():
    assert not any("explains" in badge for badge in badges(synthetic_report(gain=0.0)))


@pytest.mark.parametrize(
    ("low", "badge", "says"),
    [(-0.0029, "not worse", "rules out a cost"), (-0.0031, "level", "allows a cost")],
)
def test_not_worse_is_read_from_the_lower_end(low, badge, says):
    report = synthetic_report()
    report["splits"]["per_user"]["paired"]["hybrid_vs_host"]["auc"] = [0.0, low, 0.01]
    assert badges(report, "per_user")[0] == badge
    assert f"{says} of more than 0.003" in text(report, "per_user")


def test_every_loss_reaches_the_first_screen():
    report = synthetic_report()
    report["splits"]["per_user"]["paired"]["hybrid_vs_host"]["auc"] = interval(-0.02)
    report["upgrade"]["max_abs_delta_logit_step0"] = 0.25
    report["upgrade"]["parameters_moved"] = 6
    report["upgrade"]["paired"]["upgraded_vs_host_continued"]["auc"] = interval(-0.05)
    losses = [finding.text for finding in key_findings(report) if finding.tone == "loss"]
    assert losses == [
        "Each user's last rows: on all rows the hybrid loses to the host, "
        "−0.0200 [−0.0300,\N{NO-BREAK SPACE}−0.0100].",
        "Upgrade: at step 0 the logits differ by up to 0.25; they should not.",
        "Upgrade: 6 of 7 new parameter tensors moved in the extra steps.",
        "Upgrade: on all rows the upgraded host loses to the host trained for the same extra "
        "steps, −0.0500 [−0.0600,\N{NO-BREAK SPACE}−0.0400].",
    ]


def test_a_weak_host_is_called_weak():
    report = synthetic_report(full=True)
    assert "strong host" in badges(report)
    report["splits"]["cold_items"]["arms"]["lr"]["auc"] = 0.7501
    assert "weak host" in badges(report)
    assert "(0.7500) is below one-hot logistic regression" in text(report)


@pytest.mark.parametrize(
    ("real", "shuffled", "badge"),
    [
        ([0.5, 0.4, 0.6], [0.2, 0.1, 0.3], "holds"),
        ([0.5, 0.4, 0.6], [-0.3, -0.4, -0.2], "not shown"),
        ([0.5, -0.1, 0.6], [0.0, -0.1, 0.1], "not shown"),
        ([-0.5, -0.6, -0.4], [0.0, -0.1, 0.1], "not shown"),
    ],
)
def test_the_gate_must_follow_exposure_twice_as_much_as_shuffled_counts(real, shuffled, badge):
    report = synthetic_report()
    report["gate"] |= {"range": real, "range_shuffled": shuffled}
    assert badges(report, "gate") == [badge]
    first_screen = " ".join(finding.text for finding in key_findings(report))
    assert ("Gate: top minus bottom" in first_screen) == (badge == "not shown")


def test_cost_compares_bytes():
    report = synthetic_report()
    assert badges(report, "sid") == ["cheaper"]
    assert "12 bytes as codes and 256 as a raw vector (21.3 ×)" in text(report, "sid")
    report["sid"]["vector_bytes_per_item"] = 6
    assert badges(report, "sid") == ["dearer"]


def test_upgrade_with_shuffled_codes_must_not_gain():
    report = synthetic_report()
    assert badges(report, "upgrade") == ["holds", "holds", "gain", "gain", "control holds"]
    report["upgrade"]["paired"]["upgraded_shuffled_vs_host_continued"]["auc"] = interval(0.03)
    assert badges(report, "upgrade")[-1] == "control fails"


def test_highlights_are_the_measured_ones():
    labels = dict(highlights(synthetic_report()))
    assert labels["Hybrid vs host, cold items"].mean == 0.06
    assert labels["Hybrid vs host + raw vector, cold items"].mean == 0.0
    assert highlights({}) == []
    broken = synthetic_report()
    broken["splits"]["cold_items"]["paired"]["hybrid_vs_host"]["auc"] = [0.1, None, float("nan")]
    assert "Hybrid vs host, all rows" not in dict(highlights(broken))


def test_what_the_gate_does_beside_the_full_host_is_told():
    report = synthetic_report()
    before = badges(report, "gate")
    report["gate"]["host_told_item_statistics"] = [0.25, *[0.5] * 8, 0.75]
    assert badges(report, "gate") == [*before, "elsewhere"]
    assert "0.25 in the least and 0.75 in the most" in findings(report)["gate"][-1].text


@pytest.mark.parametrize("part", ["splits", "upgrade", "gate", "sid"])
def test_an_absent_part_has_no_findings(part):
    for report in (synthetic_report() | {part: None}, synthetic_report() | {part: {}}):
        absent = [part] if part != "splits" else ["cold_items", "per_user", "global_time"]
        assert not any(findings(report).get(section) for section in absent)
        assert len(key_findings(report)) < len(key_findings(synthetic_report())) or part == "gate"
