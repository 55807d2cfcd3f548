"""Global, transition and local branches against loops; cost; what a query must not see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.time_chunks import EqualChunker, TimeChunker
from tests.sequences import reference_sparse as reference

HOUR = 3600
NOW = 10**6
behaviour = st.tuples(st.booleans(), st.integers(0, 30))
histories = st.lists(behaviour, max_size=9)
sizes = st.tuples(st.integers(1, 10), st.integers(1, 4), st.integers(1, 11))  # P, m, w


def attention(*, dim=6, heads=2, num_chunks=3, window=4, last=2, bias=True):
    module = EvolutionarySparseAttention(
        dim=dim,
        num_heads=heads,
        chunker=TimeChunker(num_chunks=num_chunks),
        window=window,
        last=last,
        bias=RelTemporalBias(num_heads=heads) if bias else None,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return module


def one_branch(branch, dim, **options):
    """Says which places a branch reads: uniform shares of one-hot behaviours, one head."""
    module = attention(dim=dim, heads=1, bias=False, **options)
    with torch.no_grad():
        for linear in (module.query, module.key, module.gate):
            linear.weight.zero_()
        for linear in (module.value, module.out):
            linear.weight.copy_(torch.eye(dim))
        for place in range(3):  # every token has a one in its first lane
            module.gate.weight[place, 0] = 50.0 if place == branch else -200.0
    return module


def one_hot(length, candidates):
    eye = torch.eye(length + candidates)
    eye = torch.cat([torch.ones(length + candidates, 1), eye], dim=1).unsqueeze(0)
    return eye[:, :length], eye[:, length:]


def batch(rows=3, length=9, candidates=2, dim=6):
    """Unsorted behaviours of which some are padding and some are later than the request."""
    mask = torch.rand(rows, length) < 0.8
    times = HOUR * torch.randint(0, 200, (rows, length))
    now = torch.full((rows,), 150 * HOUR)
    vectors = torch.randn(rows, length, dim), torch.randn(rows, candidates, dim)
    return [*vectors, mask, times, now, torch.randn(rows, dim)]


def equal(one, other, **tolerance):
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, **tolerance)


class TestEqualsTheDefinition:
    @pytest.mark.parametrize("branch", ["GLOBAL", "TRANSITION", "LOCAL"])
    @given(histories, sizes)
    def test_each_branch_reads_its_places(self, branch, behaviours, sizes):
        real = [here for here, _ in behaviours]
        times = [time for _, time in behaviours]
        num_chunks, last, window = sizes
        branch = getattr(reference, branch)
        history, candidates = one_hot(len(real), 2)
        module = one_branch(
            branch, history.shape[2], num_chunks=num_chunks, last=last, window=window
        )
        found, asked = module(
            history,
            candidates,
            torch.tensor([real], dtype=torch.bool),
            torch.tensor([times]).long(),
            torch.tensor([NOW]),
        )
        order = reference.in_time_order(real, times)
        chunks = reference.time_chunks([times[i] for i in order], num_chunks)
        queries = [found[0, i] for i in order] + list(asked[0])
        names = [[*order, len(real) + c] for c in range(2)]  # a candidate follows the last
        for place, answer in enumerate(queries):
            after = names[max(0, place - len(order))]
            seen = reference.visible(min(place, len(order)), chunks, last, window)[branch]
            groups = seen if branch == reference.GLOBAL else [[place] for place in seen]
            expected = torch.zeros(history.shape[2] - 1)
            for group in groups:
                for i in group:
                    expected[after[i]] += 1 / (len(groups) * len(group))
            torch.testing.assert_close(answer[1:], expected)

    @given(histories.filter(len), sizes, st.booleans())
    def test_values(self, behaviours, sizes, with_user):
        real = [here for here, _ in behaviours]
        times = [5 * HOUR * time for _, time in behaviours]
        num_chunks, last, window = sizes
        module = attention(num_chunks=num_chunks, last=last, window=window).double()
        stream = torch.randn(1, len(real), 6).double()
        candidates, user = torch.randn(1, 2, 6).double(), torch.randn(1, 6).double()
        now = 5 * HOUR * 31 + 7
        found, asked = module(
            stream,
            candidates,
            torch.tensor([real]),
            torch.tensor([times]),
            torch.tensor([now]),
            user if with_user else None,
        )
        order = reference.in_time_order(real, times)
        when = [times[i] for i in order]
        slopes = functional.softplus(module.bias.recency).tolist()
        b, c = module.bias.hour.tolist(), module.bias.weekend.tolist()
        names = ("query", "key", "value", "gate", "out")
        options = {
            "weights": {name: getattr(module, name).weight.tolist() for name in names},
            "last": last,
            "window": window,
            "heads": 2,
            "user": user[0].tolist() if with_user else None,
            "moments": lambda h, t, s: reference.bias(t, s, slopes[h], b[h], c[h]),
        }
        chunks = reference.time_chunks(when, num_chunks)
        past = [stream[0, i].tolist() for i in order]
        expected = torch.zeros(len(real), 6).double()
        for place, i in enumerate(order):
            answer = reference.sparse_attention(place, past, when, chunks, **options)
            expected[i] = torch.tensor(answer)
        torch.testing.assert_close(found[0], expected)
        for answer, candidate in zip(asked[0], candidates[0], strict=True):
            whole = [*past, candidate.tolist()], [*when, now]
            answers = reference.sparse_attention(len(order), *whole, chunks, **options)
            torch.testing.assert_close(answer, torch.tensor(answers).double())

    def test_long_windows_in_many_blocks(self):
        """Windows that cross the borders of blocks equal one dense attention."""
        for length, window in ((200, 40), (97, 7), (64, 32), (130, 129)):
            module = attention(window=window, bias=False)
            module.gate.weight.data[:4] = -200.0  # the other two branches are shut
            module.gate.weight.data[:, 1:] = 0.0
            x = torch.randn(1, length, 6)
            x[..., 0] = 1.0
            mask, times = torch.ones(1, length).bool(), torch.arange(length).unsqueeze(0)
            found, _ = module(x, x[:, :1], mask, times, torch.tensor([NOW]))
            ago = torch.arange(length).unsqueeze(1) - torch.arange(length)
            heads = dense(module, x, (ago >= 0) & (ago < window))
            gates = torch.sigmoid(module.gate(x))[..., 4:].transpose(1, 2).unsqueeze(3)
            torch.testing.assert_close(found, merged(module, gates * heads))


def split(x):
    return x.unflatten(2, (2, 3)).transpose(1, 2)


def merged(module, context):
    return module.out(context.transpose(1, 2).flatten(2))


def dense(module, x, visible):
    query, key, value = (split(linear(x)) for linear in (module.query, module.key, module.value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def test_finest_chunks_and_widest_window_are_dense_attention():
    """With a chunk for each behaviour all three branches read what dense attention reads."""
    length = 12
    module = attention(num_chunks=length, last=1, window=length, bias=False)
    x, mask = torch.randn(2, length, 6), torch.ones(2, length).bool()
    found, _ = module(x, x[:, :1], mask, torch.arange(length).expand(2, -1), torch.full((2,), NOW))
    upto = torch.ones(length, length).bool().tril()
    before = upto.tril(-1)
    before[0, 0] = True  # the first sees nothing before it; its answer is put to zero below
    strict = dense(module, x, before)
    strict[:, :, 0] = 0.0
    gates = torch.sigmoid(module.gate(x)).unflatten(2, (3, 2)).permute(2, 0, 3, 1).unsqueeze(4)
    context = (gates[0] + gates[1]) * strict + gates[2] * dense(module, x, upto)
    torch.testing.assert_close(found, merged(module, context))


def test_first_chunk_has_its_window_alone():
    module, other = attention(num_chunks=2), attention(num_chunks=2)
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        other.gate.weight[:4] += 1.0  # global and transition
    times = torch.tensor([[0, 1, 2, 3, 100, 101, 102]])
    given = (torch.randn(1, 7, 6), torch.randn(1, 1, 6), torch.ones(1, 7).bool(), times)
    one, another = (each(*given, torch.tensor([NOW]))[0] for each in (module, other))
    assert torch.equal(one[:, :4], another[:, :4])
    assert (one[:, 4:] != another[:, 4:]).all()


def test_candidate_is_the_next_behaviour():
    """One more behaviour at the time of the request, after the largest gap of all."""
    x, times = torch.randn(2, 10, 6), HOUR * torch.randint(0, 300, (2, 10)).sort().values
    now, user, mask = torch.full((2,), NOW * HOUR), torch.randn(2, 6), torch.ones(2, 10).bool()
    module, longer = attention(num_chunks=4), attention(num_chunks=5)
    longer.load_state_dict(module.state_dict())
    candidates = torch.randn(2, 3, 6)
    _, asked = module(x, candidates, mask, times, now, user)
    for c in range(3):
        whole = torch.cat([x, candidates[:, c : c + 1]], dim=1)
        at = torch.cat([times, now.unsqueeze(1)], dim=1)
        every = torch.ones(2, 11).bool()
        states, _ = longer(whole, candidates, every, at, now + 1, user)
        torch.testing.assert_close(asked[:, c], states[:, -1])


class TestBlindness:
    def test_candidates_one_by_one(self):
        module, given = attention(), batch(candidates=5)
        together = module(*given)[1]
        for c in range(5):
            one = [given[0], given[1][:, c : c + 1], *given[2:]]
            torch.testing.assert_close(module(*one)[1], together[:, c : c + 1])
        torch.testing.assert_close(module.of_candidates(*given), together)

    def test_no_behaviour_reads_a_later_one(self):
        """Contents of what came later, the order of time being as it is."""
        module, (x, *rest) = attention(num_chunks=4), batch(rows=1, length=20)
        x.requires_grad_()
        states, times, mask = module(x, *rest)[0], rest[2][0], rest[1][0] & (rest[2][0] < rest[3])
        for i in mask.nonzero().flatten().tolist():
            (slope,) = torch.autograd.grad(states[0, i].sum(), x, retain_graph=True)
            assert not slope[0, times > times[i]].any()
            assert slope[0, i].any()

    def test_later_than_the_request(self):
        module, given = attention(), batch()
        known = given[2] & (given[3] < given[4].unsqueeze(1))
        assert (given[2] & ~known).any()
        states, asked = module(*given)
        assert not states[~known].any()
        equal(module(given[0], given[1], known, *given[3:]), (states, asked), rtol=0.0, atol=0.0)

    @pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e30])
    def test_padding_may_hold_anything(self, junk):
        module, given = attention(), batch()
        answers = module(*given)
        for time in (torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 77):
            spoilt = [*given]
            spoilt[0] = given[0].masked_fill(~given[2].unsqueeze(2), junk)
            spoilt[3] = given[3].masked_fill(~given[2], time)
            equal(module(*spoilt), answers, rtol=0.0, atol=0.0)
        spoilt[0].requires_grad_()
        sum(answer.sum() for answer in module(*spoilt)).backward()
        assert spoilt[0].grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())

    def test_padding_anywhere(self):
        module, (x, candidates, mask, times, now, user) = attention(), batch(length=12)
        places = torch.tensor([1, 2, 5, 6, 7, 10, 14, 15, 16, 20, 21, 24])
        wide = torch.randn(3, 70, 6).index_copy(1, places, x)
        real = torch.zeros(3, 70).bool().index_copy(1, places, mask)
        when = torch.randint(0, 99, (3, 70)).index_copy(1, places, times)
        states, asked = module(wide, candidates, real, when, now, user)
        equal((states[:, places], asked), module(x, candidates, mask, times, now, user))

    def test_order_of_columns(self):
        module, (x, candidates, mask, _, now, user) = attention(), batch()
        times = HOUR * torch.stack([torch.randperm(180)[:9] for _ in range(3)])
        states, asked = module(x, candidates, mask, times, now, user)
        order = torch.randperm(9)
        turned = module(x[:, order], candidates, mask[:, order], times[:, order], now, user)
        equal(turned, (states[:, order], asked))

    def test_rows(self):
        module, given = attention(), batch(rows=4)
        together = module(*given)
        for row in range(4):
            one = module(*(argument[row : row + 1] for argument in given))
            equal(one, [answer[row : row + 1] for answer in together])


class TestEdges:
    @pytest.mark.parametrize(
        ("rows", "length", "candidates"), [(0, 5, 2), (2, 0, 2), (2, 5, 0), (0, 0, 0), (1, 1, 1)]
    )
    def test_nothing(self, rows, length, candidates):
        states, asked = attention()(*batch(rows, length, candidates))
        assert states.shape == (rows, length, 6)
        assert asked.shape == (rows, candidates, 6)
        assert states.isfinite().all()
        assert asked.isfinite().all()

    def test_without_a_history_a_candidate_reads_itself_and_the_user(self):
        module, (x, candidates, mask, times, now, _) = attention(), batch()
        _, asked = module(x, candidates, torch.zeros_like(mask), times, now)
        gates = torch.sigmoid(module.gate(candidates))[..., 4:].transpose(1, 2).unsqueeze(3)
        torch.testing.assert_close(asked, merged(module, gates * split(module.value(candidates))))
        empty = module(x[:, :0], candidates, mask[:, :0], times[:, :0], now)[1]
        torch.testing.assert_close(asked, empty)

    def test_window_of_one_and_beyond_the_history(self):
        given = batch()
        wide, wider = attention(window=9), attention(window=5000)
        wider.load_state_dict(wide.state_dict())
        equal(wider(*given), wide(*given))
        assert attention(window=1)(*given)[1].isfinite().all()

    def test_equal_times(self):
        given = batch()
        given[3] = torch.zeros_like(given[3])
        assert all(answer.isfinite().all() for answer in attention(num_chunks=4)(*given))


def slope(sizes, costs):
    x, y = torch.tensor(sizes).double().log(), torch.tensor(costs).double().log()
    return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        for tensor in answer if isinstance(answer, tuple | list) else [answer]:
            if torch.is_tensor(tensor):
                self.size = max(self.size, tensor.numel())
        return answer


def test_cost_grows_with_the_length_alone():
    """Floating-point operations and the largest tensor, forward and backward."""
    lengths, flops, largest = [256, 512, 1024, 2048, 4096, 8192], [], []
    module = attention(dim=8, num_chunks=16, window=32, last=2)
    for length in lengths:
        x, mask = torch.randn(1, length, 8, requires_grad=True), torch.ones(1, length).bool()
        times = torch.randint(0, NOW, (1, length))
        with FlopCounterMode(display=False) as counter, _Largest() as memory:
            states, asked = module(x, x[:, :4], mask, times, torch.tensor([NOW]))
            (states.sum() + asked.sum()).backward()
        flops.append(counter.get_total_flops())
        largest.append(memory.size)
    assert 0.9 < slope(lengths, flops) < 1.1
    assert 0.9 < slope(lengths, largest) < 1.1


def test_control_differs_in_its_chunks_alone():
    given, ours = batch(), attention()
    other = EvolutionarySparseAttention(
        dim=6, num_heads=2, chunker=EqualChunker(num_chunks=3), window=4, last=2, bias=ours.bias
    )
    other.load_state_dict(ours.state_dict())
    assert not torch.allclose(other(*given)[1], ours(*given)[1])
    one = given[2][:, :1]
    given[0], given[2], given[3] = given[0][:, :1], one, given[3][:, :1]  # one chunk in both
    equal(other(*given), ours(*given))


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "num_heads", "window", "last"])
    def test_sizes(self, name):
        given = {"dim": 4, "chunker": TimeChunker(num_chunks=2), "window": 3, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            EvolutionarySparseAttention(**given)

    def test_heads(self):
        given = {"chunker": TimeChunker(num_chunks=2), "window": 3}
        with pytest.raises(ValueError, match="dim must be a multiple of num_heads 3, got 4"):
            EvolutionarySparseAttention(dim=4, num_heads=3, **given)
        with pytest.raises(ValueError, match="bias must have 1 heads, got 2"):
            EvolutionarySparseAttention(dim=4, bias=RelTemporalBias(num_heads=2), **given)

    @pytest.mark.parametrize(
        ("place", "name"), [(0, "behaviours"), (1, "candidates"), (3, "times"), (4, "now")]
    )
    def test_shapes(self, place, name):
        given = batch()
        given[place] = given[place][:1]
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3.*got \[1"):
            attention()(*given)

    def test_user(self):
        given = batch()
        with pytest.raises(ValueError, match=r"user must have shape \[3, 6\], got \[3, 5\]"):
            attention()(*given[:5], given[5][:, :5])

    def test_mask(self):
        given = batch()
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.int64"):
            attention()(given[0], given[1], given[2].long(), *given[3:])
