"""The soak, by steps instead of by the clock; and what it would see."""

import json

import pytest
import torch

from benchmarks import serving_soak, soak_training, version_swap
from benchmarks.serving_soak import Clients, Server, Size
from benchmarks.soak_pages import serving_soak as soak_page
from benchmarks.soak_pages import version_swap as swap_page
from benchmarks.soak_training import Trainer

SOAK = json.loads(serving_soak.RESULTS.read_text())
SWAP = json.loads(version_swap.RESULTS.read_text())
SIZE = Size(rows=40_000, items=2_000, users=200, item_rows=20_000, ticks=30, requests=4)


@pytest.fixture
def stages(tmp_path):
    """A folder with a first version, and a trainer that goes on."""
    return tmp_path, Trainer(SIZE, tmp_path)


@pytest.fixture
def server(stages):
    return Server(SIZE, stages[0])


def test_train_serve_swap(stages, monkeypatch):
    """Steps of the trainer are what drives it; clients ask all the while."""
    monkeypatch.setattr(serving_soak, "POISON_EVERY", 3)
    monkeypatch.setattr(serving_soak, "ROLLBACK_EVERY", 4)
    folder, trainer = stages
    server = Server(SIZE, folder)
    samples, swaps, lines = [], [], []
    with Clients(server):
        for step in range(7):
            answers = server.answers
            assert server.take() is None
            loss = trainer.train()
            lines.append({"loss": loss} | trainer.publish())
            swaps.append(server.take())
            samples.append({"seconds": float(step), "living": server.living()})
            samples[-1] |= serving_soak.memory()
            while server.answers < answers + 6 and not server.errors:
                server.ask(step)
    report = serving_soak.summary(server, samples, swaps, lines)
    serving_soak.held(report)
    assert (report["versions"], report["rollbacks"], report["refused"]) == (8, 2, 6)
    assert report["answers"] > 40
    assert report["versions_met"] == 8
    assert report["new_items"] > 0
    assert report["memory"]["VmRSS"]["warm_mib"] > 0
    torch.testing.assert_close(server.expected[8], soak_training.expected(folder, 8))


class TestSees:
    def test_an_answer_of_another_version(self, server, stages):
        _, trainer = stages
        trainer.train()
        other = trainer.answers()
        assert not any(map(torch.equal, other, server.expected[1]))
        server.expected[1] = other
        server.ask(0)
        with pytest.raises(AssertionError, match="'wrong_answers': 1"):
            serving_soak.held(summary_of(server))

    def test_a_client_that_fails(self, server):
        del server.expected[1]
        with Clients(server, number=1) as clients:
            clients.threads[0].join()
        with pytest.raises(AssertionError, match="KeyError"):
            serving_soak.held(summary_of(server))

    def test_a_version_that_stays(self, server):
        server.ask(0)
        with pytest.raises(AssertionError, match="9"):
            serving_soak.held(summary_of(server, living=9))

    def test_memory_that_grows(self):
        samples = [{"seconds": 60.0 * k, "VmRSS": 1000.0 + 3 * k} for k in range(60)]
        found = serving_soak.flatness(samples, "VmRSS")
        assert found["mib_per_hour"] == pytest.approx(180.0)
        assert found["highest"] > 0.12


def summary_of(server, living=1):
    sample = {"seconds": 0.0, "living": living} | serving_soak.memory()
    swap = {"load_ms": 0.0, "apply_ms": 0.0, "publish_ms": 0.0, "bytes": 0}
    return serving_soak.summary(server, [sample], [swap], [{"items": 0, "loss": 0.5}])


def test_durations_are_told_to_a_percent():
    found = serving_soak.Histogram()
    for value in torch.linspace(0.01, 0.02, 1001).tolist():
        found.add(value)
    assert found.quantile(0.5) == pytest.approx(0.015, rel=0.011)
    assert found.quantile(0.99) == pytest.approx(0.0199, rel=0.011)
    assert found.largest == pytest.approx(0.02)
    json.dumps(found.largest)


@pytest.mark.parametrize("how", ["scattered", "together"])
def test_versions_of_a_table_are_timed_and_weighed(how):
    found = version_swap.measure(20_000, how, 100, rounds=2)
    assert set(found["seconds"]) == {"copy", "compare", "apply"}
    assert min(found["seconds"].values()) > 0
    assert found["delta_mib"] == pytest.approx(100 * (8 + 256) / 2**20, rel=0.05)


class TestCommitted:
    def test_twenty_minutes_without_an_error_or_a_torn_answer(self):
        assert SOAK["seconds"] > 1190
        serving_soak.held(SOAK)
        assert SOAK["versions"] == SOAK["versions_met"]

    def test_memory_was_flat(self):
        for name in ("VmRSS", "RssAnon"):  # not Pss: it falls and rises with others' processes
            found = SOAK["memory"][name]
            assert -0.02 < found["lowest"] <= found["highest"] < 0.02

    def test_a_small_change_takes_no_second_table(self):
        case = SWAP["cases"][0]
        assert (case["how"], case["changed"]) == ("scattered", 2_000)
        assert case["more_of_table"] < 0.15

    def test_the_pages_tell_it(self):
        text = soak_page(SOAK)
        assert f"All {SOAK['answers']:,} answers" in text
        assert text.count("| resident set") == 2
        assert swap_page(SWAP).count(" scattered |") == 2
