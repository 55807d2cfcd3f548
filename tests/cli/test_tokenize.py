import numpy as np
import pytest

from sidrank.semantic_ids import load_bundle, quality
from sidrank.tokenizers import RQKMeans
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ
from tests.cli.tokenizations import catalogue, sidrank, tokenize, write
from tests.data.row_files import FORMATS

PROMISED = [
    "items",
    "levels",
    "version",
    "parent",
    "hash",
    "items_in_collision",
    "excess",
    "uniqueness",
    "largest_bucket",
    "utilisation",
    "perplexity",
    "reconstruction_error",
]


@pytest.fixture
def items():
    return catalogue()


def sorted_items(items):
    order = np.argsort(items["item"])
    return items["item"][order], items["vector"][order]


class TestBundle:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_holds_what_the_tokenizer_says(self, items, suffix, tmp_path):
        path = write(tmp_path / f"items.{suffix}", items)
        found = tokenize(path, tmp_path / "b", seed=3)
        ids, vectors = sorted_items(items)
        alone = RQKMeans(levels=(8, 8), seed=3).fit(vectors)
        bundle = load_bundle(tmp_path / "b", expected_hash=found["hash"])
        assert np.array_equal(bundle.table.item_ids, ids)
        assert np.array_equal(bundle.table.codes, alone.encode(vectors).numpy())
        for name, tensor in alone.state_dict().items():
            assert np.array_equal(bundle.tokenizer_state[name], tensor)
        expected = quality(bundle.table, vectors=vectors, tokenizer=alone)
        assert bundle.manifest["quality"] == expected.to_dict(complete=True)
        assert {key: found[key] for key in bundle.manifest["quality"]} == bundle.manifest["quality"]
        assert list(found)[: len(PROMISED)] == PROMISED

    def test_does_not_depend_on_the_order_of_the_file(self, items, tmp_path):
        again = {name: each[::-1] for name, each in items.items()}
        one = tokenize(write(tmp_path / "one.parquet", items), tmp_path / "a")
        two = tokenize(write(tmp_path / "two.npz", again), tmp_path / "b")
        assert one["hash"] == two["hash"]

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_one_column_a_number(self, items, suffix, tmp_path):
        one = tokenize(write(tmp_path / "items.parquet", items), tmp_path / "a")
        vectors = items.pop("vector")
        # out of order on purpose, and another column that begins alike
        for column in (2, 0, 3, 1):
            items[f"v{column}"] = vectors[:, column]
        items["vx"] = items["shown"]
        path = write(tmp_path / f"wide.{suffix}", items)
        assert tokenize(path, tmp_path / "b", embedding="v*")["hash"] == one["hash"]
        # codes do not tell in which order the numbers of a vector are; centroids do
        books = [load_bundle(tmp_path / name).tokenizer_state["codebooks.0"] for name in "ab"]
        assert np.array_equal(*books)

    @pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8])
    def test_any_number_will_do(self, items, kind, tmp_path):
        items["vector"] = (items["vector"] * 10).astype(kind)
        path = write(tmp_path / "items.npz", items)
        tokenize(path, tmp_path / "b")
        ids, vectors = sorted_items(items)
        vectors = vectors.astype(np.float32)
        codes = RQKMeans(levels=(8, 8)).fit(vectors).encode(vectors).numpy()
        assert np.array_equal(load_bundle(tmp_path / "b").table.lookup(ids), codes)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("rq-kmeans", "RQKMeans"),
            ("rq-kmeans-fsq", "ResKMeansFSQ"),
            ("rq-vae", "RQVAE"),
            ("r3-vae", "R3VAE"),
            ("capacity-rq", "CapacityConstrainedRQ"),
        ],
    )
    def test_every_tokenizer(self, items, name, kind, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        found = tokenize(path, tmp_path / "b", tokenizer=name)
        assert found["tokenizer"]["name"] == name
        assert load_bundle(tmp_path / "b").manifest["tokenizer"]["name"] == kind
        assert found["neighbour_recall"]["by_vector"] > 3 * found["neighbour_recall"]["chance"]

    def test_text(self, items, tmp_path):
        path = write(tmp_path / "items.csv", items)
        arguments = {"id": "item", "text": "title,category", "tokenizer": "rq-kmeans"}
        report = tmp_path / "r.html"
        code, output, errors = sidrank(
            "tokenize", path, out=tmp_path / "b", levels="12", report=report, **arguments
        )
        assert (code, errors) == (0, "")
        assert "Neighbour recall" in output
        table = load_bundle(tmp_path / "b").table
        codes = table.lookup(items["item"])[:, 0]
        # titles of one group share a number, their own numbers are all different
        groups = np.array([title.split()[1] for title in items["title"]])
        same = groups[:, None] == groups
        together = codes[:, None] == codes
        assert together[same].mean() > 3 * together[~same].mean()
        assert "thing" in report.read_text()

    @pytest.mark.parametrize("rows", [1, 2, 3])
    def test_fewer_items_than_codes_and_width_one(self, rows, tmp_path):
        columns = {"item": np.arange(rows), "vector": np.arange(rows, dtype=np.float64)[:, None]}
        found = tokenize(write(tmp_path / "items.npz", columns), tmp_path / "b")
        assert found["items"] == rows
        assert found["reconstruction_error"]["mse"] == 0

    def test_equal_vectors(self, items, tmp_path):
        items["vector"] = np.ones((120, 3))
        found = tokenize(write(tmp_path / "items.parquet", items), tmp_path / "b")
        assert found["largest_bucket"] == 120
        assert any("All items have the same SID" in note for note in found["notes"])


class TestOptions:
    def test_capacity_writes_the_codes_it_assigned(self, items, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        options = {"tokenizer": "capacity-rq", "weight": "shown"}
        found = tokenize(path, tmp_path / "b", **options)
        ids, vectors = sorted_items(items)
        order = np.argsort(items["item"])
        alone = CapacityConstrainedRQ(levels=(8, 8)).fit(vectors, weights=items["shown"][order])
        assigned = alone.assigned.numpy()
        assert np.array_equal(load_bundle(tmp_path / "b").table.codes, assigned)
        assert not np.array_equal(assigned, alone.encode(vectors).numpy())
        assert found["infeasible"] == [len(rows) for rows in alone.infeasible]
        assert len(ids) == found["new_items"]

    def test_weights_reach_k_means(self, items, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        order = np.argsort(items["item"])
        tokenize(path, tmp_path / "b", weight="shown")
        _, vectors = sorted_items(items)
        alone = RQKMeans(levels=(8, 8)).fit(vectors, weights=items["shown"][order])
        codes = load_bundle(tmp_path / "b").table.codes
        assert np.array_equal(codes, alone.encode(vectors).numpy())

    @pytest.mark.parametrize("name", ["rq-kmeans", "rq-vae"])
    def test_sample(self, items, name, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        whole = tokenize(path, tmp_path / "a", tokenizer=name)
        part = tokenize(path, tmp_path / "b", tokenizer=name, sample=40)
        assert part["items"] == 120
        assert part["hash"] != whole["hash"]
        assert part["reconstruction_error"]["mse"] > whole["reconstruction_error"]["mse"]

    def test_next_nearest(self, items, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        kept = tokenize(path, tmp_path / "a", levels="8,32")
        found = tokenize(path, tmp_path / "b", levels="8,32", collisions="next-nearest")
        before, after = found["collisions"]["before"], found["collisions"]["after"]
        assert before["items_in_collision"] == kept["items_in_collision"] > 0
        assert after["items_in_collision"] == found["items_in_collision"] == 0
        assert before["recall_by_prefix"] == kept["neighbour_recall"]["by_prefix"]
        assert after["recall_by_prefix"] == found["neighbour_recall"]["by_prefix"]
        assert found["collisions"]["moved"] > 0

    def test_suffix(self, items, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        kept = tokenize(path, tmp_path / "a", levels="8")
        found = tokenize(path, tmp_path / "b", levels="8", collisions="suffix")
        assert found["levels"] == [8, 256]
        assert (found["uniqueness"], found["largest_bucket"]) == (1, 1)
        assert found["reconstruction_error"] == kept["reconstruction_error"]
        assert found["collisions"]["before"]["largest_bucket"] == kept["largest_bucket"]
        assert any("Level 2 is a suffix" in note for note in found["notes"])
        assert not any("Level 2 has" in note for note in found["notes"])

    def test_categories(self, items, tmp_path):
        path = write(tmp_path / "items.parquet", items)
        found = tokenize(path, tmp_path / "b", category="category")
        assert found["purity"]["v_measure"][0] > found["purity"]["shuffled"][0] + 0.2

    def test_threads_are_given_back(self, items, tmp_path):
        import torch

        before = torch.get_num_threads()
        tokenize(write(tmp_path / "items.parquet", items), tmp_path / "b", threads=2)
        assert torch.get_num_threads() == before


class TestWords:
    def test_says_what_is_bad(self, items, tmp_path):
        rng = np.random.default_rng(0)
        # nearly all items in one place, and noise that a code of two levels cannot hold
        items["vector"] = np.where(np.arange(120)[:, None] < 100, 0.0, rng.normal(size=(120, 64)))
        path = write(tmp_path / "items.parquet", items)
        code, output, _ = sidrank(
            "tokenize",
            path,
            id="item",
            embedding="vector",
            tokenizer="rq-kmeans",
            levels="64,200",
            out=tmp_path / "b",
        )
        assert code == 0
        words = " ".join(output.split())
        for part in (
            "Collisions: 83.3% of the items share their whole SID",
            "the most common SID has 100 items",
            "Level 1 has dead codes: 43 of 64 belong to no item (67%)",
            "Level 1 is uneven: 21 codes are in use, as 3 evenly used ones",
            "Level 2 has more codes (200) than there are items (120)",
        ):
            assert part in words, words

    def test_random_codes_are_told(self, tmp_path):
        rng = np.random.default_rng(0)
        columns = {"item": np.arange(300), "vector": rng.normal(size=(300, 256))}
        found = tokenize(write(tmp_path / "items.npz", columns), tmp_path / "b", levels="2")
        assert any("Neighbours are lost: by rebuilt vectors" in note for note in found["notes"])
