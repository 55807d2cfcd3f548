"""Each direction attends along its own axis, and along no other."""

import pytest
import torch

from sidrank.towers.situation_correlations import (
    AcrossBehaviours,
    AcrossFields,
    SituationCorrelations,
    WithRequest,
)

B, L, F, R, D = 3, 6, 4, 5, 8


def given(seed=0):
    torch.manual_seed(seed)
    mask = torch.rand(B, L) < 0.7
    mask[:, 0] = True
    return torch.randn(B, L, F, D), torch.randn(B, R, D), mask


def directions():
    """Each as a function of fields, request, mask; with the axis that it attends along."""
    torch.manual_seed(1)
    across_fields, across_behaviours = AcrossFields(dim=D, num_heads=2), AcrossBehaviours(dim=D)
    with_request = WithRequest(dim=D, num_heads=2)
    return {
        "fields": (lambda x, _, __: across_fields(x), 2),
        "behaviours": (lambda x, _, mask: across_behaviours(x, mask), 1),
        "request": (lambda x, request, _: with_request(x, request), None),
    }


@pytest.mark.parametrize("name", ["fields", "behaviours", "request"])
class TestDirection:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_moves_with_its_inputs(self, name, axis):
        """Equivariant along each axis: no axis has places of its own."""
        read, _ = directions()[name]
        fields, request, mask = given()
        order = torch.randperm(fields.shape[axis])
        moved_request, moved_mask = request, mask
        if axis == 0:
            moved_request, moved_mask = request[order], mask[order]
        if axis == 1:
            moved_mask = mask[:, order]
        expected = read(fields, request, mask).index_select(axis, order)
        found = read(fields.index_select(axis, order), moved_request, moved_mask)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_sees_others_along_its_own_axis_alone(self, name, axis):
        read, own = directions()[name]
        fields, request, mask = given()
        mask[:] = True
        before = read(fields, request, mask)
        changed = fields.clone()
        changed.select(axis, 0).add_(1.0)
        after = read(changed, request, mask)
        rest = torch.arange(1, fields.shape[axis])
        moved = not torch.equal(after.index_select(axis, rest), before.index_select(axis, rest))
        assert moved == (axis == own)
        assert not torch.equal(after.select(axis, 0), before.select(axis, 0))

    def test_reads_the_request_or_not(self, name):
        read, _ = directions()[name]
        fields, request, mask = given()
        order = torch.randperm(R)
        before = read(fields, request, mask)
        torch.testing.assert_close(read(fields, request[:, order], mask), before)
        moved = not torch.equal(read(fields, request + 1.0, mask), before)
        assert moved == (name == "request")


class TestAcrossBehaviours:
    def test_padding_is_not_read(self):
        read, (fields, _, mask) = AcrossBehaviours(dim=D), given()
        before = read(fields, mask)
        fields[~mask] += 5.0
        after = read(fields, mask)
        torch.testing.assert_close(after[mask], before[mask])

    @pytest.mark.parametrize("window", [1, 2, 3, 50])
    def test_window_counts_real_behaviours(self, window):
        read, (fields, _, mask) = AcrossBehaviours(dim=D, window=window), given()
        dense = AcrossBehaviours(dim=D)
        dense.load_state_dict(read.state_dict())
        found = read(fields, mask)
        for row in range(B):
            places = mask[row].nonzero().flatten().tolist()
            for at, place in enumerate(places):
                near = [p for n, p in enumerate(places) if abs(n - at) < window]
                some = torch.zeros(1, L).bool()
                some[0, near] = True
                expected = dense(fields[row : row + 1], some)[0, place]
                torch.testing.assert_close(found[row, place], expected)

    def test_padding_between_changes_nothing(self):
        read, (fields, _, mask) = AcrossBehaviours(dim=D, window=2), given()
        mask[:] = True
        wider = torch.zeros(B, 2 * L, F, D)
        wider[:, 1::2] = fields
        real = torch.zeros(B, 2 * L).bool()
        real[:, 1::2] = True
        torch.testing.assert_close(read(wider, real)[:, 1::2], read(fields, mask))


class TestGates:
    @pytest.mark.parametrize("way", [0, 1, 2])
    def test_each_opens_one_direction(self, way):
        correlate, (fields, request, mask) = SituationCorrelations(dim=D, num_heads=2), given()
        with torch.no_grad():
            correlate.gates.weight.zero_()
            correlate.gates.bias.fill_(-100.0)
            correlate.gates.bias[way * D : (way + 1) * D] = 100.0
        x, asked = correlate.norm(fields), correlate.norm(request)
        zeroed = x.masked_fill(~mask[:, :, None, None], 0.0)
        read = (
            correlate.fields(x),
            correlate.behaviours(zeroed, mask),
            correlate.request(x, asked),
        )[way]
        torch.testing.assert_close(correlate(fields, request, mask)[mask], (fields + read)[mask])

    def test_closed_gates_leave_the_fields(self):
        correlate, (fields, request, mask) = SituationCorrelations(dim=D), given()
        with torch.no_grad():
            correlate.gates.weight.zero_()
            correlate.gates.bias.fill_(-200.0)
        found = correlate(fields, request, mask)
        assert torch.equal(found[mask], fields[mask])
        assert not found[~mask].any()


class TestErrors:
    @pytest.mark.parametrize("module", [AcrossFields, AcrossBehaviours, WithRequest])
    def test_sizes(self, module):
        for name in ("dim", "num_heads"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
                module(**{"dim": 4, name: 0})
        with pytest.raises(ValueError, match="num_heads must divide the width 4, got 3"):
            module(dim=4, num_heads=3)

    def test_window(self):
        with pytest.raises(ValueError, match="window must be at least 1, got 0"):
            SituationCorrelations(dim=4, window=0)

    def test_shapes(self):
        fields, request, mask = given()
        with pytest.raises(ValueError, match=r"fields must have shape \[\*, \*, \*, 4\]"):
            SituationCorrelations(dim=4)(fields, request, mask)
        with pytest.raises(ValueError, match=r"request must have shape \[3, \*, 8\], got"):
            SituationCorrelations(dim=D)(fields, request[:2], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[3, 6\], got \[3, 5\]"):
            AcrossBehaviours(dim=D)(fields, mask[:, 1:])
        with pytest.raises(ValueError, match=r"fields must have shape \[\*, \*, \*, 8\]"):
            AcrossFields(dim=D)(fields[0])
