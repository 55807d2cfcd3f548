import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.tokenizers import NotFittedError
from sidrank.tokenizers.fsq import FSQTail, from_digits, to_digits
from tests import reference

RADICES = st.lists(st.integers(2, 5), min_size=1, max_size=5).map(tuple)


def residuals(count=500, width=6, seed=0):
    """Correlated, of falling variance, away from zero."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    spread = torch.linspace(3, 0.3, width)
    return torch.randn(count, width, generator=generator) * spread @ mixing + 5


@pytest.fixture(scope="module")
def fitted():
    return FSQTail(bins=(2, 3, 4)).fit(residuals())


class TestMixedRadix:
    @given(RADICES)
    def test_every_code_has_its_bins_and_every_bins_their_code(self, bins):
        # in lexicographic order: the first direction is the most significant
        every = torch.tensor(list(itertools.product(*(range(size) for size in bins))))
        codes = torch.arange(math.prod(bins))
        assert torch.equal(from_digits(every, bins), codes)
        assert torch.equal(to_digits(codes, bins), every)

    def test_thirteen_binary_directions(self):
        codes = torch.arange(8192)
        digits = to_digits(codes, (2,) * 13)
        assert ["".join(map(str, row)) for row in digits[:3].tolist()] == [
            f"{code:013b}" for code in range(3)
        ]
        assert torch.equal(from_digits(digits, (2,) * 13), codes)


class TestAgainstReference:
    @pytest.mark.parametrize("bins", [(2, 2, 2), (3,), (2, 3, 4), (5, 2)])
    def test_bins_are_the_formula(self, bins):
        x = residuals()
        tail = FSQTail(bins=bins).fit(x)
        axes = tail.state_dict()["directions"].double()
        projected = (x.double() @ axes.T).numpy()
        median, spread = np.median(projected, axis=0), projected.std(axis=0)
        expected = [
            reference.fsq_code(row, median, spread * math.sqrt(3) / math.pi, bins)
            for row in projected.tolist()
        ]
        # the stored thresholds are rounded to float32
        assert np.mean(tail.encode(x)[:, 0].numpy() == expected) > 0.99

    def test_directions_are_principal_axes(self):
        x = residuals()
        axes = FSQTail(bins=(2,) * 4).fit(x).state_dict()["directions"].double()
        torch.testing.assert_close(axes @ axes.T, torch.eye(4).double(), atol=1e-6, rtol=0)
        assert (axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all()
        values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
        spread = (x.double() @ axes.T).var(dim=0, correction=0)
        torch.testing.assert_close(spread, values[:4], rtol=1e-5, atol=0)

    def test_a_code_is_rebuilt_from_its_items_and_four_predicted_ones(self):
        x = residuals(count=300)
        tail = FSQTail(bins=(2, 3)).fit(x)
        codes = tail.encode(x)[:, 0]
        digits = to_digits(codes, (2, 3))
        columns = [digits[:, 0] == 1, digits[:, 1] == 1, digits[:, 1] == 2, codes >= 0]
        design = torch.stack(columns, dim=1).double()
        predicted = design @ torch.linalg.lstsq(design, x.double()).solution
        for code in range(6):
            mine = codes == code
            mean = (x[mine].double().sum(0) + 4 * predicted[mine][0]) / (mine.sum() + 4)
            torch.testing.assert_close(tail.decode(torch.tensor([[code]]))[0], mean.float())


class TestProperties:
    def test_two_bins_hold_half_each(self):
        x = residuals(count=501)
        digits = to_digits(FSQTail(bins=(2,) * 6).fit(x).encode(x)[:, 0], (2,) * 6)
        assert (digits.sum(dim=0) - 250.5).abs().max() <= 1.5

    def test_more_bins_are_about_equally_full(self):
        x = residuals(count=4000)
        counts = FSQTail(bins=(5,)).fit(x).encode(x)[:, 0].bincount(minlength=5)
        assert counts.min() > 0.12 * 4000
        assert counts.max() < 0.28 * 4000

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_code_does_not_depend_on_batch_or_threads(self, size, threads):
        # integers: many projections sit on a threshold, where rounding would decide
        x = residuals(count=1500, width=9).round()
        tail = FSQTail(bins=(2, 3, 2, 2)).fit(x)
        whole = tail.encode(x)
        try:
            torch.set_num_threads(threads)
            parts = torch.cat([tail.encode(part) for part in x.split(size)])
        finally:
            torch.set_num_threads(1)
        assert torch.equal(parts, whole)

    def test_what_sits_on_a_threshold_is_summed_in_order(self):
        # projections are zero on paper; in float64 their sign is the order of the sum
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(37, generator=generator)
        half = torch.randn(200, 37, generator=generator)
        axis = torch.randn(37, generator=generator)
        x, weights = torch.cat([half, half[:, order]], dim=1), torch.cat([axis, -axis[order]])
        state = {
            "directions": weights.unsqueeze(0),
            "thresholds": torch.zeros(1),
            "codebook": torch.zeros(2, 74),
        }
        codes = FSQTail(bins=(2,)).load_state_dict(state).encode(x)[:, 0].tolist()
        expected = []
        for row in x.tolist():
            total = 0.0
            for number, weight in zip(row, weights.tolist(), strict=True):
                total += number * weight
            expected.append(int(total >= 0))
        assert codes == expected
        assert codes != (x.double() @ weights.double() >= 0).int().tolist()

    def test_better_than_the_mean_and_than_random_codes_on_new_items(self):
        x, new = residuals(count=3000, seed=1), residuals(count=3000, seed=1).flip(0) * 0.9 + 0.5
        tail = FSQTail(bins=(2,) * 6).fit(x)
        error = (tail.decode(tail.encode(new)) - new).square().mean()
        shuffled = tail.encode(new)[torch.randperm(3000)]
        assert error < 0.5 * (x.mean(0) - new).square().mean()
        assert error < 0.5 * (tail.decode(shuffled) - new).square().mean()

    def test_fits_the_same_twice_and_leaves_random_states_alone(self):
        before = torch.get_rng_state()
        first, again = (FSQTail().fit(residuals()).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
    def test_other_dtypes_are_computed_in_float32(self, dtype):
        x = residuals().to(dtype)
        tail, plain = FSQTail(bins=(2, 2)).fit(x), FSQTail(bins=(2, 2)).fit(x.float())
        assert torch.equal(tail.encode(x), plain.encode(x.float()))
        assert torch.equal(tail.encode(x.float().numpy()), plain.encode(x.float()))

    def test_on_the_device(self, fitted, device):
        x = residuals(count=50)
        codes = fitted.encode(x.to(device))
        assert codes.device.type == fitted.decode(codes).device.type == device.type
        assert torch.equal(codes.cpu(), fitted.encode(x))

    def test_tells_of_its_progress(self):
        told = []
        FSQTail(bins=(2,)).fit(residuals(), progress=lambda *step: told.append(step))
        assert told == [("FSQ tail", 1, 2), ("FSQ tail", 2, 2)]


class TestSmallInputs:
    @pytest.mark.parametrize(("count", "width"), [(1, 1), (1, 5), (5, 1), (3, 2)])
    def test_fewer_items_or_dimensions_than_directions(self, count, width):
        x = residuals(count=count, width=width)
        tail = FSQTail(bins=(2, 3) * 3).fit(x)
        codes = tail.encode(x)
        assert (codes.shape, codes.dtype) == ((count, 1), torch.int32)
        assert tail.decode(codes).isfinite().all()
        # the directions that are left over put all items into one bin
        spare = to_digits(codes[:, 0], (2, 3) * 3)[:, min(count - 1, width) :]
        assert (spare == spare[0]).all()

    def test_what_rounding_leaves_is_no_direction(self):
        x = 1e4 + torch.arange(200).unsqueeze(1) * torch.tensor([1.0, 2.0, -4.0])
        directions = FSQTail(bins=(2, 2)).fit(x).state_dict()["directions"]
        assert directions[0].norm().item() == pytest.approx(1)
        assert (directions[1] == 0).all()

    @pytest.mark.parametrize("value", [0.0, 3.5, -1e30])
    def test_no_variance(self, value):
        x = torch.full((50, 3), value)
        tail = FSQTail(bins=(2, 3)).fit(x)
        assert len(tail.encode(x).unique()) == 1
        torch.testing.assert_close(tail.decode(tail.encode(x)), x)

    def test_nothing_to_encode(self, fitted):
        codes = fitted.encode(torch.zeros(0, 6))
        assert codes.shape == (0, 1)
        assert fitted.decode(codes).shape == (0, 6)


class TestTurns:
    def cube(self, seed=0):
        """Corners of a cube that no direction of the space is special to."""
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randint(0, 2, (3000, 3), generator=generator) * 2.0 - 1
        turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:3]
        return (corners + 0.2 * torch.randn(3000, 3, generator=generator)) @ turn

    @pytest.mark.parametrize("bins", [(2, 2, 2), (2, 2, 3)])
    def test_lower_the_error_at_equal_bits(self, bins):
        plain, turned = (
            float((tail.decode(tail.encode(x)) - x).square().mean())
            for x in [self.cube()]
            for tail in (FSQTail(bins=bins).fit(x), FSQTail(bins=bins, turns=30).fit(x))
        )
        assert turned < 0.8 * plain

    def test_keep_the_space_of_the_directions(self):
        x = self.cube()
        plain, turned = (
            FSQTail(bins=(2,) * 3, turns=turns).fit(x).state_dict()["directions"]
            for turns in (0, 9)
        )
        assert not torch.allclose(plain, turned, atol=0.05)
        torch.testing.assert_close(turned @ turned.T, torch.eye(3))
        torch.testing.assert_close(turned.T @ turned, plain.T @ plain, atol=1e-4, rtol=0)

    def test_are_an_argument(self):
        tail = FSQTail(bins=(2, 2), turns=4)
        assert FSQTail(**tail.arguments).turns == 4
        with pytest.raises(ValueError, match="turns must be at least 0, got -1"):
            FSQTail(turns=-1)

    @pytest.mark.parametrize("value", [0.0, 3.5])
    def test_no_variance(self, value):
        x = torch.full((50, 3), value)
        tail = FSQTail(bins=(2, 3), turns=5).fit(x)
        torch.testing.assert_close(tail.decode(tail.encode(x)), x)

    def test_fewer_dimensions_than_directions(self):
        x = self.cube()[:, :1]
        codes = FSQTail(bins=(2, 2), turns=5).fit(x).encode(x)
        assert codes.unique().tolist() == [1, 3]


class TestState:
    def test_round_trip(self, fitted):
        state = fitted.state_dict()
        shapes = {name: list(tensor.shape) for name, tensor in state.items()}
        assert shapes == {"directions": [3, 6], "thresholds": [6], "codebook": [24, 6]}
        twin = FSQTail(**fitted.arguments).load_state_dict(state)
        state["directions"].zero_()
        x = residuals(seed=4)
        assert torch.equal(twin.encode(x), fitted.encode(x))
        assert torch.equal(twin.decode(twin.encode(x)), fitted.decode(fitted.encode(x)))
        assert twin.levels == (24,)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"codebook": None}, "state must hold ['codebook', 'directions', 'thresholds'], got"),
            ({"codebook": torch.zeros(23, 6)}, "codebook must have shape [24, 6], got [23, 6]"),
            ({"directions": torch.zeros(3, 5)}, "directions must have shape [3, 6], got [3, 5]"),
            ({"thresholds": torch.zeros(6).double()}, "thresholds must be float32, got"),
            ({"thresholds": torch.tensor([0.0, 2, 1, 1, 2, 3])}, "thresholds must ascend, got [2"),
        ],
    )
    def test_refuses_another(self, fitted, change, message):
        state = {k: v for k, v in (fitted.state_dict() | change).items() if v is not None}
        with pytest.raises(ValueError, match=re.escape(message)):
            FSQTail(bins=(2, 3, 4)).load_state_dict(state)


class TestErrors:
    @pytest.mark.parametrize("method", ["encode", "decode", "state_dict"])
    def test_not_fitted(self, method):
        arguments = {
            "encode": [residuals()],
            "decode": [torch.zeros(1, 1).long()],
            "state_dict": [],
        }
        with pytest.raises(NotFittedError, match="FSQTail must be fitted or loaded first"):
            getattr(FSQTail(), method)(*arguments[method])

    @pytest.mark.parametrize(
        ("bins", "message"),
        [
            ((), r"bins must be one or more numbers of at least 2, got \(\)"),
            ((2, 1), r"bins must be one or more numbers of at least 2, got \(2, 1\)"),
            ((2,) * 21, r"bins must have a product of at most 2\*\*20, got"),
        ],
    )
    def test_bins(self, bins, message):
        with pytest.raises(ValueError, match=message):
            FSQTail(bins=bins)

    def test_what_it_has_no_use_for(self):
        with pytest.raises(ValueError, match="weights must be None for FSQTail, got some"):
            FSQTail().fit(residuals(), weights=torch.ones(500))
        with pytest.raises(ValueError, match="pairs must be None for FSQTail, got some"):
            FSQTail().fit(residuals(), pairs=torch.zeros(1, 2).long())

    def test_bad_vectors(self, fitted):
        x = residuals()
        x[17, 3] = torch.nan
        for call in (FSQTail().fit, fitted.encode):
            with pytest.raises(ValueError, match=r"x must be finite and within .* in row 17"):
                call(x)
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[0, 4\]"):
            FSQTail().fit(torch.zeros(0, 4))
        with pytest.raises(ValueError, match=r"x must have shape \[n, 6\], got \[2, 7\]"):
            fitted.encode(torch.zeros(2, 7))

    def test_bad_codes(self, fitted):
        with pytest.raises(ValueError, match=r"codes of level 0 must be within \[0, 24\), got 24"):
            fitted.decode(torch.tensor([[24]]))
