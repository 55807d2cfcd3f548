import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim import RowWiseAdagrad

from sidrank.cache import table_files
from sidrank.cache.row_optimizer import RowOptimizer, weight_rows
from sidrank.cache.row_wise import row_range
from sidrank.cache.slow_tier import FileTier
from sidrank.cache.table_files import export_tables, exported_rows
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache import row_wise_runs

OPTIMIZERS = {
    "sgd": RowOptimizer(torch.optim.SGD, lr=0.1),
    "rowwise": RowOptimizer(RowWiseAdagrad, lr=0.1),
    "adagrad": RowOptimizer(torch.optim.Adagrad, lr=0.1),
}


@pytest.fixture(params=list(OPTIMIZERS))
def optimizer(request):
    return OPTIMIZERS[request.param]


def tables():
    return [
        EmbeddingBagConfig(name=name, embedding_dim=dim, num_embeddings=rows, feature_names=[name])
        for name, dim, rows in (("a", 4, 30), ("b", 8, 21))
    ]


def collection(folder, optimizer, fills=None):
    tiers = {
        table.name: FileTier(
            folder / table.name,
            rows=table.num_embeddings,
            width=optimizer.row_width(table.embedding_dim),
            fill=None if fills is None else fills[table.name],
        )
        for table in tables()
    }
    return TieredEmbeddingBagCollection(tables(), slots=6, optimizer=optimizer, tiers=tiers)


def batch(*rows):
    ids = torch.tensor([*rows, *(row % 21 for row in rows)])
    return KeyedJaggedTensor(["a", "b"], ids, lengths=torch.ones(len(ids), dtype=torch.int32))


def step(trained, *rows):
    pooled = trained(batch(*rows)).values()
    pooled.sub(1).square().sum().backward()
    return pooled.detach()


@pytest.fixture
def trained(tmp_path, optimizer):
    ours = collection(tmp_path, optimizer)
    for rows in ((0, 1, 2), (2, 3, 29), (7, 8, 9)):
        step(ours, *rows)
    return ours


class TestExport:
    def test_is_what_an_ordinary_collection_loads(self, tmp_path, trained):
        export_tables(tmp_path / "export", trained)
        ordinary = EmbeddingBagCollection(tables=tables())
        ordinary.load_state_dict(load_file(tmp_path / "export/weights.safetensors"))
        found = ordinary(batch(*range(30))).values()
        with torch.no_grad():
            blocks = [trained(batch(*rows)).values() for rows in np.arange(30).reshape(5, 6)]
        expected = torch.cat(blocks)
        assert torch.equal(found, expected)
        assert expected[:, 0].count_nonzero() == 8  # the rows that were trained

    def test_in_blocks_is_the_same(self, tmp_path, trained, monkeypatch):
        export_tables(tmp_path / "one", trained)
        monkeypatch.setattr(table_files, "_BLOCK_BYTES", 100)
        export_tables(tmp_path / "two", trained)
        files = sorted(path.name for path in (tmp_path / "one").iterdir())
        assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
        for name in files:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    def test_comes_back_and_trains_on(self, tmp_path, trained, optimizer):
        export_tables(tmp_path / "export", trained)
        fills = {
            table.name: exported_rows(tmp_path / "export", table, optimizer) for table in tables()
        }
        (tmp_path / "again").mkdir()
        again = collection(tmp_path / "again", optimizer, fills)
        for rows in ((1, 2, 4), (1, 5, 29), (1, 2, 29)):
            assert torch.equal(step(again, *rows), step(trained, *rows))

    def test_goes_through_a_distributed_checkpoint(self, tmp_path, trained, optimizer):
        """Both ways, the tables being mapped files throughout."""
        export_tables(tmp_path / "export", trained)
        weights = load_file(tmp_path / "export/weights.safetensors")
        dcp.save({"model": weights}, checkpoint_id=tmp_path / "dcp", no_dist=True)
        mapped = {
            name: torch.from_file(str(tmp_path / name), shared=True, size=weight.numel()).view_as(
                weight
            )
            for name, weight in weights.items()
        }
        dcp.load({"model": mapped}, checkpoint_id=tmp_path / "dcp", no_dist=True)
        (tmp_path / "again").mkdir()
        fills = {
            table.name: weight_rows(mapped[f"embedding_bags.{table.name}.weight"], optimizer)
            for table in tables()
        }
        again = collection(tmp_path / "again", optimizer, fills)
        assert torch.equal(step(again, 2, 3, 7), step(trained, 2, 3, 7))

    def test_leaves_nothing_of_a_failure(self, tmp_path, trained, monkeypatch):
        def full(file, content, offset):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(table_files, "write_all", full)
        with pytest.raises(OSError, match="No space left"):
            export_tables(tmp_path / "export", trained)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


class TestRefuses:
    def test_a_directory_that_is_there(self, tmp_path, trained):
        export_tables(tmp_path / "export", trained)
        with pytest.raises(ValueError, match=r"directory must not be there, got .*export"):
            export_tables(tmp_path / "export", trained)

    def test_other_tables(self, tmp_path, trained, optimizer):
        export_tables(tmp_path / "export", trained)
        table = tables()[0]
        table.num_embeddings = 31
        with pytest.raises(ValueError, match=r"a.weight must be F32 \[31, 4\], got F32 \[30, 4\]"):
            exported_rows(tmp_path / "export", table, optimizer)
        table.name = "c"
        with pytest.raises(ValueError, match="table must be of the export, got 'c'"):
            exported_rows(tmp_path / "export", table, optimizer)

    def test_a_state_that_is_not_there(self, tmp_path):
        export_tables(tmp_path / "export", collection(tmp_path, OPTIMIZERS["sgd"]))
        with pytest.raises(ValueError, match=r"directory must hold optimizer.safetensors, got"):
            exported_rows(tmp_path / "export", tables()[0], OPTIMIZERS["rowwise"])

    def test_a_directory_that_is_not(self, tmp_path):
        with pytest.raises(OSError, match=r"weights.safetensors"):
            exported_rows(tmp_path / "none", tables()[0], OPTIMIZERS["sgd"])


class TestRanks:
    def test_write_one_export(self, ranks, tmp_path):
        """Two ranks' parts are the whole, and a part can be read for any other cut."""
        optimizer = row_wise_runs.OPTIMIZERS["rowwise"]
        ranks.run(_exported, tmp_path)
        weights = load_file(tmp_path / "export/weights.safetensors")
        states = load_file(tmp_path / "export/optimizer.safetensors")
        for table in row_wise_runs.tables():
            name = f"embedding_bags.{table.name}.weight"
            assert torch.equal(weights[name], row_wise_runs.weight(table))
            assert states[name].tolist() == [0.0] * table.num_embeddings
            rows = row_range(table.num_embeddings, 1, 3)
            fill = exported_rows(tmp_path / "export", table, optimizer, rows=rows)
            part = fill(2, len(rows))
            assert torch.equal(part[:, :-1], weights[name][rows.start + 2 : rows.stop])


def _exported(folder):
    optimizer = row_wise_runs.OPTIMIZERS["rowwise"]
    whole = row_wise_runs.sharded(optimizer, row_wise_runs.tiers(optimizer, folder))
    export_tables(folder / "export", whole.local, process_group=dist.group.WORLD)
