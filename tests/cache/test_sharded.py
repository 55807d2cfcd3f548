"""Row-wise tiered tables on two ranks, against one rank; and ranks that are killed."""

import json
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import PoolingType

from sidrank.cache.commit import TieredCheckpoint
from sidrank.cache.errors import CacheError
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import weight_rows
from sidrank.cache.row_wise import RowWiseTieredCollection, row_range, row_wise_tables
from sidrank.cache.slow_tier import MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache import row_wise_runs
from tests.cache.row_wise_runs import (
    OPTIMIZERS,
    batches,
    content,
    sharded,
    tables,
    tiers,
    train,
    weight,
)


def alone(optimizer, longest):
    """On one rank, every row in its slot."""
    made = {
        table.name: MemoryTier(
            rows=table.num_embeddings,
            width=optimizer.row_width(table.embedding_dim),
            fill=weight_rows(weight(table), optimizer),
        )
        for table in tables()
    }
    collection = TieredEmbeddingBagCollection(tables(), slots=160, optimizer=optimizer, tiers=made)
    outputs = train(collection, batches(longest, 0, 1), collection)
    return outputs, content(collection)


def _trained(name, longest, depth, folder):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    collection = sharded(OPTIMIZERS[name], tiers(OPTIMIZERS[name], folder), slots=16 * longest)
    ours = (collection.distribute(each) for each in batches(longest, rank, ranks))
    loader = LookAheadLoader(
        ours, [collection.local], features=lambda features: features, window=4 * depth, depth=depth
    )
    outputs = train(collection.local, loader, collection.pool)
    evictions = sum(each.evictions for each in collection.local.traffic.values())
    return outputs, content(collection.local), evictions


def joined(parts):
    outputs = [torch.cat(step) for step in zip(*(part[0] for part in parts), strict=True)]
    rows = {name: torch.cat([part[1][name] for part in parts]) for name in ("a", "b")}
    return outputs, rows


class TestTwoRanks:
    @pytest.mark.parametrize("depth", [0, 1])
    @pytest.mark.parametrize("name", list(OPTIMIZERS))
    def test_train_bit_for_bit_as_one(self, ranks, tmp_path, name, depth):
        parts = ranks.run(_trained, name, 1, depth, tmp_path)
        assert all(evictions > 50 for *_, evictions in parts)
        outputs, rows = joined(parts)
        expected, table = alone(OPTIMIZERS[name], 1)
        assert all(map(torch.equal, outputs, expected))
        assert all(torch.equal(rows[name], table[name]) for name in table)

    @pytest.mark.parametrize("name", list(OPTIMIZERS))
    def test_train_alike_with_bags_across_ranks(self, ranks, tmp_path, name):
        outputs, rows = joined(ranks.run(_trained, name, 3, 1, tmp_path))
        expected, table = alone(OPTIMIZERS[name], 3)
        torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rows, table, atol=1e-5, rtol=1e-5)

    def test_have_the_names_of_the_whole(self, ranks, tmp_path):
        for keys, widths, equal in ranks.run(_looked_up, tmp_path):
            assert keys == ["x@a", "x@b", "y"]
            assert widths == [4, 8, 8]
            assert equal


def _looked_up(folder):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    collection = sharded(OPTIMIZERS["sgd"], tiers(OPTIMIZERS["sgd"], folder))
    features = next(batches(1, rank, ranks))
    pooled = collection(features)
    again = collection.pool(collection.distribute(features))
    return pooled.keys(), pooled.length_per_key(), torch.equal(pooled.values(), again.values())


class TestRefuses:
    def test_batches_of_other_sizes(self, ranks, tmp_path):
        for message in ranks.run(_uneven, tmp_path):
            assert "features must have as many rows on every rank, got" in message

    def test_a_missing_feature_or_a_foreign_id(self, ranks, tmp_path):
        for missing, foreign in ranks.run(_wrong, tmp_path):
            assert missing == "features must hold 'x', got ['y']"
            assert foreign == "features must hold ids in [0, 101) for a, got others in 'x'"

    def test_other_tables(self, ranks):
        for message in ranks.run(_other_tables):
            assert message.startswith("local must have the tables [('a', 5")

    def test_means(self):
        table = tables()[0]
        table.pooling = PoolingType.MEAN
        with pytest.raises(ValueError, match=r"tables must pool by sum, got .*MEAN.* for a"):
            row_wise_tables([table], 0, 2)

    def test_ranks_without_rows(self):
        with pytest.raises(ValueError, match="rows must give each of 4 ranks a row, got 6"):
            row_range(6, 0, 4)


def _message(call):
    try:
        call()
    except (ValueError, CacheError, OSError) as error:
        return str(error)
    return "nothing was raised"


def _uneven(folder):
    rows = 1 + dist.get_rank()
    lengths = torch.ones(2 * rows, dtype=torch.int32)
    features = KeyedJaggedTensor(["x", "y"], torch.arange(2 * rows), lengths=lengths)
    collection = sharded(OPTIMIZERS["sgd"], tiers(OPTIMIZERS["sgd"], folder))
    return _message(lambda: collection.distribute(features))


def _wrong(folder):
    collection = sharded(OPTIMIZERS["sgd"], tiers(OPTIMIZERS["sgd"], folder))
    one = torch.ones(1, dtype=torch.int32)
    missing = KeyedJaggedTensor(["y"], torch.tensor([1]), lengths=one)
    foreign = KeyedJaggedTensor(["x", "y"], torch.tensor([101, 1]), lengths=one.repeat(2))
    return tuple(_message(lambda each=each: collection(each)) for each in (missing, foreign))


def _other_tables():
    local = TieredEmbeddingBagCollection(tables(), slots=9, optimizer=OPTIMIZERS["sgd"])
    return _message(
        lambda: RowWiseTieredCollection(tables(), local=local, process_group=dist.group.WORLD)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What two ranks that are left alone end with, and what a commit asks of the system."""
    answers = row_wise_runs.start(tmp_path_factory.mktemp("whole"), within=24)
    assert [code for code, _ in answers] == [0, 0]
    return [answer for _, answer in answers]


class TestRanksCommitTogether:
    def test_or_not_at_all(self, ranks, tmp_path):
        first, second = ranks.run(_failing, tmp_path)
        assert "rank 1 must commit step 1 too, got ValueError('state must hold" in first["state"]
        assert "state must hold tensors and plain values, got builtins.print" in second["state"]
        assert "rank 1 must commit step 3 too, got step 2" in first["step"]
        assert "rank 0 must commit step 2 too, got step 3" in second["step"]
        assert "rank 1 must commit step 4 too, got OSError(28" in first["disk"]
        assert "No space left on device" in second["disk"]
        for answer in (first, second):
            assert answer["written"] == 1.0  # refusing what is given spoils nothing
            assert (answer["back at"], answer["rolled back"]) == (0, 1)
            assert answer["again"] == "nothing was raised"


def _failing(folder):
    """What each rank is told when rank 1 fails in a commit, and how both go on."""
    rank, answer = dist.get_rank(), {}
    made = tiers(OPTIMIZERS["sgd"], folder)
    checkpoint = TieredCheckpoint(folder / "checkpoint", made, process_group=dist.group.WORLD)
    checkpoint.commit(0, [])
    answer["state"] = _message(lambda: checkpoint.commit(1, [], state=print if rank else None))
    answer["step"] = _message(lambda: checkpoint.commit(3 - rank, []))
    row = torch.tensor([3])
    checkpoint.tiers["a"].write(row, torch.ones(1, 4))
    out = torch.empty(1, 4)
    checkpoint.tiers["a"].read(row, out)
    answer["written"] = out.mean().item()
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(os, "fsync", _full)
        answer["disk"] = _message(lambda: checkpoint.commit(4, []))
    checkpoint.recover()
    answer |= {"back at": checkpoint.step, "rolled back": checkpoint.rolled_back}
    answer["again"] = _message(lambda: checkpoint.commit(4, []))
    checkpoint.close()
    return answer


def _full(file):
    raise OSError(28, "No space left on device")


class TestKilledRanks:
    """Whichever rank is killed when: both come back at the step of the manifest."""

    @pytest.mark.parametrize(
        ("kills", "committed"),
        [
            ([None, ("rows", 0)], 12),  # rank 1 in its first phase; rank 0 waits for it
            ([("replace", 2), None], 24),  # rank 0 right behind the manifest
            ([("replace", 1), ("replace", 0)], 12),  # each on its own
            ([None, ("unlink", 0)], 24),  # rank 1 in the last phase
        ],
    )
    def test_come_back_at_the_manifest(self, whole, tmp_path, kills, committed):
        at = [
            {} if kill is None else {"at": nth(answer.operations, *kill)}
            for kill, answer in zip(kills, whole, strict=True)
        ]
        codes = [code for code, _ in row_wise_runs.start(tmp_path, at, within=24)]
        for kill, code in zip(kills, codes, strict=True):
            assert code == (-signal.SIGKILL if kill else 1)
        told = json.loads((tmp_path / "checkpoint/manifest.json").read_text())
        assert (told["step"], told["ranks"]) == (committed, 2)
        answers = [answer for _, answer in row_wise_runs.start(tmp_path)]
        assert [answer.evictions for answer in answers] == [committed, committed]  # where it began
        assert [answer.digest for answer in answers] == [answer.digest for answer in whole]


def nth(operations, name, number):
    return [place for place, other in enumerate(operations, 1) if other == name][number]
