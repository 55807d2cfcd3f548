import os
import struct
import threading

import pytest
import torch

from sidrank.cache.errors import CacheError
from sidrank.cache.journal import HEADER_BYTES, Journal, JournaledTier, roll_back
from sidrank.cache.slow_tier import MemoryTier, SlowTier

ROWS = {"items": (6, 2), "users": (3, 1)}
LAST = struct.calcsize("<IIQ") + 3 * (8 + 2 * 4)  # bytes of the last record of `used`


def numbered(start, stop):
    return torch.arange(start, stop).float().unsqueeze(1).repeat(1, 2)


@pytest.fixture
def tables():
    return {
        "items": MemoryTier(rows=6, width=2, fill=numbered),
        "users": MemoryTier(rows=3, width=1),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal-4"


def journaled(path, tables):
    journal = Journal(path, epoch=4, tables=ROWS)
    return {name: JournaledTier(name, tier, journal) for name, tier in tables.items()}, journal


def content(tables):
    found = []
    for tier in tables.values():
        out = torch.empty(tier.rows, tier.width)
        tier.read(torch.arange(tier.rows), out)
        found.append(out.tolist())
    return found


def write(tier, rows, value):
    tier.write(torch.tensor(rows), torch.full((len(rows), tier.width), float(value)))


@pytest.fixture
def used(path, tables):
    """The tables as they were, after two writes."""
    before = content(tables)
    ours, _ = journaled(path, tables)
    write(ours["users"], [2, 0], 50)
    write(ours["items"], [5, 1, 4], 60)
    return before


class TestJournaledTier:
    def test_is_a_tier(self, path, tables):
        ours, _ = journaled(path, tables)
        assert isinstance(ours["items"], SlowTier)
        assert (ours["items"].rows, ours["items"].width) == (6, 2)

    def test_writes_and_can_be_taken_back(self, path, tables, used):
        assert content(tables)[1] == [[50], [0], [50]]
        assert roll_back(path, 4, tables) == 5
        assert content(tables) == used

    def test_can_be_taken_back_twice(self, path, tables, used):
        assert roll_back(path, 4, tables) == roll_back(path, 4, tables) == 5
        assert content(tables) == used

    def test_notes_a_row_once(self, path, tables):
        before = content(tables)
        ours, journal = journaled(path, tables)
        write(ours["items"], [1, 2], 7)
        size = journal.size
        write(ours["items"], [2, 1], 8)
        assert journal.size == size
        write(ours["items"], [2, 3], 9)
        assert journal.size == size + 16 + 8 + 8
        assert path.stat().st_size == journal.size
        assert ours["items"].written == 3 * 2 * 2 * 4
        assert roll_back(path, 4, tables) == 3
        assert content(tables) == before

    def test_starts_over_with_the_next_journal(self, path, tables, tmp_path):
        ours, _ = journaled(path, tables)
        write(ours["items"], [1], 7)
        middle = content(tables)
        second = Journal(tmp_path / "journal-5", epoch=5, tables=ROWS)
        ours["items"].follow(second)
        write(ours["items"], [1, 2], 8)
        assert roll_back(tmp_path / "journal-5", 5, tables) == 2
        assert content(tables) == middle

    def test_is_written_between_commits_only(self, path, tables):
        ours, journal = journaled(path, tables)
        ours["items"].seal()
        with pytest.raises(CacheError, match="items must be written after one commit and before"):
            write(ours["items"], [1], 7)
        ours["items"].follow(journal)
        write(ours["items"], [1], 7)
        assert content(tables)[0][1] == [7, 7]

    def test_a_refused_write_is_no_failure(self, path, tables):
        ours, _ = journaled(path, tables)
        with pytest.raises(ValueError, match=r"rows must lie within \[0, 6\), got 6"):
            write(ours["items"], [6], 7)
        with pytest.raises(ValueError, match=r"values must be float32 \[1, 2\], got"):
            ours["items"].write(torch.tensor([1]), torch.ones(1, 1))
        write(ours["items"], [5], 7)
        assert content(tables)[0][5] == [7, 7]

    @pytest.mark.parametrize("call", [1, 2], ids=["record", "count"])
    def test_a_full_disk_leaves_the_rows_alone(self, path, tables, monkeypatch, call):
        before = content(tables)
        ours, _ = journaled(path, tables)
        write(ours["users"], [1], 3)
        pwrite, calls = os.pwrite, []

        def full(file, data, offset):
            calls.append(offset)
            if len(calls) < call:
                return pwrite(file, data, offset)
            if len(calls) == call:
                return pwrite(file, bytes(data)[:3], offset)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            write(ours["items"], [1], 7)
        monkeypatch.undo()
        assert content(tables)[0] == before[0]
        with pytest.raises(CacheError, match="or after a failure"):
            write(ours["items"], [2], 7)
        if call == 1:
            assert roll_back(path, 4, tables) == 1
            assert content(tables) == before
        else:  # a count of which only a part is there is no count
            with pytest.raises(CacheError, match="must hold its number of bytes"):
                roll_back(path, 4, tables)

    def test_the_record_is_there_before_the_row(self, path, tables, monkeypatch):
        ours, _ = journaled(path, tables)
        tier, order = tables["items"], []

        def noted(name, function):
            def call(*args):
                order.append(name)
                return function(*args)

            return call

        monkeypatch.setattr(os, "pwrite", noted("journal", os.pwrite))
        monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
        monkeypatch.setattr(tier, "write", noted("rows", tier.write))
        write(ours["items"], [1], 7)
        assert order == ["journal", "journal", "rows"]
        order.clear()
        journal = Journal(path, epoch=4, tables=ROWS, power_safe=True)
        order.clear()
        ours["items"].follow(journal)
        write(ours["items"], [1], 7)
        assert order == ["journal", "fsync", "journal", "fsync", "rows"]

    def test_threads_do_not_mix(self, path, tables):
        before = content(tables)
        ours, _ = journaled(path, tables)
        start = threading.Barrier(3)

        def writes(rows):
            start.wait()
            for value in range(20):
                write(ours["items"], rows, value)

        threads = [threading.Thread(target=writes, args=(r,)) for r in ([0, 1], [2, 3], [4, 5])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert content(tables)[0] == [[19, 19]] * 6
        assert roll_back(path, 4, tables) == 6
        assert content(tables) == before


class TestDamage:
    """Every byte of the last record, lost or changed: back at the commit, or an error."""

    def test_the_last_record_is_the_one_meant(self, path, used):
        assert path.stat().st_size == HEADER_BYTES + 16 + 2 * (8 + 4) + LAST

    def test_a_record_cut_off_anywhere_is_an_error(self, path, tables, used):
        whole, after = path.read_bytes(), content(tables)
        for size in range(len(whole) - LAST, len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(CacheError, match=r"good bytes, got a record at byte .* cut off"):
                roll_back(path, 4, tables)
            assert content(tables) == after  # nothing is taken back in part

    def test_a_changed_byte_is_an_error(self, path, tables, used):
        whole, after = path.read_bytes(), content(tables)
        for place in range(len(whole) - LAST, len(whole)):
            for bit in (1, 128):
                changed = bytearray(whole)
                changed[place] ^= bit
                path.write_bytes(changed)
                with pytest.raises(CacheError, match="good bytes, got a record at byte"):
                    roll_back(path, 4, tables)
        assert content(tables) == after

    def test_a_changed_header_is_an_error(self, path, tables, used):
        whole = path.read_bytes()
        for place in (*range(200), *range(2048, 2064)):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(CacheError, match=r"must (be the journal|hold its number of bytes)"):
                roll_back(path, 4, tables)

    @pytest.mark.parametrize("size", [0, 100, 2047, 2048, 2063])
    def test_a_header_cut_off_is_an_error(self, path, tables, used, size):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(CacheError, match=r"must (be the journal|hold its number of bytes)"):
            roll_back(path, 4, tables)

    def test_a_tail_whose_rows_were_not_touched_is_dropped(self, path, tables, used):
        whole = path.read_bytes()
        for size in range(1, LAST + 1):
            path.write_bytes(whole + whole[-LAST:][:size])
            assert roll_back(path, 4, tables) == 5
        assert content(tables) == used

    def test_another_commit_or_other_tables_are_an_error(self, path, tables, used):
        with pytest.raises(CacheError, match="must be the journal of commit 5 and of the tables"):
            roll_back(path, 5, tables)
        with pytest.raises(CacheError, match="must be the journal of commit 4 and of the tables"):
            roll_back(path, 4, {"items": tables["items"]})
