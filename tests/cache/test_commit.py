import json
import os
import shutil

import numpy as np
import pytest
import torch

from sidrank.cache.commit import TieredCheckpoint
from sidrank.cache.errors import CacheError
from sidrank.cache.journal import HEADER_BYTES
from sidrank.cache.slow_tier import FileTier, MemoryTier

ROWS, WIDTH = 40, 3


class WriteBack:
    """Rows by number, newer than the tiers until they are pushed out, oldest first."""

    def __init__(self, tiers, capacity=12):
        self.tiers, self._capacity = tiers, capacity
        self._dirty = {name: {} for name in tiers}

    def rows(self, name, ids):
        out = torch.empty(len(ids), self.tiers[name].width)
        self.tiers[name].read(ids, out)
        for place, row in enumerate(ids.tolist()):
            if row in self._dirty[name]:
                out[place] = self._dirty[name][row]
        return out

    def put(self, name, ids, values):
        dirty = self._dirty[name]
        for row, value in zip(ids.tolist(), values, strict=True):
            dirty.pop(row, None)
            dirty[row] = value
        self._write(name, max(0, len(dirty) - self._capacity))

    def flush(self):
        for name, dirty in self._dirty.items():
            self._write(name, len(dirty))

    def _write(self, name, count):
        if count:
            dirty = self._dirty[name]
            out = {row: dirty.pop(row) for row in list(dirty)[:count]}
            self.tiers[name].write(torch.tensor(list(out)), torch.stack(list(out.values())))


@pytest.fixture
def tier(tmp_path):
    return FileTier(
        tmp_path / "items",
        rows=ROWS,
        width=WIDTH,
        fill=lambda start, stop: torch.arange(start, stop).float().unsqueeze(1).repeat(1, WIDTH),
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoint"


def opened(folder, tier, **options):
    return TieredCheckpoint(folder, {"items": tier}, **options)


def content(tier):
    out = torch.empty(tier.rows, tier.width)
    tier.read(torch.arange(tier.rows), out)
    return out


def write(checkpoint, rows, value):
    checkpoint.tiers["items"].write(
        torch.tensor(rows), torch.full((len(rows), WIDTH), float(value))
    )


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestCommit:
    def test_goes_back_to_the_last(self, folder, tier):
        checkpoint = opened(folder, tier)
        assert checkpoint.step is None
        checkpoint.commit(0, [])
        write(checkpoint, [1, 2], 100)
        checkpoint.commit(10, [], state={"lr": 0.5})
        committed = content(tier)
        write(checkpoint, [2, 3], 200)
        assert not torch.equal(content(tier), committed)
        checkpoint.close()
        again = opened(folder, tier)
        assert (again.step, again.state(), again.rolled_back) == (10, {"lr": 0.5}, 2)
        assert torch.equal(content(tier), committed)

    def test_goes_on_after_going_back(self, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        for step in range(1, 4):
            write(checkpoint, [step, step + 1], step)
            checkpoint.commit(step, [])
            committed = content(tier)
            write(checkpoint, [0, step], -1)
            checkpoint.close()
            checkpoint = opened(folder, tier)
            assert checkpoint.step == step
            assert checkpoint.rolled_back == 2
            assert torch.equal(content(tier), committed)
        checkpoint.close()
        assert opened(folder, tier).rolled_back == 0

    def test_keeps_one_journal_and_one_state(self, folder, tier):
        checkpoint = opened(folder, tier)
        for step in range(3):
            checkpoint.commit(step, [])
            expected = [f"rank-0/{kind}-{step}" for kind in ("journal", "state")]
            assert names(folder) == ["manifest.json", expected[0], "rank-0/lock", expected[1]]
        assert checkpoint.journal_bytes == HEADER_BYTES

    def test_flushes_the_caches(self, folder, tier):
        checkpoint = opened(folder, tier)
        cache = WriteBack(checkpoint.tiers)
        checkpoint.commit(0, [cache])
        cache.put("items", torch.tensor([5]), torch.full((1, WIDTH), 8.0))
        assert content(tier)[5, 0] == 5
        checkpoint.commit(1, [cache])
        checkpoint.close()
        opened(folder, tier)
        assert content(tier)[5, 0] == 8

    def test_keeps_what_a_trainer_has(self, folder, tier):
        parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = torch.optim.Adam([parameter], lr=0.1)
        parameter.sum().backward()
        optimizer.step()
        state = {
            "model": {"weight": parameter.detach()},
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cursor": {"file": "part-3", "row": 2**40, "seen": [1, 2], 7: None},
        }
        checkpoint = opened(folder, tier)
        checkpoint.commit(3, [], state=state)
        checkpoint.close()
        found = opened(folder, tier).state()
        assert found["cursor"] == state["cursor"]
        assert torch.equal(found["random"], state["random"])
        kept, now = found["optimizer"]["state"][0], state["optimizer"]["state"][0]
        assert all(torch.equal(kept[name], now[name]) for name in now)

    def test_bytes_follow_the_rows_that_changed(self, tmp_path, folder):
        tier = FileTier(tmp_path / "wide", rows=20_000, width=65)
        checkpoint = opened(folder, tier)
        cache = WriteBack(checkpoint.tiers, capacity=1000)  # 5% of the table
        checkpoint.commit(0, [])
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            ids = torch.randperm(3000, generator=generator)[:300]
            cache.put("items", ids, torch.rand(300, 65, generator=generator))
        before = checkpoint.journal_bytes, checkpoint.tiers["items"].written
        dirty = len(cache._dirty["items"])
        cache.flush()
        journal = checkpoint.journal_bytes - before[0]
        rows = checkpoint.tiers["items"].written - before[1]
        checkpoint.commit(1, [cache])
        files = sum((folder / name).stat().st_size for name in names(folder))
        total = journal + rows + files
        assert dirty > 500
        assert total <= 1.2 * (dirty * 65 * 4 + journal)
        assert total < 0.1 * 20_000 * 65 * 4

    def test_power_safe_waits_for_the_disk(self, folder, tier, monkeypatch):
        checkpoint = opened(folder, tier, power_safe=True)
        checkpoint.commit(0, [])
        calls, fsync = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: calls.append(file) or fsync(file))
        write(checkpoint, [1], 7)
        assert len(calls) == 2


class TestRefuses:
    def test_caches_of_other_tiers(self, folder, tier):
        checkpoint = opened(folder, tier)
        past = WriteBack({"items": tier})  # would write past the journal
        with pytest.raises(
            ValueError, match=r"caches must hold tiers\['items'\] of the checkpoint"
        ):
            checkpoint.commit(0, [past])
        checkpoint.commit(0, [past, WriteBack(checkpoint.tiers)])

    def test_writes_before_the_first_commit(self, folder, tier):
        checkpoint = opened(folder, tier)
        with pytest.raises(CacheError, match="items must be written after one commit"):
            write(checkpoint, [1], 7)
        with pytest.raises(CacheError, match=r"checkpoint must hold a commit, got none"):
            checkpoint.state()

    def test_a_step_that_goes_back(self, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(5, [])
        with pytest.raises(ValueError, match="step must be at least 5, got 4"):
            checkpoint.commit(4, [])
        write(checkpoint, [1], 7)  # nothing was touched, so it goes on
        checkpoint.commit(5, [])
        with pytest.raises(ValueError, match="step must be at least 0, got -1"):
            opened(folder.with_name("new"), tier).commit(-1, [])

    @pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), print], ids=repr)
    def test_a_state_that_could_not_be_read(self, folder, tier, value):
        checkpoint = opened(folder, tier)
        with pytest.raises(ValueError, match="state must hold tensors and plain values, got "):
            checkpoint.commit(0, [], state={"deep": [value]})
        checkpoint.commit(0, [])

    def test_tables_that_do_not_last(self, folder, tier):
        with pytest.raises(ValueError, match="tiers must be in files, got a MemoryTier for 'b'"):
            TieredCheckpoint(folder, {"a": tier, "b": MemoryTier(rows=1, width=1)})
        with pytest.raises(ValueError, match="tiers must hold a table, got none"):
            TieredCheckpoint(folder, {})

    def test_a_directory_that_is_open(self, folder, tier):
        checkpoint = opened(folder, tier)
        with pytest.raises(ValueError, match="directory must not be open already, got"):
            opened(folder, tier)
        checkpoint.commit(0, [])

    def test_other_tables(self, tmp_path, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        checkpoint.close()
        others = {"items": FileTier(tmp_path / "other", rows=ROWS + 1, width=WIDTH)}
        with pytest.raises(CacheError, match=r"tiers must be those of the commit, \{'items': "):
            TieredCheckpoint(folder, others)
        with pytest.raises(CacheError, match=r"tiers must be those of the commit"):
            TieredCheckpoint(folder, {"users": tier})

    def test_a_file_made_anew_in_the_place_of_one_that_is_lost(self, tmp_path, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        checkpoint.close()
        tier.path.rename(tmp_path / "moved")
        tier.close()
        sizes = {"rows": ROWS, "width": WIDTH}
        with pytest.raises(CacheError, match="must be the files of the commit, got another one"):
            opened(folder, FileTier(tmp_path / "items", **sizes))
        assert opened(folder, FileTier(tmp_path / "moved", **sizes)).step == 0

    def test_another_number_of_ranks(self, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        checkpoint.close()
        told = json.loads((folder / "manifest.json").read_text())
        assert (told["epoch"], told["step"], told["ranks"]) == (0, 0, 1)
        from sidrank.cache.commit import _manifest

        (folder / "manifest.json").write_bytes(_manifest(0, 0, 2))
        with pytest.raises(CacheError, match="must be opened by 2 ranks, which made it, got 1"):
            opened(folder, tier)


class TestDamage:
    @pytest.fixture
    def killed(self, folder, tier):
        """A directory as a kill leaves it, and what the table was at the commit."""
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        write(checkpoint, [1], 5)
        checkpoint.commit(7, [], state={"a": torch.ones(3)})
        committed = content(tier)
        write(checkpoint, [1, 2], 6)
        checkpoint.close()
        return committed

    @pytest.mark.parametrize("name", ["manifest.json", "rank-0/state-1"])
    def test_any_changed_byte_is_an_error(self, folder, tier, killed, name):
        whole, table = (folder / name).read_bytes(), content(tier)
        step = max(1, len(whole) // 300)
        for place in range(0, len(whole), step):
            changed = bytearray(whole)
            changed[place] ^= 4
            (folder / name).write_bytes(changed)
            with pytest.raises(CacheError, match=r"must (be whole|fit its checksum)"):
                opened(folder, tier)
        assert torch.equal(content(tier), table)
        (folder / name).write_bytes(whole)
        opened(folder, tier)
        assert torch.equal(content(tier), killed)

    @pytest.mark.parametrize("name", ["rank-0/state-1", "rank-0/journal-1"])
    def test_a_missing_file_is_an_error(self, folder, tier, killed, name):
        (folder / name).unlink()
        with pytest.raises(CacheError, match=r"must (be there|hold journal-1), got"):
            opened(folder, tier)

    def test_a_missing_manifest_is_an_error(self, folder, tier, killed):
        (folder / "manifest.json").unlink()
        with pytest.raises(CacheError, match=r"manifest.json must be there, got none beside"):
            opened(folder, tier)

    def test_a_truncated_journal_is_an_error(self, folder, tier, killed):
        table = content(tier)
        os.truncate(folder / "rank-0/journal-1", HEADER_BYTES + 20)
        with pytest.raises(CacheError, match="good bytes, got a record at byte 4096"):
            opened(folder, tier)
        assert torch.equal(content(tier), table)

    def test_a_foreign_file_is_an_error(self, folder, tier, killed):
        (folder / "rank-0/journal-old").touch()
        with pytest.raises(CacheError, match="must hold nothing else, got journal-old"):
            opened(folder, tier)

    def test_a_journal_of_the_commit_before_is_not_applied(self, tmp_path, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        write(checkpoint, [1], 5)
        shutil.copy(folder / "rank-0/journal-0", tmp_path)
        checkpoint.commit(1, [])
        checkpoint.close()
        shutil.copy(tmp_path / "journal-0", folder / "rank-0")
        again = opened(folder, tier)
        assert (again.step, again.rolled_back) == (1, 0)
        assert content(tier)[1, 0] == 5
        assert "rank-0/journal-0" not in names(folder)


class TestFullDisk:
    @pytest.mark.parametrize("call", range(1, 14))
    def test_a_failed_commit_can_be_recovered(self, folder, tier, monkeypatch, call):
        checkpoint = opened(folder, tier)
        checkpoint.commit(0, [])
        write(checkpoint, [1], 5)
        cache = WriteBack(checkpoint.tiers)
        cache.put("items", torch.tensor([2]), torch.full((1, WIDTH), 9.0))
        before = torch.arange(ROWS).float().unsqueeze(1).repeat(1, WIDTH)
        failed = _fail_at(monkeypatch, call)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.commit(1, [cache])
        monkeypatch.undo()
        assert len(failed) >= call
        with pytest.raises(CacheError, match="must recover first, got a commit after a failure"):
            checkpoint.commit(1, [cache])
        with pytest.raises(CacheError, match="or after a failure"):
            write(checkpoint, [3], 7)
        checkpoint.recover()
        if call < 13:  # the thirteenth comes after the renaming of the manifest
            assert (checkpoint.step, checkpoint.rolled_back) == (0, 2 if call > 2 else 1)
            assert torch.equal(content(tier), before)
        else:
            assert (checkpoint.step, checkpoint.rolled_back) == (1, 0)
            assert content(tier)[:4, 0].tolist() == [0, 5, 9, 3]
        write(checkpoint, [3], 7)
        checkpoint.commit(1, [])

    def test_a_closed_one_does_not_recover(self, folder, tier):
        checkpoint = opened(folder, tier)
        checkpoint.close()
        with pytest.raises(CacheError, match="must be open, got a closed one"):
            checkpoint.recover()


def _fail_at(monkeypatch, call):
    """Let the disk be full at the ``call``-th write or wait."""
    calls = []

    def failing(function):
        def used(*args):
            calls.append(args)
            if len(calls) == call:
                raise OSError(28, "No space left on device")
            return function(*args)

        return used

    for name in ("pwrite", "fsync"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    return calls
