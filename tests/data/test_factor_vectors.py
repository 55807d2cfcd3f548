import numpy as np
import pytest
import torch

from sidrank.data import factor_vectors
from sidrank.data.factor_vectors import _fits
from sidrank.towers import LeastSquaresRead


def planted(*, users=200, items=40, dim=2, noise=0.5, seed=0):
    """Answers of users with tastes, a third of the table; and the rest of it."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(users, dim)) @ rng.normal(size=(dim, items))
    seen = rng.random((users, items)) < 0.35
    table += noise * rng.normal(size=table.shape)
    user, item = np.nonzero(seen)
    return user, item, table[seen], table, seen


def constant(items):
    return np.ones((items, 1))


def posterior(user, item, answers, vectors, noise, owner, wanted):
    """The textbook's conditional mean of a normal, for one user and one item."""
    mine = user == owner
    x = vectors[item[mine]]
    covariance = x @ x.T + noise * np.eye(len(x))
    return vectors[wanted] @ x.T @ np.linalg.solve(covariance, answers[mine])


def likelihood(user, item, answers, features, shrinkage, vectors, noise):
    """Of the answers and the vectors, user by user, with the best weights of the features."""
    total = 0.0
    for owner in np.unique(user):
        mine = user == owner
        x = vectors[item[mine]]
        covariance = x @ x.T + noise * np.eye(len(x))
        total -= 0.5 * np.linalg.slogdet(covariance)[1]
        total -= 0.5 * answers[mine] @ np.linalg.solve(covariance, answers[mine])
    penalty = features.T @ features + np.eye(features.shape[1])
    weights = np.linalg.solve(penalty, features.T @ vectors)
    left = vectors - features @ weights
    return total - 0.5 * shrinkage * ((left**2).sum() + (weights**2).sum())


@pytest.mark.parametrize(("dim", "shrinkage"), [(1, 0.01), (3, 1.0), (4, 100.0)])
def test_each_iteration_makes_it_more_likely(dim, shrinkage):
    user, item, answers, *_ = planted()
    features = np.random.default_rng(1).normal(size=(40, 5))
    steps = list(_fits(user, item, answers, features=features, dim=dim, shrinkage=shrinkage))
    found = [likelihood(user, item, answers, features, shrinkage, *step) for step in steps]
    assert np.diff(found).min() > -1e-6 * abs(found[-1])
    assert found[-1] > found[0] + 1


def test_reads_answers_that_it_has_not_seen():
    user, item, answers, table, seen = planted()
    vectors, noise = factor_vectors(
        user, item, answers, features=constant(40), dim=2, shrinkage=0.1
    )
    assert noise == pytest.approx(0.25, rel=0.25)
    read = np.array(
        [
            [posterior(user, item, answers, vectors, noise, owner, wanted) for wanted in range(40)]
            for owner in range(50)
        ]
    )
    hidden = ~seen[:50]
    assert np.corrcoef(read[hidden], table[:50][hidden])[0, 1] > 0.85


def test_answers_dealt_anew_leave_nothing():
    user, item, answers, *_ = planted()
    dealt = np.random.default_rng(2).permutation(answers)
    own, noise = factor_vectors(user, item, dealt, features=constant(40), dim=2, shrinkage=30.0)
    real, _ = factor_vectors(user, item, answers, features=constant(40), dim=2, shrinkage=30.0)
    assert noise == pytest.approx(dealt.var(), rel=0.1)
    assert (own**2).sum() < 0.2 * (real**2).sum()


def test_least_squares_in_them_is_the_posterior():
    user, item, answers, *_ = planted()
    vectors, noise = factor_vectors(user, item, answers, features=constant(40), dim=3)
    read = LeastSquaresRead(dim=3, noise=noise)
    space = torch.from_numpy(vectors).float()
    mine = user == 7
    mean, _ = read(
        space.unsqueeze(0),
        space[item[mine]].unsqueeze(0),
        torch.from_numpy(answers[mine]).float().view(1, -1, 1),
        torch.ones(1, int(mine.sum())).bool(),
    )
    wanted = [posterior(user, item, answers, vectors, noise, 7, place) for place in range(40)]
    np.testing.assert_allclose(mean[0, :, 0].detach().numpy(), wanted, atol=1e-4)


def test_an_item_without_answers_is_what_its_features_say():
    """Two kinds of items; the newcomers of a kind lie where the others do."""
    rng = np.random.default_rng(3)
    kind = np.arange(40) % 2
    taste = rng.normal(size=(300, 2))
    user, item = np.nonzero(rng.random((300, 36)) < 0.4)
    answers = taste[user, kind[item]] + 0.3 * rng.normal(size=len(user))
    features = np.eye(2)[kind]
    vectors, _ = factor_vectors(user, item, answers, features=features, dim=2, shrinkage=5.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert lengths[36:].min() > 0.8 * lengths[:36].mean()
    unit = vectors / lengths
    alike = unit[36:] @ unit[:36].T
    same = kind[36:, None] == kind[None, :36]
    assert alike[same].min() > 0.9
    assert alike[~same].max() < 0.5


def test_order_of_answers_and_names_of_users_do_not_matter():
    user, item, answers, *_ = planted()
    vectors, noise = factor_vectors(user, item, answers, features=constant(40), dim=2)
    order = np.random.default_rng(4).permutation(len(user))
    names = np.random.default_rng(5).permutation(10**6)[:200] - 500_000
    again, same = factor_vectors(
        names[user][order], item[order], answers[order], features=constant(40), dim=2
    )
    np.testing.assert_allclose(again @ again.T, vectors @ vectors.T, atol=1e-8)
    assert same == pytest.approx(noise)


def test_answers_that_are_all_the_same():
    user, item = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    for value in (0.0, 2.0):
        vectors, noise = factor_vectors(user, item, np.full(20, value), features=constant(4), dim=2)
        assert np.isfinite(vectors).all()
        assert 0 < noise < np.inf


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"users": np.zeros(2, int)}, "of one length, got 2, 3 and 3"),
        ({"users": [], "items": [], "answers": []}, "answers must not be empty"),
        ({"features": np.ones(4)}, r"features must have the shape \[V, F\], got \[4\]"),
        ({"items": np.array([0, 4, 1])}, "items must be 0 to 3, the rows of features, got 0 to 4"),
        ({"items": np.array([0, -1, 1])}, "got -1 to 1"),
        ({"answers": np.array([0, np.nan, 1])}, "answers must be finite"),
        ({"features": np.full((4, 1), np.inf)}, "features must be finite"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"shrinkage": 0.0}, "shrinkage must be positive and finite, got 0.0"),
        ({"shrinkage": float("nan")}, "shrinkage must be positive and finite"),
    ],
)
def test_refuses(changed, said):
    given = {
        "users": np.arange(3),
        "items": np.arange(3),
        "answers": np.ones(3),
        "features": constant(4),
        "dim": 2,
        "shrinkage": 1.0,
    }
    given |= {
        name: np.asarray(value) if name in ("users", "items", "answers") else value
        for name, value in changed.items()
    }
    with pytest.raises(ValueError, match=said):
        factor_vectors(given.pop("users"), given.pop("items"), given.pop("answers"), **given)
