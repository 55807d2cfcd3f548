import os
import signal

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankError, Ranks


def _rank_and_sum(tensor):
    total = tensor + dist.get_rank()
    dist.all_reduce(total)
    return dist.get_rank(), total


def _fail_on_rank_one():
    if dist.get_rank() == 1:
        raise LookupError("the reason")
    dist.barrier()


def _die_on_rank_zero():
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _hang():
    dist.barrier() if dist.get_rank() == 0 else signal.pause()


def _draw():
    return torch.rand(()).item()


def test_results_come_in_rank_order(ranks):
    (first, a), (second, b) = ranks.run(_rank_and_sum, torch.tensor([1.0, 2.0]))
    assert (first, second) == (0, 1)
    torch.testing.assert_close(a, torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(b, a)


def test_each_task_starts_from_the_same_seed(ranks):
    assert ranks.run(_draw) == ranks.run(_draw)


@pytest.fixture(scope="module")
def own():
    own = Ranks(world_size=2)
    yield own
    own.close()


class TestFailures:
    def test_traceback_comes_back(self, own):
        with pytest.raises(RankError, match=r"(?s)rank 1: .*_fail_on_rank_one.*the reason"):
            own.run(_fail_on_rank_one)

    def test_death_is_noticed(self, own):
        with pytest.raises(RankError, match="rank 0: died with exit code -9"):
            own.run(_die_on_rank_zero)

    def test_hang_is_killed_and_shows_where(self, own):
        own.run(_draw)
        own.timeout = 1.0
        with pytest.raises(RankError, match=r"(?s)rank 1: died.*_hang"):
            own.run(_hang)

    def test_new_processes_after_a_failure(self, own):
        own.timeout = 180.0
        assert len(own.run(_draw)) == 2
