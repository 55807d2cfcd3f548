import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError
from tests.strategies import ANY_IDS, COMPACT_IDS, EDGES, sid_items

SPEC = SIDSpec((8, 8, 8))


def table_of(kind, seed=0):
    rng = np.random.default_rng(seed)
    ids = {
        "dense": np.arange(3, 60, 2),
        "hashed": np.unique(rng.integers(-(2**63), 2**63 - 1, 50)),
        "empty": np.arange(0),
    }[kind]
    return SIDTable(ids, rng.integers(0, 8, (len(ids), 3)), spec=SPEC)


def queries(table):
    return torch.tensor([*table.item_ids.tolist(), *EDGES, *range(70)], dtype=torch.int64)


@pytest.fixture(params=["dense", "hashed", "empty"])
def table(request):
    return table_of(request.param)


class Host(nn.Module):
    """A model that holds a lookup and one weight."""

    def __init__(self, table):
        super().__init__()
        self.lookup = SIDLookup(table)
        self.linear = nn.Linear(3, 1)

    def forward(self, ids):
        return self.linear(self.lookup(ids).float())


class TestAgainstADictionary:
    @given(sid_items(ids=COMPACT_IDS), st.lists(ANY_IDS, max_size=10))
    def test_compact_ids(self, case, strangers):
        self.check(case, strangers)

    @given(sid_items(ids=ANY_IDS), st.lists(ANY_IDS, max_size=10))
    def test_any_ids(self, case, strangers):
        self.check(case, strangers)

    def check(self, case, strangers):
        sizes, items = case
        wanted = [*items, *strangers, *EDGES, *(i + 1 for i in items if i < 2**63 - 1)]
        table = SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes))
        found = SIDLookup(table)(torch.tensor(wanted, dtype=torch.int64))
        assert found.dtype == torch.int32
        expected = [items.get(i, (-1,) * len(sizes)) for i in wanted]
        assert [tuple(row) for row in found.tolist()] == expected

    def test_few_ids_below_zero(self):
        lookup = SIDLookup(SIDTable([-3, 5], [[1, 2, 3], [4, 5, 6]], spec=SPEC))
        assert lookup(torch.tensor([-3, 5, -1, 2]))[:, 0].tolist() == [1, 4, -1, -1]

    def test_ids_just_beyond_both_ends(self):
        lookup = SIDLookup(SIDTable([0, 1, 2], [[1, 2, 3]] * 3, spec=SPEC))
        found = lookup(torch.tensor([-(2**63), -2, -1, 0, 2, 3, 4, 2**63 - 1]))
        assert found[:, 0].tolist() == [-1, -1, -1, 1, 1, -1, -1, -1]

    def test_a_large_table(self):
        rng = np.random.default_rng(0)
        ids = rng.permutation(np.unique(rng.integers(-(2**63), 2**63 - 1, 30_000)))
        table = SIDTable(ids[::2], rng.integers(0, 8, (len(ids[::2]), 3)), spec=SPEC)
        found = SIDLookup(table)(torch.from_numpy(ids))
        assert np.array_equal(found.numpy(), table.lookup(ids))
        assert (found[::2] >= 0).all()
        assert (found[1::2] == -1).all()

    @pytest.mark.parametrize(("largest", "dense"), [(2 * 5 + 1023, True), (2 * 5 + 1024, False)])
    def test_both_sides_of_the_switch_to_hashing(self, largest, dense):
        table = SIDTable([0, 1, 2, 3, largest], [[1, 2, 3]] * 5, spec=SPEC)
        lookup = SIDLookup(table)
        assert (len(lookup.codes) == largest + 3) == dense
        ids = torch.tensor([largest - 1, largest, largest + 1, 3, 4])
        assert lookup(ids)[:, 0].tolist() == [-1, 1, -1, 1, -1]

    def test_on_the_device(self, table, device):
        found = SIDLookup(table).to(device)(queries(table).to(device))
        assert found.device.type == device.type
        assert np.array_equal(found.cpu().numpy(), table.lookup(queries(table).numpy()))


class TestInputs:
    def test_int32_ids(self, table):
        ids = torch.tensor([-1, 0, 3, 5, 2**31 - 1, -(2**31)], dtype=torch.int32)
        assert torch.equal(SIDLookup(table)(ids), table.lookup(ids))

    def test_int32_ids_that_are_hashed(self):
        ids = torch.tensor([5, 2**31 - 1, -(2**31)], dtype=torch.int32)
        table = SIDTable(ids, [[1, 2, 3], [4, 5, 6], [7, 0, 1]], spec=SPEC)
        assert SIDLookup(table)(ids)[:, 0].tolist() == [1, 4, 7]

    def test_no_ids(self, table):
        assert SIDLookup(table)(torch.zeros(0, dtype=torch.int64)).shape == (0, 3)

    def test_leaves_the_ids_alone(self, table):
        ids = queries(table)
        SIDLookup(table)(ids)
        assert torch.equal(ids, queries(table))

    def test_refuses_what_is_no_integer_vector(self, table):
        with pytest.raises(ValueError, match=r"ids must be int32 or int64, got torch.float32"):
            SIDLookup(table)(torch.zeros(3))
        with pytest.raises(ValueError, match=r"ids must have shape \[\*\], got \[2, 2\]"):
            SIDLookup(table)(torch.zeros(2, 2, dtype=torch.int64))


class TestTraces:
    # torch says so of every GraphModule that it scripts
    @pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")
    def test_fx_and_torchscript(self, table):
        lookup, ids = SIDLookup(table), queries(table)
        traced = torch.fx.symbolic_trace(lookup)
        scripted = torch.jit.script(traced)
        direct = torch.jit.script(lookup)
        file = io.BytesIO()
        torch.jit.save(direct, file)
        file.seek(0)
        for module in (traced, scripted, direct, torch.jit.load(file)):
            assert torch.equal(module(ids), table.lookup(ids))
            assert torch.equal(module(ids[:3]), table.lookup(ids[:3]))

    def test_compile(self, table):
        ids = queries(table)
        compiled = torch.compile(SIDLookup(table), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(ids), table.lookup(ids))
        assert torch.equal(compiled(ids[:3]), table.lookup(ids[:3]))

    def test_export_with_any_number_of_ids(self, table):
        ids = queries(table)
        dynamic = ({0: torch.export.Dim("n")},)
        exported = torch.export.export(SIDLookup(table), (ids[:7],), dynamic_shapes=dynamic)
        file = io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        for program in (exported, torch.export.load(file)):
            assert torch.equal(program.module()(ids), table.lookup(ids))

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, table, copied):
        twin = copied(SIDLookup(table))
        assert torch.equal(twin(queries(table)), table.lookup(queries(table)))
        assert (twin.content_hash, twin.version, twin.spec) == (table.content_hash, 1, SPEC)


class TestBuffersStayReal:
    """A meta buffer comes back as zeros, and zero is a valid code."""

    @pytest.mark.parametrize(
        "treated",
        [
            lambda host: host.to("meta"),
            lambda host: host.to("meta").to_empty(device="cpu"),
            lambda host: host.to_empty(device="cpu"),
            lambda host: host.to(torch.bfloat16),
            lambda host: host.half().double(),
            lambda host: host.type(torch.float16),
            lambda host: host.share_memory(),
        ],
        ids=["to meta", "meta and back", "to_empty", "bfloat16", "half, double", "type", "shared"],
    )
    def test_after_a_change_of_the_module(self, table, treated):
        lookup = treated(Host(table)).lookup
        assert not any(buffer.is_meta for buffer in lookup.buffers())
        assert torch.equal(lookup(queries(table)), table.lookup(queries(table)))

    def test_when_built_on_meta(self, table):
        with torch.device("meta"):
            host = Host(table)
        assert host.linear.weight.is_meta
        assert not any(buffer.is_meta for buffer in host.buffers())
        lookup = host.to_empty(device="cpu").lookup
        assert torch.equal(lookup(queries(table)), table.lookup(queries(table)))

    def test_move_to_a_device_with_the_model(self, table, device):
        lookup = Host(table).to(device).lookup
        assert {buffer.device.type for buffer in lookup.buffers()} == {device.type}

    def test_share_memory_shares_them(self, table):
        lookup = Host(table).share_memory().lookup
        assert all(buffer.is_shared() for buffer in lookup.buffers())


class TestCheckpoints:
    def test_hold_the_hash_and_no_codes(self, table):
        state = SIDLookup(table).state_dict()
        assert dict(state) == {"_extra_state": f"{table.content_hash}:{table.version}"}

    def test_of_the_same_table_load(self, table):
        host, other = Host(table), Host(table)
        other.load_state_dict(host.state_dict())
        assert torch.equal(other.linear.weight, host.linear.weight)

    def test_survive_a_file_without_unpickling(self, table):
        file = io.BytesIO()
        torch.save(Host(table).state_dict(), file)
        file.seek(0)
        Host(table).load_state_dict(torch.load(file, weights_only=True))

    def test_of_an_ancestor_load_and_of_a_descendant_do_not(self):
        first = table_of("hashed")
        third = first.append([1], [[0, 0, 0]]).append([2], [[1, 0, 0]])
        later = Host(third)
        later.load_state_dict(Host(first).state_dict())
        assert later.lookup.content_hash == third.content_hash
        with pytest.raises(
            SIDVersionError,
            match=rf"must hold the SID table {first.content_hash} \(version 1\) or one it grew "
            rf"from, got {third.content_hash} \(version 3\)",
        ):
            Host(first).load_state_dict(later.state_dict())

    def test_of_another_table_do_not(self):
        ours, foreign = table_of("dense"), table_of("dense", seed=1)
        with pytest.raises(SIDVersionError, match=f"{ours.content_hash}.*{foreign.content_hash}"):
            Host(ours).load_state_dict(Host(foreign).state_dict())

    @pytest.mark.parametrize("state", [None, {}, "", "x", ":1", 7, b"x", torch.zeros(3)])
    def test_with_a_broken_state_do_not(self, table, state):
        with pytest.raises(SIDVersionError, match="checkpoint must hold the SID table"):
            SIDLookup(table).set_extra_state(state)
