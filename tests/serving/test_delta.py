"""What changed between two versions: all of it, nothing else, and onto the right one alone."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import CodeFeatureSource
from sidrank.embeddings.unit_bags import UnitVersion
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError
from sidrank.serving.delta import ChangedRows, apply_delta, delta_between
from sidrank.serving.ranker_version import RankerVersion, content_of, sid_parts
from tests.embeddings import hosts
from tests.serving import version_models as models
from tests.serving.test_candidate_scorer import Recorder


def answers(ranker, seed=0):
    with torch.no_grad():
        return ranker.rank(models.hybrid_requests(seed=seed))


class TestHybrid:
    def test_every_version_answers_as_the_model_did(self):
        """Dense layers, hash rows, SID rows, gates and new items, over several versions."""
        model = models.hybrid()
        versions, wanted = [RankerVersion.first(model)], [answers(model.eval())]
        for step in range(4):
            model.train()
            models.train(model, steps=1, start=10 + step)
            if step == 1:
                models.grow(model)
            versions.append(apply_delta(versions[-1], delta_between(versions[-1], model)))
            wanted.append(answers(model.eval()))
        assert [version.number for version in versions] == [1, 2, 3, 4, 5]
        for version, logits in zip(versions, wanted, strict=True):
            assert torch.equal(answers(version), logits)
        for one, other in zip(wanted[1:], wanted[:-1], strict=True):
            assert (one - other).abs().max() > 1e-4

    def test_two_processes_agree_on_the_hash(self):
        """What the trainer holds and what the server holds are the same versions."""
        model = models.hybrid()
        ours, theirs = RankerVersion.first(model), RankerVersion.first(models.hybrid())
        assert ours.hash == theirs.hash
        models.train(model)
        delta = delta_between(ours, model)
        ours, theirs = apply_delta(ours, delta), apply_delta(theirs, delta)
        assert ours.hash == theirs.hash == delta.hash
        assert delta_between(ours, model).nbytes == 0
        models.train(model)
        assert RankerVersion.first(model).hash != RankerVersion.first(models.hybrid()).hash

    def test_only_rows_that_changed_are_in_it(self):
        model = models.hybrid()
        base = RankerVersion.first(model)
        name = next(name for name in content_of(model) if name.endswith("t_item.weight"))
        with torch.no_grad():
            content_of(model)[name][[3, 20]] += 1.0
        delta = delta_between(base, model)
        assert not delta.whole
        assert list(delta.rows) == [name]
        assert delta.rows[name].rows.tolist() == [3, 20]

    def test_a_published_model_trains_on_without_a_trace(self):
        model = models.hybrid()
        version = RankerVersion.first(model)
        before = answers(version)
        models.train(model, steps=2)
        for part in model.buffers():
            part.zero_()
        assert torch.equal(answers(version), before)

    def test_coverage_counts_are_each_versions_own(self):
        model = models.hybrid()
        base = RankerVersion.first(model)
        models.train(model)
        new = apply_delta(base, delta_between(base, model))
        source = [
            next(part for part in each.model.modules() if hasattr(part, "coverage"))
            for each in (base, new)
        ]
        seen = [part.sources[0].counts.clone() for part in source]
        answers(new)
        assert torch.equal(source[0].sources[0].counts, seen[0])
        assert not torch.equal(source[1].sources[0].counts, seen[1])


class TestNumbers:
    @pytest.mark.parametrize("bits", [0.0, float("nan")])
    def test_are_compared_by_bits(self, bits):
        """-0 is not 0, and a NaN that stays is no change."""
        model = models.Numbered(rows=8)
        with torch.no_grad():
            model.table.weight[:, 3] = bits
        base = RankerVersion.first(model)
        with torch.no_grad():
            model.table.weight[2, 3] = -model.table.weight[2, 3]
        assert delta_between(base, model).rows["table.weight"].rows.tolist() == [2]

    def test_of_a_table_of_many_blocks(self, monkeypatch):
        monkeypatch.setattr("sidrank.serving.delta._BLOCK_BYTES", 256)
        model = models.Numbered(rows=50)
        base = RankerVersion.first(model)
        with torch.no_grad():
            model.table.weight[[0, 3, 4, 48, 49]] = 1.0
        assert delta_between(base, model).rows["table.weight"].rows.tolist() == [0, 3, 4, 48, 49]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_of_any_width(self, dtype):
        model = models.Numbered(rows=64).to(dtype)
        base = RankerVersion.first(model)
        with torch.no_grad():
            model.table.weight[7] = 3.0
        new = apply_delta(base, delta_between(base, model))
        assert new.model.table.weight[:, 0].tolist() == [3.0 if k == 7 else 0.0 for k in range(64)]


class TestMemory:
    def test_what_did_not_change_is_shared(self):
        model = models.Numbered()
        base = RankerVersion.first(model)
        with torch.no_grad():
            model.dense.weight.fill_(1.0)
        new = apply_delta(base, delta_between(base, model))
        assert new.model.table.weight is base.model.table.weight
        assert new.model.lookup is base.model.lookup
        assert new.model.dense.weight is not base.model.dense.weight

    def test_a_version_is_freed_with_its_last_reference(self):
        model = models.hybrid()
        version = RankerVersion.first(model)
        gc.collect()
        gc.disable()
        try:
            old = weakref.ref(version.model)
            models.train(model)
            version = apply_delta(version, delta_between(version, model))
            assert old() is None
        finally:
            gc.enable()


def with_part(part):
    made = models.Numbered(rows=8)
    made.part = part
    return made


def coded(table):
    return CodeFeatureSource(
        ["a", "b"], table.spec, content_hash=table.content_hash, ancestors=table.ancestors
    )


class Tables(nn.Module):
    """A collection whose item table grows behind its end."""

    def __init__(self, rows):
        super().__init__()
        config = EmbeddingBagConfig(
            name="t", embedding_dim=4, num_embeddings=rows, feature_names=["item"]
        )
        self.ebc = EmbeddingBagCollection(tables=[config])
        with torch.no_grad():
            self.ebc.embedding_bags["t"].weight.copy_(torch.arange(rows * 4).view(rows, 4))

    def rank(self, requests):
        return self.ebc(requests.candidates).values()[:, :1]


class TestGrowth:
    @pytest.mark.parametrize("rows", [5, 70_000])
    def test_of_a_table(self, rows):
        """Small ones are copied, large ones share pages."""
        base = RankerVersion.first(Tables(rows))
        new = apply_delta(base, delta_between(base, Tables(rows + 3)))
        asked = models.numbered_requests(counts=[1], rows=1)._replace(
            candidates=hosts.jagged({"item": [[rows + 2]]})
        )
        assert new.rank(asked).item() == 4.0 * (rows + 2)
        assert new.model.ebc.embedding_bag_configs()[0].num_embeddings == rows + 3
        assert new.model.ebc.embedding_bags["t"].num_embeddings == rows + 3
        assert base.model.ebc.embedding_bag_configs()[0].num_embeddings == rows
        assert len(base.model.ebc.embedding_bags["t"].weight) == rows

    def test_a_table_never_shrinks(self):
        base = RankerVersion.first(Tables(5))
        with pytest.raises(ValueError, match=r"t.weight must have shape \[5, 4\] or more rows"):
            delta_between(base, Tables(4))

    @pytest.mark.parametrize("scattered", [False, True])
    def test_of_a_sid_table(self, scattered):
        """Two appends between two versions; the lineage is the trainer's."""
        ids = np.arange(1, 9) * (2**55 if scattered else 1)
        sids = SIDTable(ids[:4], np.ones((4, 2), int), spec=SIDSpec((4, 4)))
        model = models.Numbered(rows=8)
        model.lookup = SIDLookup(sids)
        base = RankerVersion.first(model)
        later = sids.append(ids[4:6], [[2, 3]] * 2).append(ids[6:], [[3, 0]] * 2)
        model.lookup = SIDLookup(later)
        delta = delta_between(base, model)
        assert delta.items["lookup"].items.tolist() == ids[4:].tolist()
        found = apply_delta(base, delta).model.lookup
        assert (found.content_hash, found.version) == (later.content_hash, 3)
        assert torch.equal(found(torch.from_numpy(ids)), model.lookup(torch.from_numpy(ids)))
        assert (base.model.lookup(torch.from_numpy(ids[4:])) == -1).all()
        found.set_extra_state(SIDLookup(sids).get_extra_state())  # an ancestor's checkpoint

    def test_of_a_sid_table_that_did_not_grow_from_it(self):
        model = models.Numbered(rows=8)
        base = RankerVersion.first(model)
        model.lookup = SIDLookup(SIDTable([0, 1], [[0, 0], [1, 1]], spec=SIDSpec((4, 4))))
        with pytest.raises(SIDVersionError, match=r"lookup must hold the SID table .* or one that"):
            delta_between(base, model)

    def test_of_a_table_whose_codes_come_with_the_requests(self):
        """Only its name is known here; the next append follows from it."""
        tables = [models.numbered_sids(number) for number in (1, 2, 4)]
        version = RankerVersion.first(with_part(coded(tables[0])))
        for table in tables[1:]:
            version = apply_delta(version, delta_between(version, with_part(coded(table))))
            assert version.model.part.content_hash == table.content_hash
        for table in tables:  # checkpoints of all
            version.model.part.set_extra_state(table.content_hash)
        with pytest.raises(SIDVersionError, match=r"part must hold the SID table .* or one that"):
            delta_between(version, with_part(coded(tables[1])))

    def test_of_units(self):
        """A lookup of byte-pair units holds no codes of its table."""
        model = models.Numbered(rows=8)
        model.lookup.codes = model.lookup.codes + 1
        base = RankerVersion.first(model)
        model.lookup = SIDLookup(models.numbered_sids(1))
        with pytest.raises(SIDVersionError, match="lookup must hold the codes of the SID table"):
            delta_between(base, model)


class TestRefused:
    def delta(self):
        model = models.Numbered(rows=64)
        base = RankerVersion.first(model)
        model.set_to(1, [3, 5])
        return base, delta_between(base, model)

    def test_by_another_version(self):
        base, delta = self.delta()
        new = apply_delta(base, delta)
        with pytest.raises(
            ValueError, match=rf"delta must belong to version 2 \({new.hash}\), got .* {base.hash}"
        ):
            apply_delta(new, delta)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (
                lambda r, v: ChangedRows(r.flip(0), v, 64),
                r"rows of table.weight must ascend within",
            ),
            (lambda r, v: ChangedRows(r + 60, v, 64), r"within \[0, 64\)"),
            (lambda r, v: ChangedRows(r - 4, v, 64), r"within \[0, 64\)"),
            (lambda r, v: ChangedRows(r, v, 66), "hold all from 64 on"),
            (lambda r, v: ChangedRows(r, v, 63), r"within \[0, 63\)"),
            (lambda r, v: ChangedRows(r, v[:, 1:], 64), r"float32 of shape \[2, 16\]"),
            (lambda r, v: ChangedRows(r, v.double(), 64), "values of table.weight must be torch.f"),
        ],
    )
    def test_rows_that_do_not_fit(self, change, told):
        base, delta = self.delta()
        rows, values, _ = delta.rows["table.weight"]
        bad = replace(delta, rows={"table.weight": change(rows, values)})
        with pytest.raises(ValueError, match=told):
            apply_delta(base, bad)

    def test_what_the_version_has_not(self):
        base, delta = self.delta()
        with pytest.raises(ValueError, match="delta must change tensors of the version, got other"):
            apply_delta(base, replace(delta, whole={"other": torch.zeros(1)}))
        with pytest.raises(ValueError, match=r"delta must change SID tables of .*, got other"):
            apply_delta(base, replace(delta, items={"other": delta.items["lookup"]}))

    def test_a_whole_tensor_of_another_shape(self):
        base, delta = self.delta()
        with pytest.raises(ValueError, match=r"dense.bias must have shape \[1\] or more"):
            apply_delta(base, replace(delta, whole={"dense.bias": torch.zeros(1, 1)}))

    def test_items_that_make_another_table(self):
        base, delta = self.delta()
        growth = delta.items["lookup"]
        bad = replace(delta, items={"lookup": growth._replace(codes=growth.codes * 0)})
        with pytest.raises(SIDVersionError, match="lookup must become the SID table"):
            apply_delta(base, bad)

    def test_another_model(self):
        base = RankerVersion.first(models.hybrid())
        with pytest.raises(ValueError, match="model must have the tensors of the version"):
            delta_between(base, models.Numbered(rows=8))

    def test_other_numbers_of_the_same_name(self):
        base = RankerVersion.first(models.Numbered(rows=8))
        with pytest.raises(ValueError, match=r"tensors .*: torch.float32, got torch.float64"):
            delta_between(base, models.Numbered(rows=8).double())

    def test_other_extra_states(self):
        """Byte-pair units of other merges, for one."""
        base = RankerVersion.first(with_part(UnitVersion("a")))
        with pytest.raises(ValueError, match="extra states of the version, part: a, got b"):
            delta_between(base, with_part(UnitVersion("b")))

    def test_a_ranker_that_is_swapped_as_a_whole(self):
        base = RankerVersion.fixed(Recorder(), number=4, hash="e")
        assert (base.number, base.hash, base.parent) == (4, "e", None)
        with pytest.raises(TypeError, match="must be of a module to take a delta, got Recorder"):
            delta_between(base, models.Numbered(rows=8))

    def test_a_model_with_fewer_lookups(self):
        model = models.Numbered(rows=8)
        base = RankerVersion.first(model)
        model.lookup = nn.Identity()
        assert sid_parts(model) == {}
        with pytest.raises(
            ValueError, match="the SID tables of the version, lookup: SIDLookup, got none"
        ):
            delta_between(base, model)


class TestFirst:
    def test_of_what_cannot_rank(self):
        with pytest.raises(TypeError, match="model must have a method rank, got Linear"):
            RankerVersion.first(nn.Linear(1, 1))

    def test_of_what_has_no_content(self):
        with pytest.raises(TypeError, match=r"plain tensors, got a meta tensor in table.weight"):
            RankerVersion.first(models.Numbered(rows=8).to("meta"))
