import copy

import numpy as np
import pytest
import torch
from torch import nn

from sidrank.layers import CrossAttention
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.instance_rows import InstanceSpec
from sidrank.sequences.instance_sequence import InstanceSequence
from sidrank.sequences.instance_store import InMemoryInstanceStore
from tests.sequences import reference_instances as reference
from tests.sequences.instance_stores import log_of

D, WIDTH, QUERY, TOKEN = 4, 8, 5, 6


class DIN(nn.Module):
    """Weights of a small network, not normalised, as in Zhou et al., 2018."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(2 * D, WIDTH)
        self.weight = nn.Sequential(nn.Linear(3 * WIDTH, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, queries, keys, mask):
        keys = self.value(keys).unsqueeze(1)
        queries = queries.unsqueeze(2).expand(-1, -1, keys.shape[2], -1)
        keys = keys.expand_as(queries)
        weights = self.weight(torch.cat([queries, keys, queries * keys], dim=3))
        return (weights * keys * mask[:, None, :, None]).sum(dim=2)


class Transformer(nn.Module):
    """The instances read each other, then each candidate reads them."""

    def __init__(self):
        super().__init__()
        attention = SelfAttention(dim=2 * D, num_heads=2)
        self.block = DecoderBlock(attention=attention, hidden=16)
        self.read = attention_to()

    def forward(self, queries, keys, mask):
        return self.read(queries, self.block(keys, mask), mask)


def attention_to():
    return CrossAttention(dim=WIDTH, query_dim=WIDTH, key_dim=2 * D, num_heads=2)


MODELS = [attention_to, DIN, Transformer]


def reader(sequence=attention_to, alive=True):
    sizes = {"query_dim": QUERY, "token_dim": TOKEN, "dim": D, "width": WIDTH}
    module = InstanceSequence(sequence=sequence(), side_sizes=[2, 3], **sizes)
    if alive:
        nn.init.normal_(module.out.weight)
    return module


def given(rows=3, length=6):
    mask = torch.rand(rows, length) < 0.7
    mask[:, 0] = True
    sides = torch.stack(
        [torch.randint(-1, 2, (rows, length)), torch.randint(-1, 3, (rows, length))], dim=2
    )
    return torch.randn(rows, 2, QUERY), torch.rand(rows, length, D), sides, mask


class TestInstances:
    def test_equal_a_loop(self):
        module, (_, vectors, sides, mask) = reader(), given()
        found = module.instances(vectors, sides, mask)
        weight, tables = module.vector.weight.tolist(), [t.weight.tolist() for t in module.sides]
        for row in range(3):
            for place in range(6):
                expected = torch.zeros(2 * D)
                if mask[row, place]:
                    inputs = (vectors[row, place].tolist(), sides[row, place].tolist())
                    expected = torch.tensor(reference.instance_token(*inputs, weight, tables))
                torch.testing.assert_close(found[row, place], expected)

    def test_stored_vectors_get_no_gradient(self):
        module, (query, vectors, sides, mask) = reader(), given()
        query.requires_grad_()
        vectors.requires_grad_()
        answer = module(query, vectors, sides, mask)
        answer.sum().backward()
        assert vectors.grad is None
        assert query.grad.any()
        assert module.vector.weight.grad.any()  # what reads them does learn
        other = module(query, vectors + 0.5, sides, mask)
        assert not torch.equal(answer, other)

    def test_not_known_is_a_value_of_its_own(self):
        module, (_, vectors, sides, mask) = reader(), given()
        tokens = [
            module.instances(vectors, torch.full_like(sides, value), mask)[0, 0]
            for value in (-1, 0, 1)
        ]
        assert not torch.equal(tokens[0], tokens[1])
        assert not torch.equal(tokens[1], tokens[2])

    def test_no_sides_at_all(self):
        sizes = {"query_dim": QUERY, "token_dim": TOKEN, "dim": D, "width": WIDTH}
        module = InstanceSequence(sequence=attention_to(), side_sizes=[], **sizes)
        query, vectors, sides, mask = given()
        assert module(query, vectors, sides[:, :, :0], mask).shape == (3, 2, TOKEN)


@pytest.mark.parametrize("sequence", MODELS, ids=["attention", "DIN", "transformer"])
class TestAnySequenceModel:
    def test_is_a_no_op_at_birth_and_alive(self, sequence):
        """A trained host adds the token to one of its own: its logits keep every bit."""
        host = nn.Sequential(nn.Linear(TOKEN, 16), nn.ReLU(), nn.Linear(16, 1))
        own, module = torch.randn(3, 2, TOKEN), reader(sequence, alive=False)
        before = host(own)
        assert torch.equal(host(own + module(*given())), before)
        born = copy.deepcopy(module.state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        torch.manual_seed(1)
        for _ in range(3):
            optimizer.zero_grad()
            (host(own + module(*given())) - torch.randn(3, 2, 1)).square().sum().backward()
            optimizer.step()
        assert not torch.equal(host(own + module(*given())), before)
        still = [name for name, x in module.state_dict().items() if torch.equal(x, born[name])]
        assert still == []

    def test_candidates_and_padding_change_nothing(self, sequence):
        module, (query, vectors, sides, mask) = reader(sequence), given()
        together = module(query, vectors, sides, mask)
        for c in range(2):
            alone = module(query[:, c : c + 1], vectors, sides, mask)
            torch.testing.assert_close(alone, together[:, c : c + 1])
        vectors[~mask] = float("nan")
        sides[~mask] = 100
        assert torch.equal(module(query, vectors, sides, mask), together)

    def test_user_without_a_past(self, sequence):
        module, (query, vectors, sides, mask) = reader(sequence), given()
        nothing = module(query, vectors, sides, torch.zeros_like(mask))
        assert nothing.isfinite().all()
        shorter = module(query, vectors[:, :0], sides[:, :0], mask[:, :0])
        torch.testing.assert_close(nothing, shorter)


def test_what_comes_after_the_request_never_reaches_the_token():
    """From store to token: later impressions, and labels known later, may be anything."""
    spec, now = InstanceSpec(model_version="7", dim=D, num_sides=2), 160
    log = log_of(users=3, each=40, spec=spec)
    log["sides"] %= 2
    other = {name: np.copy(x) if name != "model_version" else x for name, x in log.items()}
    later, unknown = log["event_times"] >= now, log["label_times"] >= now
    other["vectors"][later] = 0.123
    other["sides"][unknown] = 1 - other["sides"][unknown]
    assert (unknown & ~later[:, None]).any()
    known = {**other, "sides": np.where(unknown, other["sides"], 1 - other["sides"])}
    module, query, answers = reader(), torch.randn(3, 2, QUERY), []
    for each in (log, other, known):
        store = InMemoryInstanceStore(spec)
        store.put(**each)
        past = store.as_of(range(3), [now] * 3, 30, model_version="7")
        answers.append(module(query, past.vectors, past.sides, past.mask))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


class TestErrors:
    @pytest.mark.parametrize("name", ["query_dim", "token_dim", "dim", "width"])
    def test_sizes(self, name):
        sizes = {"query_dim": 4, "token_dim": 4, "dim": 4, "width": 4, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            InstanceSequence(sequence=nn.Identity(), side_sizes=[2], **sizes)

    def test_sides(self):
        sizes = {"query_dim": 4, "token_dim": 4}
        with pytest.raises(ValueError, match=r"side_sizes\[1\] must be at least 1, got 0"):
            InstanceSequence(sequence=nn.Identity(), side_sizes=[2, 0], **sizes)
        with pytest.raises(TypeError, match="side_sizes must be a sequence of numbers, got 2"):
            InstanceSequence(sequence=nn.Identity(), side_sizes=2, **sizes)

    def test_shapes(self):
        module, (query, vectors, sides, mask) = reader(), given()
        with pytest.raises(
            ValueError, match=r"query must have shape \[3, \*, 5\], got \[2, 2, 5\]"
        ):
            module(query[1:], vectors, sides, mask)
        with pytest.raises(ValueError, match=r"vectors must have shape \[\*, \*, 4\]"):
            module(query, vectors[:, :, 1:], sides, mask)
        with pytest.raises(ValueError, match=r"sides must have shape \[3, 6, 2\], got \[3, 6, 1\]"):
            module(query, vectors, sides[:, :, 1:], mask)
        with pytest.raises(ValueError, match=r"sides must be int32 or int64, got torch.float32"):
            module(query, vectors, sides.float(), mask)
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.int64"):
            module(query, vectors, sides, mask.long())

    def test_answer_of_the_sequence_model(self):
        class Wrong(nn.Module):
            def forward(self, queries, keys, mask):
                return queries[:, 0]

        with pytest.raises(ValueError, match=r"the answer of sequence must have shape \[3, 2, 8\]"):
            reader(Wrong)(*given())
