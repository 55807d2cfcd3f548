import pytest
import torch

from sidrank.tokenizers import RQKMeans
from sidrank.tokenizers.rotation import learned_rotation


def halves(y):
    """One bit a coordinate: which side of the median, rebuilt as the mean of that side."""
    upper = y > y.median(dim=0).values
    above = (y * upper).sum(dim=0) / upper.sum(dim=0).clamp(min=1)
    below = (y * ~upper).sum(dim=0) / (~upper).sum(dim=0).clamp(min=1)
    return torch.where(upper, above, below)


def corners(count=2000, width=6, seed=0):
    """Corners of a cube, turned away from the axes."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (count, width), generator=generator) * 2.0 - 1
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (signs + 0.2 * torch.randn(count, width, generator=generator)) @ turn


def error(x, rotation, quantise=halves):
    turned = x.double() @ rotation.double()
    return float((quantise(turned.float()).double() - turned).square().sum())


class TestRotation:
    @pytest.mark.parametrize("seed", range(4))
    def test_lowers_the_error_of_a_quantiser_by_coordinates(self, seed):
        x = corners(width=4, seed=seed)
        found = error(x, learned_rotation(x, halves, iterations=50))
        assert found < 0.5 * error(x, torch.eye(4))
        # the control: a rotation that nobody learned
        generator = torch.Generator().manual_seed(seed)
        chance = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
        assert found < 0.6 * error(x, chance)

    @pytest.mark.parametrize("width", [1, 2, 6, 40])
    def test_is_orthogonal_and_keeps_distances(self, width):
        x = corners(width=width)
        rotation = learned_rotation(x, halves)
        gap = rotation.double().T @ rotation.double() - torch.eye(width)
        assert float(gap.norm()) < 1e-5
        before, after = x[:100].double(), x[:100].double() @ rotation.double()
        torch.testing.assert_close(torch.pdist(after), torch.pdist(before), rtol=1e-6, atol=0)

    def test_the_error_never_rises(self):
        x, told = corners(), []
        learned_rotation(x, halves, progress=lambda turn, error: told.append((turn, error)))
        turns, errors = zip(*told, strict=True)
        assert turns == tuple(range(1, len(told) + 1))
        assert len(told) > 3
        assert list(errors) == sorted(errors, reverse=True)
        ends = [error(x, learned_rotation(x, halves, iterations=n)) for n in (0, 1, 3, 10, 30)]
        assert ends == sorted(ends, reverse=True)
        assert ends[-1] < ends[0] == pytest.approx(error(x, torch.eye(6)))

    def test_the_best_is_kept_of_a_quantiser_that_gets_worse(self):
        x, calls = corners(), []

        def tires(y):
            calls.append(len(y))
            return halves(y) if len(calls) < 3 else torch.zeros_like(y)

        rotation = learned_rotation(x, tires)
        assert len(calls) == 3
        assert torch.equal(rotation, learned_rotation(x, halves, iterations=1))

    def test_is_reproducible_and_leaves_global_states_alone(self):
        x, state = corners(), torch.get_rng_state()
        one = learned_rotation(x, halves)
        assert torch.equal(one, learned_rotation(x.clone(), halves))
        assert torch.equal(torch.get_rng_state(), state)

    def test_what_the_quantiser_leaves_at_zero_is_not_turned(self):
        x = corners(width=4)
        x[:, 2:] = 0
        rotation = learned_rotation(x, lambda y: halves(y) * torch.tensor([1.0, 1.0, 0.0, 0.0]))
        torch.testing.assert_close(rotation[2:, 2:], torch.eye(2))
        assert torch.equal(learned_rotation(x * 0, halves), torch.eye(4))

    def test_half_precision(self):
        x = corners().half()
        assert learned_rotation(x, halves).dtype == torch.float32


class TestResidualKMeans:
    def test_gains_nothing_from_a_rotation(self):
        x = corners(width=8)
        turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
        tokenizer = RQKMeans(levels=(16, 8)).fit(x)
        books = {
            name: (book.double() @ turn).float() for name, book in tokenizer.state_dict().items()
        }
        turned = RQKMeans(levels=(16, 8)).load_state_dict(books)
        y = (x.double() @ turn).float()
        codes = tokenizer.encode(x)
        same = (turned.encode(y) == codes).all(dim=1).double().mean()
        assert same > 0.999  # but for rounding
        errors = [
            float((t.decode(codes) - z).square().mean()) for t, z in ((tokenizer, x), (turned, y))
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-5)


class TestErrors:
    def test_arguments(self):
        x = corners()
        with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
            learned_rotation(x, halves, iterations=-1)
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[0, 4\]"):
            learned_rotation(x[:0, :4], halves)
        with pytest.raises(ValueError, match=r"quantise must return shape \[2000, 6\], got \[3"):
            learned_rotation(x, lambda y: y[:3])
        with pytest.raises(ValueError, match="quantise must return finite numbers, got others"):
            learned_rotation(x, lambda y: y * torch.nan)
        x[17, 3] = torch.nan
        with pytest.raises(ValueError, match="got nan in row 17"):
            learned_rotation(x, halves)
