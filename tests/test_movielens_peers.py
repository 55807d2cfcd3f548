"""The MovieLens study on a small log: features of the past, rankers that learn, true pages."""

import copy
import dataclasses
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.movielens_peers import joint_interval, top_gain
from benchmarks.movielens_peers_factors import FOLDS, fit_tastes, fold_of
from benchmarks.movielens_peers_models import PEERS
from benchmarks.movielens_peers_ours import OURS, Knobs, least_squares
from benchmarks.movielens_peers_pages import best_peer, movielens_peers, not_worse, picked
from benchmarks.movielens_peers_rows import (
    LONGEST,
    Batch,
    PeerRows,
    _statistics,
    make_rows,
    requests_of,
)
from benchmarks.movielens_peers_training import Listwise, _parts, learn, predict, trials
from sidrank.data import MovieLens, read_movielens
from sidrank.demo.item_vectors import make_item_vectors
from sidrank.demo.protocols import Split, make_split
from sidrank.demo.settings import VectorRecipe
from sidrank.metrics import ndcg
from tests.data.movielens_files import made_up, write_recbole

RECIPE = VectorRecipe(levels=(4, 4))
LIBRARIES = {
    "torch-rechub": "torch_rechub",
    "DeepCTR-Torch": "deepctr_torch",
    "FuxiCTR": "fuxictr",
}
COUNTS = ("_gap", "_sitting", "_month", "_trend", "_count")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> MovieLens:
    return read_movielens(write_recbole(tmp_path_factory.mktemp("movielens"), made_up()))


@pytest.fixture(scope="module")
def rows(log: MovieLens) -> PeerRows:
    return make_rows(log, "per_user", RECIPE, validate=True, past=6)


def turned_round(log: MovieLens, protocol: str) -> tuple[MovieLens, Split, int]:
    """Ratings of the test rows turn round from the second of one of them on."""
    split = make_split(log, protocol)
    start = int(np.sort(log.timestamp[split.test])[len(split.test) // 2])
    turned = log.rating.copy()
    later = split.test[log.timestamp[split.test] >= start]
    turned[later] = 6 - turned[later]
    return dataclasses.replace(log, rating=turned), split, start


def test_nothing_of_the_future_is_seen(log: MovieLens) -> None:
    """Neither the label of a row nor any later one moves a feature of it, or of another's."""
    other, split, start = turned_round(log, "global_time")
    found = [
        make_rows(each, "global_time", RECIPE, validate=False, past=6) for each in (log, other)
    ]
    used = np.unique(np.concatenate([split.train, split.validation, split.test]))
    before = torch.from_numpy(np.flatnonzero(log.timestamp[used] <= start))
    after = torch.from_numpy(np.flatnonzero(log.timestamp[used] > start))
    same = [same_features(*(each.cut(place) for each in found)) for place in (before, after)]
    assert same == [True, False]
    one, two = (least_squares(each)[before] for each in found)
    assert torch.equal(one, two)


def test_no_statistic_sees_the_future_within_users(log: MovieLens) -> None:
    """Before they are standardised by rows to learn from, which in this split may be later."""
    other, split, start = turned_round(log, "per_user")
    used = np.unique(np.concatenate([split.train, split.validation, split.test]))
    codes = np.ones((len(log.item_ids) + 1, 2), np.int64)
    early = log.timestamp[used] <= start
    found = [_statistics(each, split, used, codes) for each in (log, other)]
    for name, values in found[0].items():
        np.testing.assert_allclose(values[early], found[1][name][early], atol=1e-9, err_msg=name)
        # counts stay the same, whatever the stars
        assert name.endswith(COUNTS) == np.allclose(values[~early], found[1][name][~early]), name


def same_features(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, n), getattr(other, n)) for n in Batch._fields if n != "ids"]
    pairs += [(one.ids[name], other.ids[name]) for name in one.ids]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_user_is_read_in_what_others_said(log: MovieLens) -> None:
    """His own stars move the vectors of all folds but his; those to be judged on move none."""
    split = make_split(log, "per_user")
    vectors = make_item_vectors(log, split.vector_rows)

    def fitted(rating: np.ndarray[Any, Any]) -> torch.Tensor:
        other = dataclasses.replace(log, rating=rating)
        return fit_tastes(other, split, split.train, vectors=vectors, dim=2, shrinkage=1.0).vectors

    before, own = fitted(log.rating), log.user[split.train[0]]
    turned = np.where(log.user == own, 6 - log.rating, log.rating)
    same = [torch.equal(a, b) for a, b in zip(before, fitted(turned), strict=True)]
    assert same == [fold == fold_of(own[None])[0] for fold in range(FOLDS)]
    judged = log.rating.copy()
    judged[np.concatenate([split.validation, split.test])] = 1
    assert torch.equal(before, fitted(judged))
    assert not bool(before[:, 0].any())


def test_a_history_is_strictly_earlier(log: MovieLens, rows: PeerRows) -> None:
    split = make_split(log, "per_user")
    used = np.unique(np.concatenate([split.train, split.validation, split.test]))
    for place in range(0, len(used), 7):
        row = used[place]
        mine = np.flatnonzero(
            split.counted & (log.user == log.user[row]) & (log.timestamp < log.timestamp[row])
        )
        real = rows.past_raw[place] > 0
        assert int(real.sum()) == min(6, len(mine))
        seen = set(log.item_index[mine] + 1)
        assert set(rows.past_raw[place][real].tolist()) <= seen
        assert not bool(rows.past_stars[place][~real].any())


def test_ids_fit_their_tables(rows: PeerRows) -> None:
    for name, ids in rows.ids.items():
        assert int(ids.min()) >= 1
        assert int(ids.max()) < rows.sizes[name]
    assert int(rows.past_item.max()) < rows.sizes["item"]
    assert bool(rows.numbers.isfinite().all())


@pytest.mark.parametrize("name", [*PEERS, *OURS])
def test_a_ranker_learns_and_is_blind_to_padding(rows: PeerRows, name: str) -> None:
    for library, package in LIBRARIES.items():
        if name.startswith(library) and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    torch.manual_seed(0)
    knobs = Knobs(dropout=0.0)
    model = {**PEERS, **OURS}[name](rows, knobs)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    (average,) = learn(model, rows, knobs, passes=1, seed=0)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert np.mean(moved) > 0.9
    scores = predict(average, rows)
    assert scores.shape == rows.parts["judge"].shape
    assert np.isfinite(scores).all()
    # a history twice as long, the rest padding
    place = rows.parts["judge"][:32]
    short = rows.cut(place)
    names = [n for n in Batch._fields if n.startswith("past_")]
    long = short._replace(**{n: torch.nn.functional.pad(getattr(short, n), (0, 5)) for n in names})
    if name != "DeepCTR-Torch DIN":  # it is told the length once and for all
        with torch.no_grad():
            found = [average.eval()(each) for each in (short, long)]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_the_null_differs_in_its_answers_alone(rows: PeerRows) -> None:
    true, dealt = (least_squares(rows, dealt=each).unflatten(1, (-1, 3)) for each in (False, True))
    assert torch.equal(true[..., 2], dealt[..., 2])  # what is unknown
    assert not torch.equal(true[..., :2], dealt[..., :2])


def test_a_control_leaves_the_fitted_spaces_out(rows: PeerRows) -> None:
    given, both = (least_squares(rows, fitted=each) for each in (False, True))
    assert torch.equal(both[:, : given.shape[1]], given)
    assert both.shape[1] == given.shape[1] + 3 * len(rows.tastes)
    assert bool(both[:, given.shape[1] :].std(dim=0).gt(0.5).all())


def test_trials_are_the_same_for_all() -> None:
    assert all(trials(name) == trials("sidrank host") for name in [*PEERS, *OURS])
    assert {len(trials(name)) for name in ("LR", *PEERS, *OURS)} == {5}
    assert len(trials("LightGBM")) > 5  # the one to beat has more


def test_requests_are_sittings_cut_into_runs() -> None:
    user = np.array([1, 1, 2, 1] + [3] * 45)
    time = np.array([0, 1800, 100, 3601] + [50] * 45)
    request = requests_of(user, time)
    assert request[0] == request[1] != request[3]
    assert request[2] not in request[[0, 1, 3]]
    assert np.bincount(request[4:] - request[4:].min()).tolist() == [LONGEST, LONGEST, 5]


def test_a_step_on_lists_holds_whole_requests(rows: PeerRows) -> None:
    parts = _parts(rows, torch.Generator().manual_seed(0), whole_requests=True)
    joined = torch.cat(parts)
    assert torch.equal(joined.sort().values, rows.parts["learn"].sort().values)
    of_part = [set(rows.request[part.numpy()]) for part in parts]
    assert sum(map(len, of_part)) == len(set.union(*of_part))
    model = OURS["sidrank LeastSquaresRead"](rows, Knobs())
    listed = Listwise(weight=1.0, pointwise=0.0)
    (average,) = learn(model, rows, Knobs(), passes=1, seed=0, listwise=listed)
    assert np.isfinite(predict(average, rows)).all()


def test_top_gain_is_ndcg_at_one() -> None:
    draw = np.random.default_rng(0)
    label, request = draw.integers(0, 2, 200), draw.integers(0, 40, 200)
    scores = draw.integers(-4, 0, 200).astype(float)
    gains = top_gain(label, scores, request)
    assert gains.mean() == pytest.approx(ndcg(label, scores, request, k=1))
    mean, low, high = joint_interval(np.stack([gains, gains]), np.arange(len(gains)) // 2)
    assert low < mean < high
    assert mean == pytest.approx(gains.mean(), abs=1e-6)


def made_up_report() -> dict[str, Any]:
    values = {"sidrank host": 0.71, "sidrank DIN": 0.7, "LR": 0.69, "LightGBM": 0.7}
    runs = [
        {"protocol": p, "model": m, "seed": s, "parameters": 5}
        | dict.fromkeys(("auc", "gauc", "ndcg@1"), v + 0.001 * s)
        for p in ("per_user", "global_time")
        for m, v in values.items()
        for s in range(2)
    ]
    chosen = {m: {"auc": v, "passes": 1, "setting": {}} for m, v in values.items()}
    spans = {"per_user": [0.02, 0.012, 0.03], "global_time": [-0.02, -0.03, -0.01]}
    held = {"learn": 10, "judge": 5, "users": 2, "requests": 3}
    return {
        "command": "c",
        "wheels": {"torch": "2"},
        "rows": dict.fromkeys(spans, held),
        "chosen": dict.fromkeys(spans, chosen),
        "runs": runs,
        "losses": {},
        "lists": [],
        "differences": {
            f"{p}: sidrank host - LightGBM": {"seeds": 2, "auc": span, "gauc": span}
            for p, span in spans.items()
        },
    }


def test_the_page_says_what_the_figures_say() -> None:
    report = made_up_report()
    assert picked(report, "per_user") == "sidrank host"
    assert best_peer(report, "per_user", "auc") == "LightGBM"
    page = movielens_peers(report)
    assert "| beats the best of them, AUC | per_user | confirmed | LightGBM |" in page
    assert "| by more than 0.01, AUC | per_user | confirmed |" in page
    assert "| is not worse than the best of them, GAUC | global_time | **denied** |" in page
    assert "Not run yet on `per_user`: torch-rechub DeepFM," in page
    turned = copy.deepcopy(report)
    turned["differences"]["per_user: sidrank host - LightGBM"]["auc"] = [0.005, -0.001, 0.01]
    assert "| beats the best of them, AUC | per_user | open |" in movielens_peers(turned)
    assert not_worse((0.0, -0.004, 0.01)) == "confirmed"
    assert not_worse((0.0, -0.006, 0.01)) == "open"
