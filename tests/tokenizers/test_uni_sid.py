import json

import numpy as np
import pytest
import torch

from sidrank.losses import two_way_info_nce
from sidrank.semantic_ids import (
    SIDSpec,
    SIDTable,
    load_bundle,
    prefix_purity,
    quality,
    save_bundle,
    v_measure,
)
from sidrank.tokenizers._descent import descend
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.parallel_sid_head import ParallelSIDHead, UniSIDWeights
from sidrank.tokenizers.rq_kmeans import RQKMeans
from sidrank.tokenizers.uni_sid import UniSID
from tests.tokenizers import planted

LEVELS = (16, 32, 128)
SMALL = {"levels": LEVELS, "width": 64, "training": Training(14, 270, 5e-3)}
OLD, NEW = slice(0, 540), slice(540, None)
SEEDS = range(5)


def agreement(codes, paths):
    """V-measure of the codes of each level and the categories of that depth."""
    return np.array([v_measure(paths[:, level], codes[:, level]) for level in range(3)])


def plain_info_nce(x, leaf, seed):
    """The same tower and heads, taught by pairs of items of one leaf, all levels alike."""
    generator = torch.Generator().manual_seed(seed)
    tower = torch.nn.Sequential(torch.nn.Linear(26, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    head = ParallelSIDHead(dim=64, levels=LEVELS)
    members = torch.stack([(leaf == each).nonzero().squeeze(1) for each in leaf.unique()])

    def loss_of(rows):
        choice = torch.randint(0, members.shape[1], (len(rows),), generator=generator)
        other = members[leaf[rows], choice]
        pairs = torch.stack([rows, other], dim=1)
        sides = zip(head(tower(x[rows])), head(tower(x[other])), strict=True)
        return sum(two_way_info_nce(one, two, pairs=pairs) for one, two in sides) / 3

    parameters = [*tower.parameters(), *head.parameters()]
    descend(
        parameters,
        len(x),
        loss_of,
        training=SMALL["training"],
        generator=generator,
        progress=None,
    )
    return lambda vectors: head.codes(tower(vectors))


def measure():
    """On items never seen: codes of five seeds, the heads' and their controls'."""
    found = {"heads": [], "permuted": [], "info_nce": [], "rq": [], "rq_supervised": []}
    usage = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        x, paths = planted.tree(seed)
        x = x / x.square().mean().sqrt()
        tokenizer = UniSID(**SMALL, seed=seed).fit(x[OLD], categories=paths[OLD])
        codes = tokenizer.encode(x[NEW])
        usage.append(ParallelSIDHead(dim=1, levels=LEVELS).usage(codes))
        found["heads"].append(agreement(codes, paths[NEW]))
        order = torch.randperm(540)
        null = UniSID(**SMALL, seed=seed).fit(x[OLD], categories=paths[OLD][order])
        found["permuted"].append(agreement(null.encode(x[NEW]), paths[NEW]))
        info_nce = plain_info_nce(x[OLD], paths[OLD, 2], seed)
        found["info_nce"].append(agreement(info_nce(x[NEW]), paths[NEW]))
        for name, vectors in (("rq", x), ("rq_supervised", tokenizer.embed(x))):
            control = RQKMeans(levels=LEVELS, seed=seed).fit(vectors[OLD])
            found[name].append(agreement(control.encode(vectors[NEW]), paths[NEW]))
    return {name: np.array(values) for name, values in found.items()}, np.array(usage)


@pytest.fixture(scope="module")
def fits():
    return measure()


class TestAgainstControls:
    """Measured on items that were not in the fit, five seeds each."""

    def test_codes_follow_the_taxonomy_and_permuted_categories_do_not(self, fits):
        found, _ = fits
        assert (found["heads"] > found["permuted"] + 0.25).all()
        assert found["permuted"][:, 0].max() < 0.15

    def test_more_than_plain_info_nce_and_most_at_the_first_level(self, fits):
        found, _ = fits
        gain = found["heads"] - found["info_nce"]
        assert (gain[:, 0] > 0).all()
        first, second, third = gain.mean(axis=0)
        assert first > second > third

    def test_more_than_residual_k_means_on_the_same_vectors(self, fits):
        found, _ = fits
        assert (found["heads"][:, 0] > found["rq"][:, 0]).all()

    def test_less_than_residual_k_means_on_a_supervised_vector(self, fits):
        """The categories help, not the heads: k-means on the same tower does better."""
        found, _ = fits
        assert (found["heads"][:, 0] < found["rq_supervised"][:, 0]).all()

    def test_no_level_collapses(self, fits):
        assert fits[1].min() > 0.2


@pytest.fixture(scope="module")
def fitted():
    x, paths = planted.tree(0)
    return UniSID(levels=(8, 16, 64), width=32, training=Training(5, 256)).fit(x, categories=paths)


class TestTokenizer:
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_codes_do_not_depend_on_the_batch(self, fitted, size, threads):
        x, before = planted.tree(1)[0][:100], torch.get_num_threads()
        whole, vectors = fitted.encode(x), fitted.embed(x)
        torch.set_num_threads(threads)
        try:
            assert torch.equal(torch.cat([fitted.encode(part) for part in x.split(size)]), whole)
            parts = torch.cat([fitted.embed(part) for part in x.split(size)])
            assert torch.equal(parts, vectors)
        finally:
            torch.set_num_threads(before)

    def test_codes_are_those_of_the_trained_network(self, fitted):
        x, state = planted.tree(1)[0], fitted.state_dict()
        h = (x - state["shift"]) / state["scale"]
        h = (h @ state["tower.0.weight"].T + state["tower.0.bias"]).relu()
        h = h @ state["tower.2.weight"].T + state["tower.2.bias"]
        unit = torch.nn.functional.normalize(h, dim=1)
        torch.testing.assert_close(fitted.embed(x), unit, atol=1e-5, rtol=1e-4)
        codes = fitted.encode(x)
        for level in range(3):
            name = f"head.heads.{level}"
            z = h @ state[f"{name}.weight"].T + state[f"{name}.bias"]
            chosen = z.gather(1, codes[:, level : level + 1].long()).squeeze(1)
            torch.testing.assert_close(chosen, z.amax(dim=1), atol=1e-4, rtol=1e-4)

    def test_decode_is_the_mean_of_what_is_left(self):
        x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0]])
        categories = [[0, 0], [0, 1], [1, 2], [1, 3]]
        tokenizer = UniSID(levels=(4, 8), width=16).fit(x, categories=categories)
        codes = tokenizer.encode(x)
        expected = x.mean(dim=0).repeat(4, 1)
        for level in range(2):
            left = x - expected
            for code in codes[:, level].unique():
                expected[codes[:, level] == code] += left[codes[:, level] == code].mean(dim=0)
        torch.testing.assert_close(tokenizer.decode(codes), expected)

    def test_same_seed_same_codes_and_nothing_global_moves(self):
        x, paths = planted.tree(0, items=108)
        arguments = {"levels": (8, 16, 64), "width": 16, "training": Training(2, 64)}
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        one = UniSID(**arguments).fit(x, categories=paths).state_dict()
        torch.manual_seed(99)
        with torch.inference_mode(), torch.autocast("cpu"):
            two = UniSID(**arguments).fit(x, categories=paths).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
        other = UniSID(**arguments, seed=1).fit(x, categories=paths).state_dict()
        assert not torch.equal(one["tower.0.weight"], other["tower.0.weight"])
        torch.set_rng_state(before[0])
        UniSID(**arguments).fit(x, categories=paths)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()

    def test_pairs_pull_items_together(self):
        x, paths = planted.tree(0, items=432)
        generator = torch.Generator().manual_seed(0)
        partner = torch.randperm(216, generator=generator) + 216
        pairs = torch.stack([torch.arange(216), partner], dim=1)
        gaps = []
        for given in (None, pairs):
            training = Training(20, 128)
            tokenizer = UniSID(levels=(8, 16, 64), width=32, training=training)
            unit = tokenizer.fit(x, categories=paths, pairs=given).embed(x)
            gaps.append(float((unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(dim=1).mean()))
        assert gaps[1] > gaps[0] + 0.2

    def test_bundle_and_quality(self, fitted, tmp_path):
        x, paths = planted.tree(0)
        codes = fitted.encode(x)
        table = SIDTable(np.arange(len(x)), codes.numpy(), spec=SIDSpec((8, 16, 64)))
        found = quality(table, vectors=x, tokenizer=fitted, categories=paths)
        assert found.purity == prefix_purity(codes, paths)
        assert found.reconstruction_error["relative"] < 1
        save_bundle(tmp_path / "b", table, tokenizer=fitted, quality=found)
        bundle = load_bundle(tmp_path / "b")
        arguments = bundle.manifest["tokenizer"]["arguments"]
        assert arguments == json.loads(json.dumps(fitted.arguments))
        twin = UniSID(**arguments).load_state_dict(bundle.tokenizer_state)
        assert torch.equal(twin.encode(x), codes)
        assert torch.equal(twin.decode(codes), fitted.decode(codes))

    def test_progress(self):
        x, paths = planted.tree(0, items=54)
        told = []
        tokenizer = UniSID(levels=(8, 16, 64), width=8, training=Training(3, 54))
        tokenizer.fit(x, categories=paths, progress=lambda *step: told.append(step))
        assert told == [("training epochs", epoch, 3) for epoch in (1, 2, 3)]

    @pytest.mark.parametrize(
        "x", [torch.randn(6, 1), torch.ones(6, 3), torch.randn(6, 3).half(), np.eye(6)]
    )
    def test_odd_vectors(self, x):
        tokenizer = UniSID(levels=(50,), width=4, training=Training(2))
        codes = tokenizer.fit(x, categories=[[0], [0], [1], [1], [-1], [2]]).encode(x)
        assert codes.shape == (6, 1)
        assert tokenizer.decode(codes).isfinite().all()


class TestErrors:
    X = torch.randn(4, 3)
    PATHS = torch.tensor([[0], [0], [1], [1]])

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"levels": ()}, "levels must be one or more sizes"),
            ({"width": 0}, "width must be at least 1, got 0"),
            ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"weights": UniSIDWeights()}, "weights must have sid above 0 and reconstruction 0"),
            ({"weights": {"sid": 0, "reconstruction": 0}}, "weights must have sid above 0"),
        ],
    )
    def test_arguments(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            UniSID(**arguments)

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"categories": None}, "categories must be given for UniSID, got None"),
            ({"categories": [[0, 1]] * 4}, r"categories must have shape \[4, 1\], got \[4, 2\]"),
            ({"categories": [[0]] * 3}, r"categories must have shape \[4, 1\], got \[3, 1\]"),
            ({"categories": [[0], [1], [2], [3]]}, "categories must join two items or more"),
            ({"categories": [[-1]] * 4}, "categories must join two items or more"),
            ({"weights": torch.ones(4)}, "weights must be None for UniSID, got some"),
            ({"pairs": [[0, 9]]}, r"pairs must hold rows within \[0, 4\), got 9"),
        ],
    )
    def test_fit(self, given, match):
        if "pairs" in given:
            given = {"pairs": torch.tensor(given["pairs"])}
        with pytest.raises(ValueError, match=match):
            UniSID(levels=(2,)).fit(self.X, **({"categories": self.PATHS} | given))

    def test_pairs_without_a_weight(self):
        tokenizer = UniSID(levels=(2,), weights={"embedding": 0.0, "reconstruction": 0.0})
        with pytest.raises(ValueError, match=r"pairs must be None if weights\.embedding is 0"):
            tokenizer.fit(self.X, categories=self.PATHS, pairs=torch.tensor([[0, 1]]))

    def test_vectors(self):
        bad = self.X.clone()
        bad[2, 1] = torch.nan
        with pytest.raises(ValueError, match=r"x must be finite and within .* in row 2"):
            UniSID(levels=(2,)).fit(bad, categories=self.PATHS)
        with pytest.raises(ValueError, match="x must hold at least one number"):
            UniSID(levels=(2,)).fit(self.X[:0], categories=self.PATHS[:0])

    def test_diverging(self):
        tokenizer = UniSID(levels=(2,), training=Training(50, 4, 1e30))
        with pytest.raises(ValueError, match="learning_rate must keep the loss finite"):
            tokenizer.fit(self.X, categories=self.PATHS)

    def test_unfitted(self):
        for call in ("encode", "embed", "decode"):
            with pytest.raises(NotFittedError, match="UniSID must be fitted or loaded first"):
                getattr(UniSID(), call)(self.X)
        with pytest.raises(NotFittedError, match="UniSID must be fitted or loaded first"):
            UniSID().state_dict()

    def test_state(self, fitted):
        state = fitted.state_dict()
        with pytest.raises(ValueError, match="state must hold"):
            UniSID(**fitted.arguments).load_state_dict({"shift": state["shift"]})
        state["head.heads.1.bias"] = torch.zeros(3)
        with pytest.raises(ValueError, match=r"head\.heads\.1\.bias must have shape \[16\]"):
            UniSID(**fitted.arguments).load_state_dict(state)
