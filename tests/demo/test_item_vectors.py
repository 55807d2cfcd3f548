import dataclasses

import numpy as np

from sidrank.demo.item_vectors import make_item_vectors
from sidrank.demo.protocols import make_split


def test_labels_of_the_rankers_rows_reach_no_vector(log):
    split = make_split(log, "per_user")
    rating = log.rating.copy()
    ours = np.concatenate([split.train, split.validation, split.test])
    rating[ours] = 6 - rating[ours]
    one = make_item_vectors(log, split.vector_rows)
    two = make_item_vectors(dataclasses.replace(log, rating=rating), split.vector_rows)
    assert np.array_equal(one.vectors, two.vectors)
    theirs = log.rating.copy()
    theirs[split.vector_rows] = 6 - theirs[split.vector_rows]
    three = make_item_vectors(dataclasses.replace(log, rating=theirs), split.vector_rows)
    assert not np.array_equal(one.vectors, three.vectors)


def test_weights_are_the_size_of_the_parts(log):
    made = make_item_vectors(
        log, np.arange(len(log.user)), like_dim=8, text_dim=8, weights=(1.0, 2.0, 0.5, 0.0)
    )
    square = (made.vectors.astype(np.float64) ** 2).mean(axis=0)
    np.testing.assert_allclose(square[:8].sum(), 1, rtol=1e-3)
    np.testing.assert_allclose(square[8:10], [4, 0.25], rtol=1e-3)
    assert not square[10:].any()


def test_scalars_find_the_liked_and_the_shown(log):
    made = make_item_vectors(log, np.arange(len(log.user)))
    shown = np.bincount(log.item_index, minlength=len(log.item_ids))
    likes = np.bincount(log.item_index, weights=log.label, minlength=len(log.item_ids))
    assert np.corrcoef(made.scalars[:, 0], likes / np.maximum(shown, 1))[0, 1] > 0.8
    assert np.corrcoef(made.scalars[:, 1], np.log1p(shown))[0, 1] > 0.99


def test_same_seed_same_vectors(log):
    rows = np.arange(0, len(log.user), 2)
    one, two = make_item_vectors(log, rows), make_item_vectors(log, rows)
    assert np.array_equal(one.vectors, two.vectors)
