import copy
import gc
import pickle

import pytest
import torch
import torchrec.optim
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.cache._bag_group import BagGroup
from sidrank.cache.errors import CacheError
from sidrank.cache.row_optimizer import RowOptimizer, new_rows, weight_rows
from sidrank.cache.slow_tier import FileTier, MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache import tiered_runs as runs
from tests.cache.tiered_small import SGD, asked, small, table


def rows_of(collection):
    return {name: rows.clone() for name, rows in runs.rows_of(collection).items()}


def equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class TestInPlaceOfACollection:
    def test_pools_as_torchrec_from_its_checkpoint(self):
        host = EmbeddingBagCollection(tables=runs.tables("mean"))
        collection = runs.tiered(pooling="mean")
        collection.load_state_dict(host.state_dict())
        for example in runs.batches(5):
            expected, got = host(example), collection(example)
            assert got.keys() == expected.keys() == ["x@one", "x@two", "y@two", "z", "y@three"]
            assert got.length_per_key() == expected.length_per_key()
            torch.testing.assert_close(got.values(), expected.values())

    def test_keeps_the_order_of_tables_of_several_widths(self):
        collection = runs.tiered()
        weights = runs.born()
        one = collection(runs.batch({"x": [[3]], "y": [[4]], "z": [[5]]})).to_dict()
        assert torch.equal(one["x@one"][0], weights["one"][3])
        assert torch.equal(one["y@two"][0], weights["two"][4])
        assert torch.equal(one["z"][0], weights["three"][5])

    def test_gives_torchrec_its_checkpoint(self):
        collection = runs.tiered()
        runs.train(collection, runs.batches(5))
        host = EmbeddingBagCollection(tables=runs.tables())
        host.load_state_dict(collection.state_dict())
        example = runs.batches(1, seed=9)[0]
        torch.testing.assert_close(host(example).values(), collection(example).values())

    def test_has_nothing_for_another_optimizer(self):
        assert list(runs.tiered().parameters()) == []

    def test_a_table_without_features_reads_its_own_name(self):
        config = EmbeddingBagConfig(name="f", embedding_dim=4, num_embeddings=9)
        collection = TieredEmbeddingBagCollection([config], slots=4, optimizer=SGD)
        assert collection(asked(1)).keys() == ["f"]

    @pytest.mark.parametrize(
        "example", [{"x": [], "y": [], "z": []}, {"x": [[]], "y": [[]], "z": [[]]}]
    )
    def test_nothing_asked_for_is_nothing_or_zero(self, example):
        values = runs.tiered()(runs.batch(example)).values()
        assert values.shape == (len(example["x"]), 32)
        assert not values.any()
        values.sum().backward()

    def test_narrow_ids(self):
        collection = small()
        wide, narrow = collection(asked(3, 4)), collection(asked(3, 4, dtype=torch.int32))
        assert torch.equal(wide.values(), narrow.values())

    def test_learning_rate_of_a_schedule(self):
        collection, host = runs.tiered(), runs.fused()
        for each in (collection, host):
            runs.train(each, runs.batches(5))
        collection.set_learning_rate(0.3)
        host.fused_optimizer().param_groups[0]["lr"] = 0.3
        host.fused_optimizer().step()
        losses = [runs.train(each, runs.batches(8, seed=3)) for each in (collection, host)]
        assert losses[0] == losses[1]
        equal(rows_of(collection), runs.rows_of_fused(host))
        assert runs.train(pickle.loads(pickle.dumps(collection)), runs.batches(2)) == runs.train(
            collection, runs.batches(2)
        )

    def test_compiled_around_it(self):
        collection, other = runs.tiered(), runs.tiered()
        head = torch.nn.Linear(32, 1)

        def ranker(each):
            return lambda example: head(each(example).values()).sum()

        compiled = torch.compile(ranker(other), backend="aot_eager")
        for example in runs.batches(4):
            loss, again = ranker(collection)(example), compiled(example)
            assert torch.equal(loss, again)
            loss.backward()
            again.backward()
        equal(rows_of(other), rows_of(collection))

    def test_traced_as_a_leaf(self):
        from torchrec.fx import Tracer

        model = torch.nn.Sequential(small())
        graph = Tracer(leaf_modules=["TieredEmbeddingBagCollection"]).trace(model)
        traced = torch.fx.GraphModule(model, graph)
        assert torch.equal(traced(asked(1, 2)).values(), model(asked(1, 2)).values())


class TestBirth:
    def test_rows_come_from_the_tables_own_function(self):
        config = table(init_fn=lambda weight: weight.fill_(3.0))
        collection = TieredEmbeddingBagCollection([config], slots=4, optimizer=SGD)
        assert torch.equal(collection(asked(7)).values(), torch.full((1, 4), 3.0))

    def test_torchrecs_own_function(self):
        weight = small().state_dict()["embedding_bags.t.weight"]
        assert weight.abs().max() <= 20**-0.5
        assert weight.unique().numel() > 70

    def test_files_can_be_filled_from_it_or_from_weights(self, tmp_path):
        config, rule = table(), RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.1)
        fills = {"new": new_rows(config, rule), "from": weight_rows(torch.ones(20, 4), rule)}
        for name, fill in fills.items():
            tier = FileTier(tmp_path / name, rows=20, width=5, fill=fill)
            collection = TieredEmbeddingBagCollection(
                [config], slots=4, optimizer=rule, tiers={"t": tier}
            )
            values = rows_of(collection)["t"]
            assert not values[:, 4].any()
            assert torch.equal(collection(asked(3)).values(), values[3:4, :4])
            assert (values[:, :4] == 1).all() == (name == "from")

    def test_no_more_slots_than_rows(self):
        collection = small(slots=1000)
        for ids in (range(20), range(20)):
            collection(asked(*ids))
        assert collection.traffic["t"].misses == 20
        assert collection.traffic["t"].evictions == 0


class TestPasses:
    def test_evaluation_loses_nothing(self):
        collection, host = runs.tiered(), runs.fused()
        for each in (collection, host):
            for seed in range(3):
                runs.train(each, runs.batches(10, seed=seed))
                each.eval()
                with torch.no_grad():
                    scores = [each(example).values() for example in runs.batches(10, seed=50)]
                each.train()
                if each is collection:
                    expected = scores
        assert all(torch.equal(a, b) for a, b in zip(scores, expected, strict=True))
        equal(rows_of(collection), runs.rows_of_fused(host))

    def test_inference_mode_first(self):
        collection = small()
        collection(asked(9)).values().sum().backward()
        with torch.inference_mode():
            collection.flush()
            collection.abandon(collection.prefetch(asked(1, 2), background=False))
            scores = collection(asked(1, 2, 3)).values()
        output = collection(asked(3, 4, 5)).values()
        assert torch.equal(output[0], scores[2])
        output.sum().backward()
        with torch.inference_mode():
            assert torch.equal(collection(asked(3)).values()[0], scores[2] - 0.5)
        collection(asked(*range(10, 14)))  # so that 3 leaves

    def test_weights_of_a_batch_get_their_gradient(self):
        collection = runs.tiered(weighted=True)
        example = runs.batch({"x": [[1, 2]], "y": [[]], "z": [[]]}, weights=torch.ones(2))
        example.weights().requires_grad_()
        collection(example).to_dict()["x@one"].sum().backward()
        expected = runs.born()["one"][[1, 2]].sum(1)
        torch.testing.assert_close(example.weights().grad, expected)

    def test_evaluation_writes_what_was_trained_and_nothing_of_its_own(self):
        collection = small()
        collection(asked(0, 1, 2)).values().sum().backward()
        with torch.no_grad():
            for start in range(0, 20, 4):
                collection(asked(*range(start, start + 4)))
            collection(asked(0, 1, 2, 3))
        assert collection.traffic["t"].evictions == 20
        assert collection.traffic["t"].written == 3

    def test_two_forward_passes_before_their_backward_passes(self):
        collection, host = runs.tiered(slots=100), runs.fused()
        for first, second in zip(runs.batches(9), runs.batches(9, seed=1), strict=True):
            for each in (collection, host):
                outputs = [each(example).values() for example in (first, second)]
                for output in outputs[::-1]:
                    output.square().sum().backward()
        equal(rows_of(collection), runs.rows_of_fused(host))

    def test_rows_of_an_open_graph_are_kept(self):
        collection = small()
        output = collection(asked(1, 2, 3)).values()
        before = collection.traffic["t"].misses
        with pytest.raises(
            CacheError, match="slots of t must be at least 5, the rows in flight, got 4"
        ):
            collection(asked(3, 4, 5))
        assert collection.traffic["t"].misses == before
        collection(asked(3, 4))
        output.sum().backward()
        collection(asked(4, 5, 6, 7))

    def test_a_graph_that_is_dropped_lets_go(self):
        collection = small()
        output = collection(asked(1, 2, 3))
        del output
        gc.collect()
        collection(asked(4, 5, 6, 7))

    def test_a_lookup_that_fails_lets_go(self, monkeypatch):
        collection = small()

        def fail(self, slots, features):
            raise RuntimeError("no lookup")

        with monkeypatch.context() as patched:
            patched.setattr(BagGroup, "pool", fail)
            with pytest.raises(RuntimeError, match="no lookup"):
                collection(asked(1, 2, 3))
        gc.collect()
        collection(asked(4, 5, 6, 7))

    def test_one_backward_pass_each(self):
        output = small()(asked(1, 2)).values().sum()
        output.backward(retain_graph=True)
        with pytest.raises(
            CacheError, match=r"backward must run once, .*, got one after it has run"
        ):
            output.backward()

    def test_no_backward_pass_over_rows_that_were_dropped(self):
        collection = small()
        output = collection(asked(1, 2)).values().sum()
        before = rows_of(collection)
        collection.drop()
        with pytest.raises(
            CacheError, match=r"backward must .*, got one after the cache was dropped"
        ):
            output.backward()
        equal(rows_of(collection), before)

    def test_rows_that_do_not_fit_move_nothing(self):
        collection = runs.tiered(slots=8)
        before, traffic = rows_of(collection), copy.deepcopy(collection.traffic)
        many = runs.batch({"x": [[1]], "y": [[2]], "z": [list(range(10, 18))]})  # table three alone
        with pytest.raises(CacheError, match="slots of three must be at least 9"):
            collection(many)
        assert collection.traffic == traffic
        equal(rows_of(collection), before)
        collection(runs.batch({"x": [[1]], "y": [[2]], "z": [[3]]})).values().sum().backward()


class TestSaved:
    def test_state_dict_round_trip_goes_on_the_same(self):
        collection, other = runs.tiered(), runs.tiered()
        runs.train(collection, runs.batches(20))
        weights, states = collection.state_dict(), collection.optimizer_state_dict()
        assert sorted(weights) == [f"embedding_bags.{n}.weight" for n in ("one", "three", "two")]
        runs.train(other, runs.batches(3, seed=8))  # slots full of other rows
        other.load_state_dict(weights)
        other.load_optimizer_state_dict(states)
        equal(rows_of(other), rows_of(collection))
        again = [runs.train(each, runs.batches(9, seed=2)) for each in (collection, other)]
        assert again[0] == again[1]

    def test_weights_alone_leave_the_state(self):
        collection = runs.tiered()
        runs.train(collection, runs.batches(5))
        states = collection.optimizer_state_dict()
        collection.load_state_dict(runs.tiered().state_dict())
        after = collection.optimizer_state_dict()
        for name, state in states.items():
            assert torch.equal(after[name]["momentum1"], state["momentum1"])
            assert state["momentum1"].any()
        example = runs.batches(5)[-1]  # whose rows were in slots
        assert torch.equal(collection(example).values(), runs.tiered()(example).values())

    def test_state_of_each_optimizer(self):
        shapes = {
            name: [list(state["momentum1"].shape) for state in states.values()]
            for name, states in (
                (name, runs.tiered(name, count=2).optimizer_state_dict())
                for name in runs.OPTIMIZERS
            )
        }
        assert shapes == {
            "sgd": [],
            "rowwise": [[runs.ROWS], [runs.ROWS]],
            "adagrad": [[runs.ROWS, 8], [runs.ROWS, 4]],
        }

    @pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
    def test_a_copy_goes_on_the_same_and_apart(self, way):
        collection = runs.tiered().eval()
        runs.train(collection, runs.batches(20))
        other = way(collection)
        assert not other.training
        assert runs.train(other, runs.batches(9, seed=2)) == runs.train(
            collection, runs.batches(9, seed=2)
        )
        runs.train(other, runs.batches(1))
        assert not torch.equal(rows_of(other)["two"], rows_of(collection)["two"])

    def test_tables_in_files_are_not_in_it(self, tmp_path):
        collection = runs.tiered(folder=tmp_path)
        assert collection.state_dict() == {}
        assert collection.optimizer_state_dict() == {}
        collection.load_state_dict({})
        collection.load_state_dict(runs.tiered().state_dict())  # but may be filled from one
        equal(rows_of(collection), rows_of(runs.tiered()))

    def test_a_checkpoint_that_does_not_fit(self):
        collection, weights = runs.tiered(), runs.tiered().state_dict()
        before = rows_of(collection)
        with pytest.raises(RuntimeError, match=r'Missing key.*"embedding_bags.one.weight"'):
            collection.load_state_dict({})
        with pytest.raises(RuntimeError, match=r'Unexpected key.*"more"'):
            collection.load_state_dict({**weights, "more": torch.ones(1)})
        wrong = {**weights, "embedding_bags.one.weight": torch.ones(3, 8)}
        with pytest.raises(
            RuntimeError, match=r"one.weight must have shape \[220, 8\], got \[3, 8\]"
        ):
            collection.load_state_dict(wrong)
        equal(rows_of(collection), before)

    def test_states_that_do_not_fit(self):
        collection = runs.tiered(count=1)
        with pytest.raises(
            ValueError, match=r"states must hold \['embedding_bags.one.weight'\], got \[\]"
        ):
            collection.load_optimizer_state_dict({})
        wrong = {"embedding_bags.one.weight": {"momentum1": torch.ones(3)}}
        with pytest.raises(ValueError, match=r"states must be \[220\] for .*one.*, got \[3\]"):
            collection.load_optimizer_state_dict(wrong)

    def test_drop_reads_the_tiers_again(self):
        collection = small()
        collection(asked(3))
        collection.tiers["t"].write(torch.tensor([3]), torch.full((1, 4), 9.0))
        assert (collection(asked(3)).values() != 9.0).all()
        collection.drop()
        assert (collection(asked(3)).values() == 9.0).all()


class FailingTier(MemoryTier):
    """A disk that is full for a while."""

    full = False

    def write(self, rows, values):
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(rows, values)


class TestFailure:
    def test_nothing_goes_on_until_the_slots_are_dropped(self):
        tier = FailingTier(rows=20, width=4)
        collection = small(tiers={"t": tier})
        collection(asked(1, 2)).values().sum().backward()
        collection.flush()
        committed = rows_of(collection)
        collection(asked(3, 4)).values().sum().backward()
        tier.full = True
        with pytest.raises(OSError, match="No space"):
            collection(asked(5, 6, 7))
        tier.full = False
        for attempt in (lambda: collection(asked(1)), collection.flush, collection.state_dict):
            with pytest.raises(CacheError, match=r"tiers must be set back .* No space left"):
                attempt()
        collection.drop()
        equal(rows_of(collection), committed)
        collection(asked(1)).values().sum().backward()

    def test_flush_can_be_tried_again(self):
        tier = FailingTier(rows=20, width=4)
        collection = small(tiers={"t": tier})
        collection(asked(1, 2)).values().sum().backward()
        tier.full = True
        with pytest.raises(OSError, match="No space"):
            collection.flush()
        tier.full = False
        collection.flush()
        assert (rows_of(collection)["t"][1] == -0.5).all()
