"""Arms of several sequences: equal parameters, no leak, and a control that differs in types."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

import benchmarks.sequence_study as study
from benchmarks import hyformer_focus
from benchmarks.hyformer_pages import hyformer
from benchmarks.sequence_arms_hyformer import ARMS, SeveralSequences, types_shuffled
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import count, difference
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    return planted_rows(plant_sequences(SequenceSettings(users=40, requests=30)))


def earliest(rows: SequenceRows) -> torch.Tensor:
    """The first training rows of all: most events are later than they."""
    learn = rows.parts["train"]
    return learn[rows.time[learn].argsort()[:30]]


def built(rows: SequenceRows, name: str) -> SeveralSequences:
    torch.manual_seed(1)
    return ARMS[name].build(rows, 1).eval()


def test_arms_have_as_many_parameters_to_the_nearest_unit(rows: SequenceRows) -> None:
    sizes = {name: sum(count(built(rows, name)).values()) for name in ARMS}
    most = max(sizes.values())
    assert all(0 <= most - size < 0.005 * most for size in sizes.values())


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_answers_finite_logits_and_learns(rows: SequenceRows, name: str) -> None:
    model = built(rows, name)
    batch = rows.batch(rows.parts["train"][:20], model.cut)
    assert model(batch).shape == (20,)
    model.loss(batch).backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)
    assert all(block.decoders[0] is not None for block in model.fuse.blocks)


@pytest.mark.parametrize("name", ["hyformer", "hyformer_kept", "late_fusion", "late_mixer"])
def test_what_is_behind_the_mask_or_later_changes_nothing(rows: SequenceRows, name: str) -> None:
    model, which = built(rows, name), earliest(rows)
    batch = rows.batch(which, model.cut)
    before = model(batch)
    views = batch.by_type["view"]
    hidden = torch.zeros_like(views.mask)
    hidden[:, -3:] = True
    other = {key: torch.where(hidden, 1, values) for key, values in views.fields.items()}
    answers = [
        model(
            replace(
                batch,
                by_type=batch.by_type
                | {"view": replace(views, fields=some, mask=views.mask & ~hidden)},
            )
        )
        for some in (views.fields, other)
    ]
    assert torch.allclose(*answers, atol=1e-6)
    assert not torch.allclose(answers[0], before, atol=1e-5)
    later = rows.event_time >= rows.time[which].max()
    assert later.any()
    kind = torch.where(later, 1, rows.events["kind"])
    turned = replace(rows, events=rows.events | {"kind": kind}, _typed={})
    assert torch.equal(model(turned.batch(which, model.cut)), before)


def test_types_are_shuffled_within_users_and_nothing_else(rows: SequenceRows) -> None:
    other = types_shuffled(rows, 1)
    for name, values in rows.events.items():
        assert torch.equal(values, other.events[name]) == (name != "kind")
    ends = [*rows.first[1:].tolist(), len(rows.event_time)]
    for start, end in zip(rows.first.tolist(), ends, strict=True):
        one, two = (some.events["kind"][start:end] for some in (rows, other))
        assert torch.equal(one.sort().values, two.sort().values)


@pytest.mark.parametrize("name", ["hyformer", "hyformer_kept", "late_fusion"])
def test_the_control_reads_the_shuffled_log(rows: SequenceRows, name: str) -> None:
    one, null = built(rows, name), built(rows, f"{name}_null")
    which = rows.parts["test"][:30]
    batch = rows.batch(which, one.cut)
    shuffled = types_shuffled(rows, 1).batch(which, one.cut)
    assert torch.equal(null(batch), one(shuffled))
    assert not torch.equal(null(batch), one(batch))


def test_a_mean_of_readings_is_half_their_sum(rows: SequenceRows) -> None:
    one, half = built(rows, "late_mixer"), built(rows, "late_mixer_mean")
    batch = rows.batch(rows.parts["test"][:30], one.cut)
    tokens = one.tokens(batch).unsqueeze(1)
    told = [model.fuse(tokens, *model.past(batch)) for model in (one, half)]
    torch.testing.assert_close(told[1][:, :, :3], told[0][:, :, :3] / 2)  # mixers are silent
    assert torch.equal(told[0][:, :, 3:], told[1][:, :, 3:])


def test_focus_counts_what_attention_spends_on_the_form(rows: SequenceRows) -> None:
    model = built(rows, "hyformer")
    reached, nowhere = hyformer_focus.focus(model, rows)
    assert len(reached) == 2
    assert reached[0] > nowhere + 0.02  # born to match
    with torch.no_grad():
        for block in model.fuse.blocks:
            block.decoders[0].key.weight.zero_()
    flat, nowhere = hyformer_focus.focus(model, rows)
    assert flat == pytest.approx([nowhere] * 2, abs=1e-6)


def test_the_page_reads_a_study(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path / "scores")
    monkeypatch.setattr(study, "difference", partial(difference, draws=10))
    out = tmp_path / "study.json"
    words = ["--settings", "types", "--users", "40", "--seeds", "2", "--out", str(out)]
    study.main([*words, "--arms", "hyformer", "late_fusion", "late_mixer", "hyformer_null"])
    hyformer_focus.main([str(out)])
    page = hyformer(json.loads(out.read_text()))
    assert "Attention that the readings of the views spend" in page
    assert all(f"`{name}`" in page for name in ("hyformer", "late_fusion", "late_mixer"))
    assert "confirmed" in page
