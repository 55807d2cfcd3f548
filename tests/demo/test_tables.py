import io

from rich.console import Console

from sidrank.demo.findings import headline
from sidrank.demo.tables import print_tables
from tests.demo.synthetic import synthetic_report


def printed(report, width=80):
    stream = io.StringIO()
    print_tables(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_tables_fit_a_terminal_and_cut_no_number():
    text = printed(synthetic_report(full=True))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "[+0.0500,\N{NO-BREAK SPACE}+0.0700]" in text
    assert "0.7500" in text


def test_the_headline_and_the_losses_are_printed():
    report = synthetic_report(gain=-0.06)
    text = " ".join(printed(report, width=200).split())
    assert headline(report) + "." in text
    assert "on cold items the hybrid loses to the host, −0.0600" in text


def test_only_what_is_there_is_printed():
    report = synthetic_report()
    text = printed({"splits": {"per_user": {"arms": report["splits"]["per_user"]["arms"]}}})
    assert "Each user's last rows" in text
    assert "Cold-item" not in text
    assert printed({}).strip() == "This run holds no comparison of the hybrid with its host."


def test_an_arm_without_a_metric_is_not_available():
    report = synthetic_report()
    report["splits"]["per_user"]["arms"]["host"]["auc"] = None
    assert "n/a" in printed(report)
