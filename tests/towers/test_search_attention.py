"""Search with dense vectors, attention with embeddings that learn."""

import pytest
import torch

from sidrank.towers import ESUTargetAttention, GSUSearch, SearchAttention
from tests.layers import reference_layers
from tests.sequences import reference_sequences as reference


def history(rows=3, length=20, width=6):
    times = torch.randint(0, 8, (rows, length))
    mask = torch.rand(rows, length) < 0.8
    return torch.randn(rows, length, width), mask, times, torch.full((rows,), 7)


def tower(k=5, behaviour_dim=8, dim=6, heads=2):
    attention = ESUTargetAttention(behaviour_dim=behaviour_dim, dim=dim, num_heads=heads)
    return SearchAttention(search=GSUSearch(k=k), attention=attention)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_top_k_equals_brute_force(k):
    vectors, mask, times, now = history()
    target = torch.randn(3, 4, 6)
    index, real = GSUSearch(k=k)(target, vectors, mask, times, now)
    for row in range(3):
        known = (mask[row] & (times[row] < 7)).tolist()
        for c in range(4):
            scores = [
                sum(a * b for a, b in zip(target[row, c].tolist(), vector, strict=True))
                for vector in vectors[row].tolist()
            ]
            expected = reference.best_by_time(scores, known, times[row].tolist(), k)
            assert index[row, c][real[row, c]].tolist() == expected


def test_same_item_again_and_again_finds_the_newest():
    vectors, target = torch.randn(6).repeat(1, 300, 1), torch.randn(1, 5, 6)
    times, mask = torch.arange(300).unsqueeze(0), torch.ones(1, 300).bool()
    index, _ = GSUSearch(k=3)(target, vectors, mask, times, torch.tensor([299]))
    assert (index == torch.tensor([296, 297, 298])).all()


def test_autocast_finds_the_same():
    vectors, mask, times, now = history(length=300)
    target = torch.randn(3, 4, 6)
    index, _ = GSUSearch(k=20)(target, vectors, mask, times, now)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(GSUSearch(k=20)(target, vectors, mask, times, now)[0], index)


def test_attention_reads_exactly_what_was_found():
    module = tower()
    vectors, mask, times, now = history()
    mask[0, 3:], mask[1] = False, False  # one finds fewer than k, one nothing
    target, dense = torch.randn(3, 4, 8), torch.randn(3, 4, 6)
    embeddings = torch.randn(3, 20, 8)
    answers = module(target, embeddings, dense, vectors, mask, times, now)
    index, real = module.search(dense, vectors, mask, times, now)
    layers = reference_layers.attention_layers(module.attention.attention)
    for row in range(3):
        for c in range(4):
            keys = embeddings[row, index[row, c][real[row, c]]].tolist()
            expected = reference_layers.attention(target[row, c].tolist(), keys, layers, 2)
            torch.testing.assert_close(answers[row, c].tolist(), expected, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_ids_and_codes_and_not_the_dense_vectors():
    tables = {name: torch.nn.Embedding(30, 2) for name in ("id", "sid_1", "sid_2", "sid_3")}
    dense = torch.nn.Embedding(30, 6)
    _, mask, times, now = history()
    items, candidates = torch.randint(0, 15, (3, 20)), torch.randint(15, 30, (3, 4))

    def embedded(ids):
        return torch.cat([table(ids) for table in tables.values()], dim=2)

    answers = tower()(
        embedded(candidates), embedded(items), dense(candidates), dense(items), mask, times, now
    )
    answers.square().sum().backward()
    assert dense.weight.grad is None
    for table in tables.values():
        assert table.weight.grad[:15].any()  # behaviours
        assert table.weight.grad[15:].any(dim=1)[candidates.unique() - 15].all()


def accuracy_on_new_items(code, taste, dense):
    """Users love some tastes and did only what they love; the candidates' ids are new."""
    users, tastes, length = 900, 6, 20
    behaviours = torch.randint(0, 200, (users, length))
    loved = torch.rand(users, tastes) < 0.5
    did = loved.gather(1, taste[behaviours])
    test = torch.arange(600, users)
    target = torch.randint(0, 200, (users, 1))
    target[test] += 200
    label = loved.gather(1, taste[target]).float().flatten()
    now, times = torch.full((users,), length), torch.arange(length).expand(users, length)
    index, real = GSUSearch(k=3)(dense[target], dense[behaviours], did, times, now)
    seen = behaviours.gather(1, index.squeeze(1))
    ids, sids = torch.nn.Embedding(400, 4), torch.nn.Embedding(tastes, 8)
    attend = ESUTargetAttention(behaviour_dim=12, dim=12)
    head = torch.nn.Sequential(
        torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 1), torch.nn.Flatten(0)
    )
    parts = torch.nn.ModuleList([ids, sids, attend, head])
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.02, weight_decay=1e-3)

    def logits(rows):
        wanted = torch.cat([ids(target[rows]), sids(code[target[rows]])], dim=2)
        found = torch.cat([ids(seen[rows]), sids(code[seen[rows]])], dim=2).unsqueeze(1)
        answer = attend(wanted, found, real[rows])
        return head(torch.cat([answer, wanted], dim=2).squeeze(1))

    for _ in range(100):
        rows = torch.randint(0, 600, (256,))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(rows), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return ((logits(test) > 0) == (label[test] > 0)).float().mean().item()


def test_semantic_ids_find_interest_in_a_new_item():
    """The search alone says little: it always finds three. Shuffled codes do not help either."""
    taste = torch.randint(0, 6, (400,))
    dense = torch.nn.functional.one_hot(taste, 6) + 0.3 * torch.randn(400, 6)
    with_sids = accuracy_on_new_items(taste, taste, dense)
    without = accuracy_on_new_items(torch.zeros_like(taste), taste, dense)
    shuffled = accuracy_on_new_items(taste[torch.randperm(400)], taste, dense)
    assert with_sids > 0.9
    assert without < 0.7
    assert shuffled < 0.7


class TestErrors:
    def test_k(self):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            GSUSearch(k=0)

    def test_search_shapes(self):
        vectors, mask, times, now = history()
        with pytest.raises(
            ValueError, match=r"target must have shape \[\*, \*, \*\], got \[3, 6\]"
        ):
            GSUSearch(k=1)(torch.zeros(3, 6), vectors, mask, times, now)
        with pytest.raises(ValueError, match=r"history must have shape \[3, \*, 5\]"):
            GSUSearch(k=1)(torch.zeros(3, 1, 5), vectors, mask, times, now)
        with pytest.raises(ValueError, match=r"mask must have shape \[3, 20\], got \[3, 9\]"):
            GSUSearch(k=1)(torch.zeros(3, 1, 6), vectors, mask[:, :9], times[:, :9], now)

    def test_attention_shapes(self):
        attend, target = ESUTargetAttention(behaviour_dim=8, dim=4), torch.zeros(2, 3, 8)
        found, mask = torch.zeros(2, 3, 5, 8), torch.ones(2, 3, 5).bool()
        with pytest.raises(ValueError, match=r"target must have shape \[\*, \*, 8\]"):
            attend(target[..., :4], found, mask)
        with pytest.raises(ValueError, match=r"behaviours must have shape \[2, 3, \*, 8\]"):
            attend(target, found[:, :1], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 3, 5\]"):
            attend(target, found, mask[:, :1])

    def test_vectors_of_other_items(self):
        vectors, mask, times, now = history()
        parts = torch.zeros(3, 4, 8), torch.zeros(3, 20, 8)
        with pytest.raises(ValueError, match=r"target_vectors must have shape \[3, 4, \*\]"):
            tower()(*parts, torch.zeros(3, 5, 6), vectors, mask, times, now)
        with pytest.raises(ValueError, match=r"history_vectors must have shape \[3, 20, \*\]"):
            tower()(*parts, torch.zeros(3, 4, 6), vectors[:, :9], mask, times, now)
