"""Versions of a table: each as it was made, whatever the others become, and no heavier."""

import gc
import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.serving.row_pages import RowPages

PAGE_ROWS = 4096 // (16 * 4)


@given(st.integers(0, 2**32), st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]))
@settings(max_examples=25, deadline=None)
def test_every_version_stays_what_it_was(seed, dtype):
    """Forks of forks, older ones too, that grow, and die in any order; rows cross pages."""
    choose, draw = random.Random(seed), torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randint(0, 200, shape, generator=draw).to(dtype)

    content = numbers(300, 700)
    living = [(RowPages.first(content), content)]
    for _ in range(12):
        base, before = choose.choice(living)
        length = len(before) + choose.choice([0, 0, 7])
        rows = torch.randperm(len(before), generator=draw)[: choose.randint(0, 60)].sort().values
        rows = torch.cat([rows, torch.arange(len(before), length)])
        values = numbers(len(rows), 700)
        wanted = torch.cat([before, numbers(length - len(before), 700)])
        wanted[rows] = values
        living.append((base.pages.fork(base, rows, values, length), wanted))
        for view, content in living:
            assert torch.equal(view.rows, content)
        while len(living) > choose.randint(1, 4):
            living.pop(choose.randrange(len(living)))
        del base, view


def change(view, rows, value):
    rows = torch.tensor(rows)
    return view.pages.fork(view, rows, torch.full((len(rows), 16), value), len(view.rows))


class TestPages:
    def test_of_two_changes_are_held_and_not_of_all(self):
        before = RowPages.first(torch.zeros(4096, 16))
        current = change(before, range(10), 1.0)
        for step in range(2, 30):
            first = 10 * step
            before, current = current, change(current, range(first, first + 10), float(step))
            assert len(current.private) <= 20
        assert current.rows[300 - 1, 0] == 29.0
        assert current.rows[::10, 0].tolist()[1:29] == [0.0, *(float(k) for k in range(2, 29))]

    def test_of_rows_behind_the_end_are_nobodys_own(self):
        view = RowPages.first(torch.zeros(4096, 16))
        longer = view.pages.fork(view, torch.arange(4096, 4196), torch.ones(100, 16), 4196)
        assert not len(longer.private)
        assert (len(view.rows), float(longer.rows.sum())) == (4096, 1600.0)

    def test_of_a_version_that_somebody_keeps_are_not_written(self):
        kept = RowPages.first(torch.zeros(4096, 16))
        current = kept
        for step in range(1, 9):
            current = change(current, [step], float(step))
        assert not kept.rows.any()
        assert current.private.tolist() == list(range(1, 9))

    def test_a_view_of_a_tensor_keeps_its_version(self):
        """Not the holder of versions says who reads, the memory itself does."""
        first = RowPages.first(torch.zeros(4096, 16))
        part = first.rows[5:6].t()[3]
        current = change(first, [5], 1.0)
        del first
        current = change(current, [6], 2.0)
        current = change(current, [5], 3.0)
        assert part.tolist() == [0.0]
        assert current.private.tolist() == [5, 6]

    def test_are_shared(self):
        """Memory of a fork is that of the pages with changed rows."""
        view = RowPages.first(torch.zeros(1 << 17, 16))  # 8 MiB
        before = private_bytes()
        views = [change(view, [step * PAGE_ROWS], 1.0) for step in range(20)]
        assert private_bytes() - before < 2 << 20
        assert all(float(each.rows.sum()) == 16.0 for each in views)

    def test_are_a_copy_where_most_would_be_their_own(self):
        view = RowPages.first(torch.zeros(4096, 16))
        few, most = change(view, range(0, 2048, 16), 1.0), change(view, range(0, 4096, 16), 1.0)
        assert few.pages is view.pages
        assert most.pages is not view.pages
        assert not len(most.private)
        assert most.rows[::16].eq(1.0).all()
        assert float(most.rows.sum()) == 4096.0
        assert not view.rows.any()

    def test_are_given_back(self):
        view = RowPages.first(torch.zeros(4096, 16))
        gc.disable()
        try:
            for step in range(9):
                view = change(view, range(0, 4096, 8), float(step))
                assert mappings() == 1
        finally:
            gc.enable()


def mappings():
    with open("/proc/self/maps") as file:
        return sum("sidrank-rows" in line for line in file)


def private_bytes():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))


@pytest.mark.parametrize("times", [1, 2])
def test_handles_are_closed(times):
    before = len(os.listdir("/proc/self/fd"))
    view = RowPages.first(torch.zeros(4096, 16))
    for step in range(times):
        view = change(view, [step], 1.0)
    assert len(os.listdir("/proc/self/fd")) > before
    del view
    assert len(os.listdir("/proc/self/fd")) == before
