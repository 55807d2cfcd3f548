import json

import pytest

from benchmarks.claims import ALSO, DEMO, IN_RANKING, PAGE, RESULTS, TOKENIZERS, page
from benchmarks.systems import SYSTEMS
from tests.demo.synthetic import synthetic_report


def test_every_system_has_a_row():
    assert [system.number for system in SYSTEMS] == list(range(1, 32))
    text = page(None)
    for system in SYSTEMS:
        assert f"| {system.number} | {system.name} |" in text
    assert text.count("not yet") == 31 - len(TOKENIZERS | IN_RANKING | ALSO)


def test_a_claim_has_its_results_and_its_table():
    guide = (PAGE.parent / "guide" / "tokenizers-measured.md").read_text()
    slugs = [
        line.removeprefix("## ").lower().replace(" ", "-").replace("?", "").replace("'", "")
        for line in guide.splitlines()
        if line.startswith("## ")
    ]
    for name, claim in TOKENIZERS.items():
        assert name in {system.name for system in SYSTEMS}
        assert (RESULTS / f"{claim.result}.json").exists()
        assert claim.link.rstrip(")").split("#")[1] in slugs


def test_a_claim_shows_its_controls():
    text = page(synthetic_report(full=True))
    assert text.count("not yet") == 31 - len(TOKENIZERS | IN_RANKING | ALSO)
    for words in ("shuffled SIDs", "raw vector", "two scalars", "Upgrade path", "Convex gate"):
        assert words in text


def test_the_committed_page_is_what_the_results_say():
    if not DEMO.exists():
        pytest.skip("no results yet: make claims")
    assert PAGE.read_text() == page(json.loads(DEMO.read_text()))
