"""Compressed histories by user, as of a time."""

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences.token_kv_cache import TokenKVCache, TokenStates, model_tag
from tests.sequences import reference_compression as reference

LOWEST = -(2**63)


def states(rows, tokens=2, layers=3):
    """Rows are told apart by their number, which is in every value."""
    numbers = torch.arange(rows).float()
    keys = numbers.view(1, rows, 1, 1, 1).expand(layers, rows, 2, tokens, 4).clone()
    return TokenStates(keys, keys + 0.5, torch.ones(rows, tokens).bool(), torch.arange(rows) + 1)


def cache(*snapshots, model="v1", **sizes):
    users, until = torch.tensor(snapshots, dtype=torch.int64).view(-1, 2).unbind(1)
    return TokenKVCache(users=users, until=until, states=states(len(users), **sizes), model=model)


def column(*values):
    return torch.tensor(values, dtype=torch.int64)


some = st.tuples(st.integers(-3, 3), st.integers(-5, 5))


@given(st.lists(some, unique=True, max_size=12), st.lists(some, max_size=6))
def test_reads_the_newest_snapshot_that_is_not_later(snapshots, requests):
    store = cache(*snapshots)
    for user, now in requests:
        try:
            expected = reference.newest_not_after(snapshots, user, now)
        except LookupError:
            with pytest.raises(ValueError, match=f"now must be .* or later for user {user}, whose"):
                store.read(column(user), column(now), model="v1")
            continue
        found, until = store.read(column(user), column(now), model="v1")
        assert until.item() == (LOWEST if expected is None else expected)
        if expected is None:
            assert not found.mask.any()
            assert found.length.item() == 0
        else:
            row = snapshots.index((user, expected))
            assert (found.keys == row).all()
            assert (found.values == row + 0.5).all()
            assert found.mask.all()
            assert found.length.item() == row + 1


def test_rows_come_in_the_order_asked_for():
    store = cache((7, 10), (3, 10), (7, 20))
    found, until = store.read(column(3, 7, 9, 7), column(15, 15, 15, 25), model="v1")
    assert found.length.tolist() == [2, 1, 0, 3]
    assert until.tolist() == [10, 10, LOWEST, 20]
    assert found.keys.shape == (3, 4, 2, 2, 4)
    assert found.keys[0, :, 0, 0, 0][[0, 1, 3]].tolist() == [1.0, 0.0, 2.0]


def test_extreme_users_and_times():
    big = 2**63 - 1
    store = cache((big, big), (LOWEST, LOWEST), (-1, 0))
    found, _ = store.read(column(LOWEST, big, -1), column(LOWEST, big, big), model="v1")
    assert found.length.tolist() == [2, 1, 3]


def test_no_requests():
    found, until = cache((1, 1)).read(column(), column(), model="v1")
    assert found.keys.shape == (3, 0, 2, 2, 4)
    assert len(until) == 0


def test_joined_and_without():
    old, new = cache((1, 10), (2, 10)), cache((2, 20), (3, 20))
    both = old.joined(new)
    assert len(both) == 4
    found, until = both.read(column(1, 2, 3), column(20, 20, 20), model="v1")
    assert until.tolist() == [10, 20, 20]
    assert found.length.tolist() == [1, 1, 2]
    forgotten = both.without(column(2, 99))
    assert forgotten.users.tolist() == [1, 3]
    found, until = forgotten.read(column(1, 2, 3), column(20, 20, 20), model="v1")
    assert found.mask.any(dim=1).tolist() == [True, False, True]
    assert (found.keys[:, 2] == 1.0).all()


class TestFile:
    def test_round_trip(self, tmp_path):
        store = cache((7, 10), (3, 10), (7, 20))
        store.save(tmp_path / "cache.safetensors")
        again = TokenKVCache.load(tmp_path / "cache.safetensors", model="v1")
        assert [path.name for path in tmp_path.iterdir()] == ["cache.safetensors"]
        assert (again.users.tolist(), again.until.tolist()) == ([3, 7, 7], [10, 10, 20])
        for one, other in zip(again.states, store.states, strict=True):
            assert torch.equal(one, other)

    def test_keeps_the_dtype(self, tmp_path):
        one = states(2)
        half = one._replace(keys=one.keys.bfloat16(), values=one.values.bfloat16())
        store = TokenKVCache(users=column(1, 2), until=column(1, 1), states=half, model="v1")
        store.save(tmp_path / "cache")
        assert TokenKVCache.load(tmp_path / "cache", model="v1").states.keys.dtype == torch.bfloat16

    def test_replaces_the_last_one(self, tmp_path):
        cache((1, 1)).save(tmp_path / "cache")
        cache((1, 1), (2, 2), model="v2").save(tmp_path / "cache")
        assert len(TokenKVCache.load(tmp_path / "cache", model="v2")) == 2

    def test_damaged(self, tmp_path):
        path = tmp_path / "cache"
        cache((1, 1)).save(path)
        whole = path.read_bytes()
        for damage in (b"", whole[:50], whole[:-1]):
            path.write_bytes(damage)
            with pytest.raises(ValueError, match="cache must be an intact token cache, got"):
                TokenKVCache.load(path, model="v1")
        with pytest.raises(ValueError, match="absent must be an intact token cache, got"):
            TokenKVCache.load(tmp_path / "absent", model="v1")

    def test_another_format(self, tmp_path):
        safetensors.torch.save_file({"users": column(1)}, tmp_path / "other")
        with pytest.raises(ValueError, match="its format is None, not sidrank-token-cache-1"):
            TokenKVCache.load(tmp_path / "other", model="v1")

    def test_a_part_is_missing(self, tmp_path):
        about = {"format": "sidrank-token-cache-1", "model": "v1"}
        safetensors.torch.save_file({"users": column(1)}, tmp_path / "other", metadata=about)
        with pytest.raises(ValueError, match="other must be an intact token cache, got: 'keys'"):
            TokenKVCache.load(tmp_path / "other", model="v1")


class TestModel:
    def test_another_model_is_refused(self, tmp_path):
        store = cache((1, 1))
        store.save(tmp_path / "cache")
        message = "model must be v1, which made the cache, got v2"
        with pytest.raises(ValueError, match=message):
            store.read(column(1), column(1), model="v2")
        with pytest.raises(ValueError, match=message):
            TokenKVCache.load(tmp_path / "cache", model="v2")
        with pytest.raises(ValueError, match=message):
            store.joined(cache((2, 1), model="v2"))

    def test_tag_changes_with_a_weight_a_name_or_a_shape(self):
        torch.manual_seed(0)
        module = torch.nn.Linear(2, 3)
        tags = {model_tag(module)}
        assert model_tag(module) in tags
        with torch.no_grad():
            module.weight[0, 0] += 1e-6
        tags.add(model_tag(module))
        tags.add(model_tag(torch.nn.Sequential(module)))
        module.weight = torch.nn.Parameter(module.weight.detach().view(2, 3))
        tags.add(model_tag(module))
        assert len(tags) == 4
        module.to(torch.bfloat16)
        assert model_tag(module) not in tags


class TestErrors:
    def test_two_snapshots_of_one_time(self):
        message = "until must differ between snapshots of a user, got 5 twice for user 1"
        with pytest.raises(ValueError, match=message):
            cache((1, 5), (2, 5), (1, 5))
        with pytest.raises(ValueError, match=message):
            cache((1, 5)).joined(cache((1, 5)))

    def test_other_sizes(self):
        with pytest.raises(
            ValueError, match=r"newer must have layers, heads, tokens, width \[3, 2"
        ):
            cache((1, 5)).joined(cache((2, 5), tokens=3))

    def test_columns(self):
        one = states(1)
        with pytest.raises(ValueError, match=r"users must be int64, got torch.float32"):
            TokenKVCache(users=torch.ones(1), until=column(1), states=one, model="v1")
        with pytest.raises(ValueError, match=r"until must have shape \[1\], got \[2\]"):
            TokenKVCache(users=column(1), until=column(1, 2), states=one, model="v1")
        with pytest.raises(ValueError, match=r"now must have shape \[1\], got \[2\]"):
            cache((1, 1)).read(column(1), column(1, 2), model="v1")
        with pytest.raises(ValueError, match=r"users must have shape \[\*\], got \[1, 1\]"):
            cache((1, 1)).without(column(1).view(1, 1))

    def test_states(self):
        def built(**parts):
            given = states(1)._replace(**parts)
            return TokenKVCache(users=column(1), until=column(1), states=given, model="v1")

        with pytest.raises(ValueError, match=r"states.keys must have shape \[\*, 1, \*, \*, \*\]"):
            built(keys=torch.zeros(3, 2, 2, 2, 4))
        for name, shape in (("values", [3, 1, 2, 2, 3]), ("mask", [1, 3]), ("length", [2])):
            with pytest.raises(ValueError, match=f"states.{name} must have shape"):
                built(**{name: torch.zeros(shape)})
        with pytest.raises(ValueError, match=r"states.mask must be bool, got torch.float32"):
            built(mask=torch.ones(1, 2))
        with pytest.raises(ValueError, match=r"states.length must be int64, got torch.float32"):
            built(length=torch.ones(1))
