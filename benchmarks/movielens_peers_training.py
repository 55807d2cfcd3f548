"""How every ranker of the MovieLens study is trained and tuned: one loop, the same trials for all.

AdamW in two groups (tables and the rest), the running average of the weights is what is judged. A
trial learns from the train rows and is judged on those of validation after each pass; the best pass
of the best trial is the setting, and its number of passes is kept. A final run learns from both
parts for so many passes and is judged on the test rows, once.

The regression has as many trials, LightGBM twice as many; it stops early like the others.

Shapes: ``R`` rows, ``B`` rows of a step.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.movielens_peers_models import PEERS
from benchmarks.movielens_peers_ours import OURS, Knobs, least_squares
from benchmarks.movielens_peers_rows import UNSEEN, PeerRows
from sidrank.losses import neural_ndcg
from sidrank.metrics import auc, ndcg

__all__ = ["MODELS", "Listwise", "final", "learn", "predict", "trials", "tune", "tune_listwise"]

PASSES, PATIENCE, BATCH, KEPT = 12, 2, 1024, 0.97
MODELS: dict[str, Callable[[PeerRows, Knobs], nn.Module]] = {**PEERS, **OURS}
_NEURAL: tuple[dict[str, Any], ...] = (
    {"dropout": 0.2, "rate": 1e-3, "table_rate": 1e-3, "table_decay": 1.0, "unseen": 0.1},
    {"dropout": 0.4, "rate": 1e-3, "table_rate": 3e-3, "table_decay": 3.0, "unseen": 0.1}
    | {"width": 16, "hidden": [64, 32]},
    {"dropout": 0.0, "rate": 2e-3, "table_rate": 1e-3, "table_decay": 3.0, "unseen": 0.0},
    {"dropout": 0.4, "rate": 5e-4, "table_rate": 3e-3, "table_decay": 1.0, "unseen": 0.2}
    | {"hidden": [32]},
    {"dropout": 0.2, "rate": 2e-3, "table_rate": 1e-3, "table_decay": 30.0, "unseen": 0.1}
    | {"hidden": [256]},
)
_TREES: tuple[dict[str, Any], ...] = tuple(
    {
        "num_leaves": leaves,
        "learning_rate": rate,
        "min_child_samples": least,
        "colsample_bytree": share,
        "reg_lambda": 10.0,
        "categorical": categorical,
    }
    for leaves, rate, least, share, categorical in (
        (15, 0.05, 50, 0.4, False),
        (31, 0.03, 100, 0.4, False),
        (7, 0.1, 20, 0.4, False),
        (15, 0.05, 50, 0.4, True),
        # more than the others have, as it is the one to beat
        (31, 0.02, 50, 0.2, False),
        (63, 0.02, 200, 0.2, False),
        (31, 0.03, 200, 0.7, False),
        (15, 0.03, 100, 0.2, False),
        (63, 0.015, 100, 0.1, False),
        (23, 0.02, 100, 0.3, False),
    )
)
_PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)

_MOST_TREES = 1500

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Listwise:
    """NeuralNDCG beside or instead of the cross-entropy.

    Attributes:
        weight: Of NeuralNDCG.
        pointwise: Of the cross-entropy.
        temperature: Of NeuralNDCG.
    """

    weight: float = 0.0
    pointwise: float = 1.0
    temperature: float = 1.0


def trials(name: str) -> list[dict[str, Any]]:
    """Settings to try, the same for every ranker of a kind."""
    if name == "LR":
        return [{"C": penalty} for penalty in _PENALTIES]
    return list(_TREES if name.startswith("LightGBM") else _NEURAL)


def learn(
    model: nn.Module,
    rows: PeerRows,
    knobs: Knobs,
    *,
    passes: int,
    seed: int,
    listwise: Listwise | None = None,
) -> Iterator[nn.Module]:
    """Train; after each pass the average of the weights so far."""
    optimizer = torch.optim.AdamW(
        [
            {"params": part, "lr": rate, "weight_decay": decay}
            for part, rate, decay in zip(
                _groups(model),
                (knobs.table_rate, knobs.rate),
                (knobs.table_decay, knobs.decay),
                strict=True,
            )
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    average, step = copy.deepcopy(model), 0
    for _ in range(passes):
        model.train()
        for part in _parts(rows, generator, whole_requests=listwise is not None):
            batch = rows.cut(part)
            for field in ("user", "item"):
                hidden = torch.rand(len(part), generator=generator) < knobs.unseen
                batch.ids[field] = torch.where(hidden, UNSEEN, batch.ids[field])
            loss = _loss(model(batch), rows, part, listwise or Listwise())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            _follow(average, model, min(KEPT, (1 + step) / (10 + step)))
        yield average


def _groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    tables, others = [], []
    for part in model.modules():
        kind = tables if isinstance(part, nn.Embedding) else others
        kind += list(part.parameters(recurse=False))
    return tables, others


def _parts(rows: PeerRows, generator: torch.Generator, *, whole_requests: bool) -> list[Tensor]:
    place = rows.parts["learn"]
    if not whole_requests:
        return list(place[torch.randperm(len(place), generator=generator)].split(BATCH))
    request = torch.from_numpy(rows.request)[place]
    rank = torch.randperm(int(request.max()) + 1, generator=generator)
    order = torch.argsort(rank[request], stable=True)
    ordered = rank[request][order]
    ends = np.flatnonzero(np.diff(ordered.numpy(), append=-1)) + 1
    cuts = ends[
        np.searchsorted(ends, np.arange(BATCH, len(place) + BATCH, BATCH).clip(max=len(place)))
    ]
    return [place[order[a:b]] for a, b in itertools.pairwise([0, *np.unique(cuts)])]


def _loss(logits: Tensor, rows: PeerRows, part: Tensor, listwise: Listwise) -> Tensor:
    label = rows.label[part]
    loss = listwise.pointwise * binary_cross_entropy_with_logits(logits, label)
    if listwise.weight:
        request = torch.from_numpy(rows.request[part.numpy()])
        listed = neural_ndcg(logits, label, request, temperature=listwise.temperature)
        loss = loss + listwise.weight * listed
    return loss


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, kept: float) -> None:
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mine, theirs in pairs:
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - kept)
        else:
            mine.copy_(theirs)


@torch.no_grad()
def predict(model: nn.Module, rows: PeerRows, part: str = "judge") -> Floats:
    """Logits of the judged rows, or of those learnt from."""
    model.eval()
    parts = rows.parts[part].split(2048)
    return torch.cat([model(rows.cut(part)).double() for part in parts]).numpy()


def tune(name: str, rows: PeerRows, setting: dict[str, Any]) -> dict[str, Any]:
    """One trial: the setting with its passes and its validation AUC."""
    begin = time.process_time()
    labels = rows.label[rows.parts["judge"]].numpy()
    if name == "LR":
        value, passes = auc(labels, _regression(rows, setting)[0]), 0
    elif name.startswith("LightGBM"):
        found = _trees(name, rows, setting, seed=0, trees=None)
        value, passes = auc(labels, found[0]), found[1]
    else:
        torch.manual_seed(0)
        knobs = _knobs(setting)
        model, value, passes = MODELS[name](rows, knobs), 0.0, 0
        for done, average in enumerate(learn(model, rows, knobs, passes=PASSES, seed=0), start=1):
            score = auc(labels, predict(average, rows))
            if score > value:
                value, passes = score, done
            elif done - passes >= PATIENCE:
                break
    seconds = time.process_time() - begin
    return {"setting": setting, "passes": passes, "auc": float(value), "seconds": seconds}


def final(
    name: str,
    rows: PeerRows,
    chosen: dict[str, Any],
    *,
    seed: int,
    listwise: Listwise | None = None,
    part: str = "judge",
) -> tuple[Floats, int]:
    """Logits of the judged rows and the number of parameters (of LightGBM: of trees)."""
    setting = chosen["setting"]
    if name == "LR":
        return _regression(rows, setting)
    if name.startswith("LightGBM"):
        return _trees(name, rows, setting, seed=seed, trees=chosen["passes"])
    torch.manual_seed(seed)
    knobs = _knobs(setting)
    model = MODELS[name](rows, knobs)
    passes = learn(model, rows, knobs, passes=chosen["passes"], seed=seed, listwise=listwise)
    *_, average = passes
    return predict(average, rows, part), sum(p.numel() for p in model.parameters())


def _knobs(setting: dict[str, Any]) -> Knobs:
    return Knobs(**{**setting, "hidden": tuple(setting.get("hidden", (64,)))})


def _regression(rows: PeerRows, setting: dict[str, Any]) -> tuple[Floats, int]:
    blocks = [csr_matrix(rows.numbers.numpy().astype(np.float64))]
    for name, ids in {**rows.ids, "genres": rows.genres}.items():
        table = ids.numpy().reshape(len(ids), -1)
        row, slot = np.nonzero(table)
        shape = (len(ids), rows.sizes[name])
        blocks.append(csr_matrix((np.ones(len(row)), (row, table[row, slot])), shape=shape))
    columns = csr_matrix(hstack(blocks))
    learned, judged = rows.parts["learn"].numpy(), rows.parts["judge"].numpy()
    model = LogisticRegression(C=setting["C"], max_iter=400)
    model.fit(columns[learned], rows.label.numpy()[learned])
    scores = np.asarray(model.decision_function(columns[judged]), dtype=np.float64)
    return scores, int(model.coef_.size) + 1


def _trees(
    name: str, rows: PeerRows, setting: dict[str, Any], *, seed: int, trees: int | None
) -> tuple[Floats, int]:
    """Scores and number of trees; stops early if that is not given."""
    ids = np.stack([ids.numpy() for field, ids in rows.ids.items() if "bucket" not in field], 1)
    genres = np.zeros((len(ids), rows.sizes["genres"]))
    np.put_along_axis(genres, rows.genres.numpy(), 1.0, axis=1)
    numbers = [rows.numbers.numpy()]
    if name.endswith("least squares"):
        numbers.append(least_squares(rows).numpy())
    wide = np.concatenate(numbers, axis=1)
    columns = np.concatenate([ids, genres, wide], axis=1)
    learned, judged = rows.parts["learn"].numpy(), rows.parts["judge"].numpy()
    label = rows.label.numpy()
    options = {key: value for key, value in setting.items() if key != "categorical"}
    lightgbm = import_module("lightgbm")
    model = lightgbm.LGBMClassifier(
        **options,
        n_estimators=_MOST_TREES if trees is None else trees,
        subsample=0.8,
        subsample_freq=1,
        random_state=seed,
        n_jobs=1,
        verbose=-1,
    )
    stop: dict[str, Any] = {}
    if trees is None:
        stop = {
            "eval_set": [(columns[judged], label[judged])],
            "eval_metric": "auc",
            "callbacks": [lightgbm.early_stopping(25, first_metric_only=True, verbose=False)],
        }
    known = list(range(ids.shape[1])) if setting["categorical"] else "auto"
    model.fit(columns[learned], label[learned], categorical_feature=known, **stop)
    number = int(model.best_iteration_ or 0) if trees is None else trees
    scores = model.predict(columns[judged], raw_score=True, num_iteration=number)
    return np.asarray(scores, dtype=np.float64), number


def tune_listwise(
    name: str, rows: PeerRows, chosen: dict[str, Any], listwise: Listwise
) -> dict[str, Any]:
    """One trial of a loss: passes and nDCG@1 on the judged rows of validation."""
    part = rows.parts["judge"].numpy()
    labels, requests = rows.label.numpy()[part].astype(np.int64), rows.request[part]
    torch.manual_seed(0)
    knobs = _knobs(chosen["setting"])
    model, value, passes = MODELS[name](rows, knobs), 0.0, 0
    averages = learn(model, rows, knobs, passes=PASSES, seed=0, listwise=listwise)
    for done, average in enumerate(averages, start=1):
        score = ndcg(labels, predict(average, rows), requests, k=1)
        if score > value:
            value, passes = score, done
    return {"listwise": asdict(listwise), "passes": passes, "ndcg@1": float(value)}
