import fcntl
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.cache.slow_tier import FileTier, MemoryTier, SlowTier

BLOCK_OF_16_MIB = 16 * 2**20 // 4  # rows of one number that are filled at once


@pytest.fixture(params=["memory", "file"])
def make(request, tmp_path):
    def made(**sizes):
        if request.param == "memory":
            return MemoryTier(**sizes)
        return FileTier(tmp_path / "rows", **sizes)

    return made


def content(tier, rows=None):
    rows = torch.arange(tier.rows) if rows is None else torch.tensor(rows, dtype=torch.int64)
    out = torch.full((len(rows), tier.width), torch.nan)
    tier.read(rows, out)
    return out.tolist()


def numbered(start, stop):
    return torch.arange(start, stop).float().unsqueeze(1).repeat(1, 2)


class TestEveryTier:
    def test_is_one(self, make):
        tier = make(rows=4, width=3)
        assert isinstance(tier, SlowTier)
        assert (tier.rows, tier.width) == (4, 3)

    def test_starts_as_zeros(self, make):
        assert content(make(rows=3, width=1)) == [[0.0], [0.0], [0.0]]

    def test_starts_as_filled(self, make):
        assert content(make(rows=3, width=2, fill=numbered)) == [[0, 0], [1, 1], [2, 2]]

    def test_is_filled_in_blocks(self, make):
        asked = []

        def fill(start, stop):
            asked.append((start, stop))
            return torch.full((stop - start, 1), float(len(asked)))

        tier = make(rows=BLOCK_OF_16_MIB + 5, width=1, fill=fill)
        assert asked == [(0, BLOCK_OF_16_MIB), (BLOCK_OF_16_MIB, BLOCK_OF_16_MIB + 5)]
        assert content(tier, [0, BLOCK_OF_16_MIB]) == [[1.0], [2.0]]

    def test_reads_what_was_written(self, make):
        tier = make(rows=4, width=2, fill=numbered)
        tier.write(torch.tensor([3, 0]), torch.tensor([[7.0, 8.0], [9.0, 10.0]]))
        tier.flush()
        assert content(tier) == [[9, 10], [1, 1], [2, 2], [7, 8]]
        assert content(tier, [3, 3, 1]) == [[7, 8], [7, 8], [1, 1]]

    def test_takes_no_rows(self, make):
        tier = make(rows=2, width=2, fill=numbered)
        tier.write(torch.empty(0, dtype=torch.int64), torch.empty(0, 2))
        assert content(tier, []) == []
        assert content(tier) == [[0, 0], [1, 1]]

    def test_takes_values_that_are_not_contiguous(self, make):
        tier = make(rows=2, width=2)
        tier.write(torch.tensor([0, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)
        assert content(tier) == [[1, 3], [2, 4]]

    @pytest.mark.parametrize("row", [-1, 4])
    def test_refuses_rows_of_no_table(self, make, row):
        tier = make(rows=4, width=1)
        with pytest.raises(ValueError, match=rf"rows must lie within \[0, 4\), got {row}"):
            content(tier, [0, row])
        with pytest.raises(ValueError, match=rf"rows must lie within \[0, 4\), got {row}"):
            tier.write(torch.tensor([0, row]), torch.ones(2, 1))
        assert content(tier, [0]) == [[0.0]]

    def test_refuses_other_shapes_and_dtypes(self, make):
        tier, rows = make(rows=4, width=2), torch.tensor([1])
        with pytest.raises(ValueError, match=r"rows must be int64 \[n\], got torch.int32 \[1\]"):
            tier.read(rows.int(), torch.empty(1, 2))
        with pytest.raises(ValueError, match=r"rows must be int64 \[n\], got torch.int64 \[1, 1\]"):
            tier.read(rows.view(1, 1), torch.empty(1, 2))
        with pytest.raises(ValueError, match=r"out must be float32 \[1, 2\], got .* \[1, 3\]"):
            tier.read(rows, torch.empty(1, 3))
        with pytest.raises(ValueError, match=r"out must be contiguous, got strides \[1, 2\]"):
            tier.read(torch.tensor([1, 2]), torch.empty(2, 2).T)
        with pytest.raises(ValueError, match=r"values must be float32 \[1, 2\], got torch.float64"):
            tier.write(rows, torch.ones(1, 2, dtype=torch.float64))

    @pytest.mark.parametrize("name", ["rows", "width"])
    def test_refuses_a_table_of_nothing(self, make, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            make(**({"rows": 1, "width": 1} | {name: 0}))

    def test_refuses_a_fill_of_another_shape(self, make, tmp_path):
        with pytest.raises(ValueError, match=r"fill must give \[3, 1\], got \[3, 2\]"):
            make(rows=3, width=1, fill=numbered)
        assert list(tmp_path.iterdir()) == []

    @given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), max_size=6))
    def test_is_a_table(self, writes):
        tier, table = MemoryTier(rows=10, width=1), [[0.0]] * 10
        for number, rows in enumerate(writes, 1):
            tier.write(
                torch.tensor(rows, dtype=torch.int64), torch.full((len(rows), 1), float(number))
            )
            for row in rows:
                table[row] = [float(number)]
        assert content(tier) == table


class TestFile:
    def test_keeps_what_was_written(self, tmp_path):
        tier = FileTier(tmp_path / "rows", rows=2, width=1)
        tier.write(torch.tensor([1]), torch.tensor([[5.0]]))
        tier.close()
        again = FileTier(tmp_path / "rows", rows=2, width=1, fill=numbered)
        assert content(again) == [[0.0], [5.0]]
        assert again.path == tmp_path / "rows"

    @pytest.mark.parametrize("count", [1, 64, 127, 128, 129, 1_000, 1_024, 1_025, 5_000])
    def test_many_rows_go_to_their_places(self, tmp_path, count):
        tier = FileTier(tmp_path / "rows", rows=6_000, width=2, fill=numbered)
        rows = torch.randperm(6_000, generator=torch.Generator().manual_seed(count))[:count]
        tier.write(rows, -1.0 - rows.float().unsqueeze(1).repeat(1, 2))
        whole = numbered(0, 6_000)
        whole[rows] = -1.0 - whole[rows]
        assert content(tier) == whole.tolist()
        assert content(tier, rows.tolist()) == whole[rows].tolist()

    def test_many_pages_are_asked_for_at_once(self, tmp_path, monkeypatch):
        tier = FileTier(tmp_path / "rows", rows=2_000, width=2, fill=numbered)
        take, all_are_there = np.take, threading.Barrier(16, timeout=30)

        def waits(*arguments, **more):
            all_are_there.wait()
            take(*arguments, **more)

        monkeypatch.setattr(np, "take", waits)
        assert content(tier) == numbered(0, 2_000).tolist()

    def test_an_error_is_raised_when_nobody_copies_any_more(self, tmp_path, monkeypatch):
        tier = FileTier(tmp_path / "rows", rows=2_000, width=2, fill=numbered)
        take, failed, ended = np.take, threading.Event(), []

        def fails(table, rows, **more):
            if rows[0] == 0:
                failed.set()
                raise MemoryError("no memory")
            failed.wait(30)
            ended.append(take(table, rows, **more))

        monkeypatch.setattr(np, "take", fails)
        with pytest.raises(MemoryError, match="no memory"):
            content(tier)
        assert len(ended) == 15

    def test_lets_go_of_it_when_forgotten(self, tmp_path):
        for _ in range(2):
            assert FileTier(tmp_path / "rows", rows=2, width=1).rows == 2

    def test_is_open_once(self, tmp_path):
        tier = FileTier(tmp_path / "rows", rows=2, width=1)
        with pytest.raises(ValueError, match=r"path must not be open already, got .*rows"):
            FileTier(tmp_path / "rows", rows=2, width=1)
        assert content(tier) == [[0.0], [0.0]]

    def test_is_not_used_when_closed(self, tmp_path):
        tier = FileTier(tmp_path / "rows", rows=2, width=1)
        tier.close()
        tier.close()
        for use in (
            lambda: content(tier),
            lambda: tier.write(torch.tensor([0]), torch.ones(1, 1)),
            tier.flush,
        ):
            with pytest.raises(ValueError, match=r"path must be of an open tier, got .* closed"):
                use()

    @pytest.mark.parametrize(("name", "value"), [("rows", 3), ("width", 2)])
    def test_refuses_other_sizes(self, tmp_path, name, value):
        sizes = {"rows": 2, "width": 1}
        FileTier(tmp_path / "rows", **sizes)
        with pytest.raises(ValueError, match=f"{name} must be the file's, {sizes[name]}, got"):
            FileTier(tmp_path / "rows", **(sizes | {name: value}))

    @pytest.mark.parametrize("place", [0, 20, 40, 70, 4000])
    def test_refuses_a_damaged_header(self, tmp_path, place):
        FileTier(tmp_path / "rows", rows=2, width=1)
        whole = bytearray((tmp_path / "rows").read_bytes())
        whole[place] ^= 1
        (tmp_path / "rows").write_bytes(whole)
        with pytest.raises(ValueError, match="path must be a file of rows, got"):
            FileTier(tmp_path / "rows", rows=2, width=1)

    @pytest.mark.parametrize("size", [0, 10, 4096, 4103, 4105])
    def test_refuses_another_length(self, tmp_path, size):
        FileTier(tmp_path / "rows", rows=2, width=1)
        os.truncate(tmp_path / "rows", size)
        with pytest.raises(ValueError, match=r"path must (hold 4104 bytes|be a file of rows), got"):
            FileTier(tmp_path / "rows", rows=2, width=1)

    def test_refuses_a_file_that_may_not_be_written(self):
        # sealed memory: no right of any user, root's neither, opens it for writing
        file = os.memfd_create("rows", os.MFD_ALLOW_SEALING)
        with os.fdopen(file, "wb") as sealed:
            path = f"/proc/self/fd/{file}"
            made = _bytes_of_a_file()
            sealed.write(made)
            sealed.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            with pytest.raises(PermissionError):
                FileTier(path, rows=2, width=1)

    def test_a_full_disk_is_an_error_when_it_is_made(self, tmp_path, monkeypatch):
        def full(file, offset, size):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            FileTier(tmp_path / "rows", rows=2, width=1)
        assert list(tmp_path.iterdir()) == []

    def test_reserves_its_blocks(self, tmp_path):
        tier = FileTier(tmp_path / "rows", rows=2**16, width=4)
        assert os.stat(tier.path).st_blocks * 512 >= 2**20

    def test_removes_what_a_killed_one_left(self, tmp_path):
        left = tmp_path / f".rows.{'0' * 16}.tmp"
        left.touch()
        other = tmp_path / ".rows.tmp"
        other.touch()
        FileTier(tmp_path / "rows", rows=1, width=1)
        assert sorted(tmp_path.iterdir()) == [other, tmp_path / "rows"]


def _bytes_of_a_file():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        FileTier(Path(folder) / "rows", rows=2, width=1)
        return (Path(folder) / "rows").read_bytes()
