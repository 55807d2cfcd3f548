"""Versions are swapped under readers: no answer is made of two, and none waits."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
import torch

from sidrank.serving.candidate_scorer import CandidateScorer
from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.ranker_version import RankerVersion
from sidrank.serving.versions import Versions
from tests.serving import version_models as models

SWAPS, READERS = 40, 4


@pytest.fixture
def often():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def next_version(version, model, number, rows=(0,)):
    model.set_to(number, rows)
    return apply_delta(version, delta_between(version, model))


class TestReaders:
    def test_never_meet_a_torn_version(self, often):
        """Every weight tells its number: items with a SID, rows of the table, the dense layer."""
        draw = np.random.default_rng(0)
        model = models.Numbered()
        version = RankerVersion.first(model)
        versions = Versions(version)
        # what row holds what number in every version, told beforehand
        changed = [draw.choice(models.ROWS, 300, replace=False) for _ in range(SWAPS)]
        content = [np.zeros(models.ROWS)]
        for number, rows in enumerate(changed, 1):
            content.append(content[-1].copy())
            content[-1][rows] = number
        stop, faults, met = threading.Event(), [], set()

        def read(seed):
            requests = models.numbered_requests([40, 25, 60], seed=seed)
            asked = requests.candidates["item"].values().numpy()
            while not stop.is_set():
                with versions.pin() as held:
                    scores = CandidateScorer(held, most_candidates=30).score(requests)
                number = held.number - 1
                met.add(number)
                wanted = np.stack([np.full(125, number), content[number][asked], [number] * 125], 1)
                if not np.array_equal(torch.cat(scores).numpy(), wanted):
                    faults.append((number, torch.cat(scores)))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(READERS)]
        for thread in threads:
            thread.start()
        del version
        for number, rows in enumerate(changed, 1):
            versions.publish(next_version(versions.current, model, number, np.sort(rows)))
            if number % 10 == 0:
                again = versions.current
                assert versions.rollback().number == number
                versions.publish(again)
                del again
        stop.set()
        for thread in threads:
            thread.join()
        assert faults == []
        assert len(met) > 3
        assert versions.living() == [SWAPS, SWAPS + 1]

    def test_of_one_scoring_meet_one_version(self):
        """Though it takes several calls, and versions are published between them."""
        model = models.Numbered(rows=64)
        versions = Versions(RankerVersion.first(model))
        plain, seen = RankerVersion.rank, []

        def rank(version, requests):
            seen.append(version.number)
            versions.publish(next_version(versions.current, model, len(seen)))
            return plain(version, requests)

        scorer = CandidateScorer(versions, most_candidates=4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RankerVersion, "rank", rank)
            scores = torch.cat(scorer.score(models.numbered_requests(rows=1)))
        assert len(seen) > 2
        assert set(seen) == {1}
        assert not scores.any()
        assert versions.current.number == len(seen) + 1

    def test_go_on_with_the_version_they_began_with(self):
        model = models.Numbered(rows=64)
        versions = Versions(RankerVersion.first(model))
        with versions.pin() as held:
            for number in (1, 2, 3):
                versions.publish(next_version(versions.current, model, number))
            assert versions.living() == [1, 3, 4]
            assert not held.rank(models.numbered_requests(rows=64)).any()
        old = weakref.ref(held.model)
        gc.disable()
        try:
            del held
            assert old() is None
        finally:
            gc.enable()
        assert versions.living() == [3, 4]
        assert (versions.rank(models.numbered_requests(rows=1)) == 3.0).all()

    def test_do_not_wait_for_a_publisher(self):
        """Nor for its check: a request is scored while a version is being checked."""
        model = models.Numbered(rows=64)
        found = []

        def check(version, current):
            if current is not None:
                reader = threading.Thread(
                    target=lambda: found.append(versions.rank(models.numbered_requests(rows=1)))
                )
                reader.start()
                reader.join(timeout=20)

        versions = Versions(RankerVersion.first(model), check=check)
        versions.publish(next_version(versions.current, model, 1))
        assert len(found) == 1
        assert not found[0].any()


class TestPublishers:
    def test_of_two_from_one_version_only_one_gets_through(self):
        """The second comes while the first is being checked: it waits, and is refused then."""
        model = models.Numbered(rows=64)
        base = RankerVersion.first(model)
        one, other = next_version(base, model, 1), next_version(base, model, 2)
        refused, late = [], []

        def publish():
            try:
                versions.publish(other)
            except ValueError as error:
                refused.append(str(error))

        def check(version, current):
            if version is one:
                late.append(threading.Thread(target=publish))
                late[0].start()
                late[0].join(timeout=0.3)
                assert versions.current is base

        versions = Versions(base, check=check)
        versions.publish(one)
        late[0].join()
        assert versions.current is one
        assert "version must have grown from the current version 2" in refused[0]

    def test_a_version_of_another_line(self):
        model = models.Numbered(rows=64)
        base = RankerVersion.first(model)
        versions = Versions(base)
        second = next_version(base, model, 1)
        third = next_version(second, model, 2)
        with pytest.raises(
            ValueError, match=rf"current version 1 \({base.hash}\), got version 3 .* {second.hash}"
        ):
            versions.publish(third)
        versions.publish(second)
        versions.publish(third)
        versions.publish(RankerVersion.first(model))  # a new beginning
        assert versions.current.number == 1

    def test_rollback_goes_one_step_back(self):
        model = models.Numbered(rows=64)
        base = RankerVersion.first(model)
        versions = Versions(base)
        with pytest.raises(ValueError, match=r"must follow a publish, got none since .* 1"):
            versions.rollback()
        second = next_version(base, model, 1)
        versions.publish(second)
        assert versions.rollback() is base
        with pytest.raises(ValueError, match="rollback must follow a publish"):
            versions.rollback()
        versions.publish(second)
        assert versions.current is second

    def test_what_the_check_refuses_does_not_serve(self):
        def check(version, current):
            if version.number == 2:
                raise ValueError("no")

        model = models.Numbered(rows=64)
        base = RankerVersion.first(model)
        versions = Versions(base, check=check)
        with pytest.raises(ValueError, match="no"):
            versions.publish(next_version(base, model, 1))
        assert versions.current is base
        with pytest.raises(ValueError, match="rollback must follow a publish"):
            versions.rollback()

    def test_the_first_is_checked(self):
        def check(version, current):
            assert current is None
            raise ValueError("not even this one")

        with pytest.raises(ValueError, match="not even this one"):
            Versions(RankerVersion.first(models.Numbered(rows=64)), check=check)
