import numpy as np
import torch

from sidrank.demo.arms import build_arm, make_host
from sidrank.demo.settings import Recipe
from sidrank.demo.training import fit, make_optimizer, predict
from sidrank.metrics import auc

RECIPE = Recipe(width=4, hidden=16, epochs=4, batch=128, lr=5e-3, table_lr=5e-3)


def host(fold, seed=0):
    torch.manual_seed(seed)
    return make_host(fold.features, RECIPE)


def test_it_learns(fold):
    model = host(fold)
    before = auc(fold.labels, predict(model, fold.batches, fold.judge))
    fit(model, fold.batches, fold.learn, RECIPE, seed=0)
    after = auc(fold.labels, predict(model, fold.batches, fold.judge))
    assert after > max(0.6, before + 0.05)


def test_same_seed_same_model(fold):
    scores = []
    for _ in range(2):
        model = host(fold)
        fit(model, fold.batches, fold.learn, RECIPE, seed=3)
        scores.append(predict(model, fold.batches, fold.judge))
    assert np.array_equal(*scores)


def test_prediction_is_blind_to_the_batch(fold):
    model = host(fold)
    together = predict(model, fold.batches, fold.judge[:20])
    alone = [predict(model, fold.batches, fold.judge[i : i + 1])[0] for i in range(20)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_each_parameter_has_one_group(fold):
    model = build_arm(
        "hybrid_memorization",
        features=fold.features,
        table=fold.table,
        vectors=fold.vectors,
        recipe=RECIPE,
        seed=0,
    )
    groups = [set(part.params) for _, part in make_optimizer(model, RECIPE).optimizers]
    assert len(groups) == 5
    assert sorted(name for group in groups for name in group) == sorted(
        name for name, _ in model.named_parameters()
    )
    branch = next(group for group in groups if any("embedding_bags.sid_" in n for n in group))
    assert all(".embedding_bags." in name for name in branch)


def test_a_batch_is_its_rows(fold):
    rows = torch.tensor([5, 2, 9])
    dense, sparse, label = fold.batches.cut(rows)
    features = fold.features
    assert dense.tolist() == features.dense[rows].tolist()
    assert label.tolist() == features.label[rows].tolist()
    for name, ids in features.single.items():
        assert sparse[name].values().tolist() == ids[rows].tolist()
    for name, ids in features.multi.items():
        expected = [[i for i in ids[row] if i >= 0] for row in rows]
        got = [bag.tolist() for bag in sparse[name].to_dense()]
        assert got == expected
