"""The contrastive losses against loops, and what must not count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses import info_nce, multi_positive_info_nce, two_way_info_nce
from tests import reference
from tests.losses import reference_contrastive

ITEMS = st.integers(0, 3)


def two(rows, seed=0, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, width, generator=generator, dtype=torch.float64).unbind()


def expected(
    anchors, positives, *, temperature, item=None, anchor=None, request=None, log_q=None, valid=None
):
    rows = range(len(anchors))
    log_q = [0.0 for _ in rows] if log_q is None else log_q
    losses = []
    for i in rows:
        excluded = set()
        for j in rows:
            if item is not None and item[j] == item[i]:
                excluded.add(j)
            if anchor is not None and (anchor[j] == anchor[i] or item[j] == anchor[i]):
                excluded.add(j)
            if request is not None and request[j] == request[i]:
                excluded.add(j)
            if valid is not None and not valid[j]:
                excluded.add(j)
        if valid is None or valid[i]:
            cosines = [reference.cosine(anchors[i].tolist(), p.tolist()) for p in positives]
            losses.append(
                reference_contrastive.info_nce_row(cosines, i, excluded, temperature, log_q)
            )
    return sum(losses) / len(losses) if losses else 0.0


class TestInfoNCE:
    @given(
        st.lists(st.tuples(ITEMS, ITEMS, st.booleans()), min_size=1, max_size=7),
        st.sampled_from([0.05, 0.5, 2.0]),
        st.integers(0, 10**6),
    )
    def test_equals_the_loop(self, rows, temperature, seed):
        anchors, positives = two(len(rows), seed)
        anchor, item, valid = (list(column) for column in zip(*rows, strict=True))
        log_q = two(len(rows), seed, 1)[0][:, 0]
        for given_ids, given_anchors, given_q, given_valid in (
            (None, None, None, None),
            (item, None, None, None),
            (item, anchor, None, None),
            (item, anchor, log_q, valid),
            (None, None, log_q, valid),
        ):
            found = info_nce(
                anchors,
                positives,
                temperature=temperature,
                ids=None if given_ids is None else torch.tensor(item),
                anchor_ids=None if given_anchors is None else torch.tensor(anchor),
                log_q=given_q,
                valid=None if given_valid is None else torch.tensor(valid),
            )
            wanted = expected(
                anchors,
                positives,
                temperature=temperature,
                item=given_ids,
                anchor=given_anchors,
                log_q=None if given_q is None else log_q.tolist(),
                valid=given_valid,
            )
            assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    @given(st.lists(st.tuples(ITEMS, ITEMS), min_size=1, max_size=7), st.integers(0, 10**6))
    def test_what_else_the_request_liked_is_no_negative(self, rows, seed):
        anchors, positives = two(len(rows), seed)
        item, request = (list(column) for column in zip(*rows, strict=True))
        for given_ids in (None, item):
            found = info_nce(
                anchors,
                positives,
                ids=None if given_ids is None else torch.tensor(item),
                requests=torch.tensor(request),
            )
            wanted = expected(anchors, positives, temperature=0.1, item=given_ids, request=request)
            assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    def test_all_pairs_of_one_item_teach_nothing(self):
        anchors, positives = (x.requires_grad_() for x in two(4))
        ids, anchor_ids = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 0, 0])
        loss = info_nce(anchors, positives, ids=ids, anchor_ids=anchor_ids)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not anchors.grad.any()
        assert not positives.grad.any()

    def test_without_ids_a_copy_of_the_positive_is_pushed_away(self):
        anchors, positives = two(2)
        copies = torch.stack([positives[0], positives[0]])
        assert info_nce(anchors, copies) > 0.5
        assert info_nce(anchors, copies, ids=torch.tensor([4, 4])) == 0

    def test_popular_candidates_are_corrected(self):
        """Item 0 is 50 of 54 candidates; corrected, every item has the mass of one."""
        vectors, item = torch.eye(5, dtype=torch.float64), torch.tensor([0] * 50 + [1, 2, 3, 4])
        log_q = torch.tensor([50 / 54] + [1 / 54] * 4).log()[item]
        x = vectors[item]
        found = info_nce(x, x, temperature=1.0, log_q=log_q)
        uniform = math.log(1 + 4 * math.exp(-1))
        # the positive is corrected too, which is a constant of the anchor
        assert float(found) == pytest.approx(uniform + 50 / 54 * math.log(50))

    def test_rows_that_do_not_count_may_hold_anything(self):
        anchors, positives = two(4)
        valid = torch.tensor([True, False, True, True])
        clean = info_nce(anchors[valid], positives[valid])
        anchors[1], positives[1] = torch.nan, torch.inf
        anchors.requires_grad_()
        loss = info_nce(anchors, positives, valid=valid)
        loss.backward()
        torch.testing.assert_close(loss.detach(), clean)
        assert anchors.grad.isfinite().all()
        assert not anchors.grad[1].any()

    def test_nothing_valid_is_zero(self):
        anchors, positives = two(3)
        assert info_nce(anchors, positives, valid=torch.zeros(3).bool()) == 0
        assert info_nce(anchors[:0], positives[:0]) == 0

    def test_order_of_rows_and_length_of_vectors_do_not_matter(self):
        anchors, positives = two(6)
        ids = torch.tensor([0, 1, 0, 2, 3, 1])
        order = torch.randperm(6)
        one = info_nce(anchors, positives, ids=ids)
        other = info_nce(7 * anchors[order], 0.1 * positives[order], ids=ids[order])
        torch.testing.assert_close(one, other)

    def test_full_precision_under_autocast(self):
        anchors, positives = (x.float() for x in two(8))
        outside = info_nce(anchors, positives, temperature=0.02)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(info_nce(anchors, positives, temperature=0.02), outside)


class TestBothWays:
    def test_is_the_mean_of_the_two_directions(self):
        left, right = two(5)
        pairs = torch.tensor([[0, 1], [0, 2], [3, 1], [2, 0], [4, 5]])
        valid = torch.tensor([True, True, True, True, False])
        found = two_way_info_nce(left, right, temperature=0.3, pairs=pairs, valid=valid)
        one, other = pairs.T.tolist()
        wanted = [
            expected(a, p, temperature=0.3, item=item, anchor=anchor, valid=valid)
            for a, p, anchor, item in ((left, right, one, other), (right, left, other, one))
        ]
        assert float(found) == pytest.approx(sum(wanted) / 2)

    def test_pairs(self):
        with pytest.raises(ValueError, match=r"pairs must have shape \[3, 2\], got \[3\]"):
            two_way_info_nce(*two(3), pairs=torch.arange(3))


class TestManyPositives:
    @given(
        st.lists(ITEMS, min_size=1, max_size=8),
        st.sampled_from([0.05, 0.5, 2.0]),
        st.integers(0, 10**6),
    )
    def test_equals_the_loop(self, groups, temperature, seed):
        x = two(len(groups), seed)[0]
        group = torch.tensor(groups)
        found = multi_positive_info_nce(
            x, group.unsqueeze(0) == group.unsqueeze(1), temperature=temperature
        )
        sets = [{j for j, other in enumerate(groups) if other == own} for own in groups]
        wanted = reference_contrastive.many_positives(x.tolist(), sets, temperature)
        assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    def test_a_row_without_positive_is_a_candidate_only(self):
        x = two(4)[0].requires_grad_()
        same = torch.zeros(4, 4).bool()
        same[0, 1] = same[1, 0] = True
        loss = multi_positive_info_nce(x, same)
        loss.backward()
        sets = [{1}, {0}, set(), set()]
        assert float(loss.detach()) == pytest.approx(
            reference_contrastive.many_positives(x.tolist(), sets, 0.1)
        )
        assert x.grad[2].any()  # pushed away from the others

    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_no_positive_at_all_is_zero(self, rows):
        x = two(rows)[0].requires_grad_()
        loss = multi_positive_info_nce(x, torch.eye(rows).bool())
        loss.backward()
        assert float(loss.detach()) == 0
        assert not x.grad.any()

    def test_a_vector_of_zeros_has_no_gradient(self):
        x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], requires_grad=True)
        multi_positive_info_nce(x, torch.ones(3, 3).bool()).backward()
        assert not x.grad[0].any()
        assert x.grad[1:].any()


@pytest.mark.parametrize("loss", ["one", "many"])
def test_compiles_with_gradients(loss):
    torch._dynamo.reset()
    ids, same = torch.tensor([0, 1, 0, 2]), torch.ones(4, 4).bool()

    def of(x):
        if loss == "one":
            return info_nce(x, x.roll(1, 0), ids=ids, valid=ids < 2, log_q=x[:, 0].detach())
        return multi_positive_info_nce(x, same)

    whole = torch.compile(of, fullgraph=True, backend="aot_eager")
    for seed in (0, 1):
        x, y = (two(4, seed)[0].requires_grad_() for _ in range(2))
        of(x).backward()
        whole(y).backward()
        torch.testing.assert_close(x.grad, y.grad)


class TestErrors:
    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            info_nce(*two(2), temperature=temperature)
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            multi_positive_info_nce(two(2)[0], torch.ones(2, 2).bool(), temperature=temperature)

    def test_shapes(self):
        anchors, positives = two(3)
        with pytest.raises(ValueError, match=r"anchors must have shape \[\*, \*\], got \[3\]"):
            info_nce(anchors[:, 0], positives)
        with pytest.raises(ValueError, match=r"positives must have shape \[3, 5\], got \[2, 5\]"):
            info_nce(anchors, positives[:2])
        with pytest.raises(ValueError, match=r"positives must have shape \[3, 3\], got \[3\]"):
            multi_positive_info_nce(anchors, torch.ones(3).bool())

    @pytest.mark.parametrize("name", ["ids", "anchor_ids", "requests", "log_q", "valid"])
    def test_one_number_a_row(self, name):
        columns = {"ids": torch.arange(3)} | {name: torch.ones(2, dtype=torch.int64)}
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3\], got \[2\]"):
            info_nce(*two(3), **columns)

    def test_dtypes(self):
        anchors, positives = two(3)
        with pytest.raises(ValueError, match=r"ids must be int32 or int64, got torch\.float32"):
            info_nce(anchors, positives, ids=torch.ones(3))
        with pytest.raises(ValueError, match=r"valid must be bool, got torch\.int64"):
            info_nce(anchors, positives, valid=torch.ones(3).long())
        with pytest.raises(ValueError, match=r"positives must be bool, got torch\.float32"):
            multi_positive_info_nce(anchors, torch.ones(3, 3))

    def test_anchor_ids_alone(self):
        with pytest.raises(ValueError, match="anchor_ids must come with ids, got them alone"):
            info_nce(*two(3), anchor_ids=torch.arange(3))
