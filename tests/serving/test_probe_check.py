"""A version that answers badly is refused before it serves."""

import pytest
import torch

from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.probe_check import ProbeCheck
from sidrank.serving.ranker_version import RankerVersion
from sidrank.serving.versions import Versions
from tests.serving import version_models as models


@pytest.fixture
def live():
    model = models.hybrid()
    check = ProbeCheck(models.hybrid_requests(), largest_shift=0.1)
    return model, Versions(RankerVersion.first(model), check=check)


def last_bias(model):
    return [part for name, part in model.named_parameters() if name.endswith("bias")][-1]


def publish(model, versions):
    versions.publish(apply_delta(versions.current, delta_between(versions.current, model)))


class TestHybrid:
    def test_that_trained_on_is_taken(self, live):
        model, versions = live
        models.train(model)
        publish(model, versions)
        assert versions.current.number == 2

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_with_a_poisoned_weight_is_refused(self, live, value):
        model, versions = live
        before = versions.rank(models.hybrid_requests())
        with torch.no_grad():
            last_bias(model).fill_(value)
        with pytest.raises(ValueError, match="finite logits on the probe, got 13 of 13 candidates"):
            publish(model, versions)
        assert versions.current.number == 1
        assert torch.equal(versions.rank(models.hybrid_requests()), before)

    def test_with_a_poisoned_row_of_a_candidate_is_refused(self, live):
        model, versions = live
        item = int(models.hybrid_requests().candidates["item"].values()[4])
        table = next(p for name, p in model.named_parameters() if "t_item" in name)
        with torch.no_grad():
            table[item] = float("nan")
        with pytest.raises(ValueError, match="version must give finite logits"):
            publish(model, versions)

    def test_that_jumps_is_refused(self, live):
        model, versions = live
        with torch.no_grad():
            last_bias(model).add_(1.0)
        with pytest.raises(ValueError, match=r"by at most 0.1 on the probe, got 0\.[12]\d* in ver"):
            publish(model, versions)


class TestShapes:
    def version(self, rank):
        model = models.Numbered(rows=8)
        model.rank = rank
        return RankerVersion.first(model)

    def test_a_candidate_is_missing(self):
        asked = models.numbered_requests(rows=8)
        version = self.version(lambda requests: torch.zeros(12, 1))
        with pytest.raises(ValueError, match=r"logits of shape \[13, M\] .*, got \[12, 1\] of ver"):
            ProbeCheck(asked)(version, None)

    def test_another_number_of_tasks(self):
        asked = models.numbered_requests(rows=8)
        two = self.version(lambda requests: torch.zeros(13, 2))
        one = self.version(lambda requests: torch.zeros(13, 1))
        ProbeCheck(asked)(two, two)
        with pytest.raises(ValueError, match=r"of shape \[13, 1\] on the probe, got \[13, 2\]"):
            ProbeCheck(asked)(two, one)


@pytest.mark.parametrize("shift", [0.0, 1.5, float("nan")])
def test_a_shift_that_is_none(shift):
    with pytest.raises(ValueError, match="largest_shift must be above 0 and at most 1, got"):
        ProbeCheck(models.numbered_requests(rows=8), largest_shift=shift)


def test_a_probe_of_nothing():
    asked = models.numbered_requests(rows=8)
    empty = asked._replace(candidates=asked.candidates.to("cpu"), counts=asked.counts * 0)
    nobody = empty._replace(candidates=models.hosts.jagged({"item": []}))
    with pytest.raises(ValueError, match="requests must have at least one candidate, got none"):
        ProbeCheck(nobody)
