"""FBGEMM's cache operators are stubs on a CPU, which return memory as it was: none may be used."""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sidrank
from tests.cache import tiered_runs as runs

STUBS = (
    "linearize_cache_indices",
    "linearize_cache_indices_from_row_idx",
    "lxu_cache_lookup",
    "direct_mapped_lxu_cache_lookup",
    "lru_cache_populate_byte",
    "direct_mapped_lru_cache_populate_byte",
    "lfu_cache_populate_byte",
)


class Recorded(TorchDispatchMode):
    """The names of all operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def names_in(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.name.rsplit(".", 1)[-1]


def test_no_file_names_one():
    files = list(Path(sidrank.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    found = {(path.name, name) for path in files for name in names_in(path) if name in STUBS}
    assert found == set()


def test_no_step_runs_one():
    collection = runs.tiered()
    with Recorded() as recorded:
        for example in runs.batches(3):
            collection(example).values().sum().backward()
    fbgemm = {name for name in recorded.names if name.startswith("fbgemm::")}
    assert any("rowwise_adagrad" in name for name in fbgemm)  # it does see FBGEMM
    assert not [name for name in fbgemm if any(stub in name for stub in STUBS)]


@pytest.mark.gpu
def test_equal_on_a_gpu():
    expected, rows = runs.uncached("sgd", "sum", 1, False, threads=1, steps=20)
    collection = runs.tiered("sgd", count=1, device=torch.device("cuda"))
    examples = [example.to(torch.device("cuda")) for example in runs.batches(20)]
    losses = runs.train(collection, runs.loaded(collection, examples, depth=1))
    assert losses == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(runs.rows_of(collection), rows)
