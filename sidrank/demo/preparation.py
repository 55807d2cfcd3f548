"""One fold of one protocol, ready to train on: rows, features, item vectors, semantic IDs.

Shapes: ``R`` rows of the fold, ``V`` items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidrank.data import MovieLens
from sidrank.demo.features import Features, make_features
from sidrank.demo.item_vectors import ItemVectors, make_item_vectors
from sidrank.demo.protocols import FOLDS, Split, make_split
from sidrank.demo.settings import VectorRecipe
from sidrank.demo.training import Batches
from sidrank.semantic_ids import SIDSpec, SIDTable
from sidrank.tokenizers import RQKMeans

__all__ = ["Fold", "make_table", "prepare"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """Everything that the arms of one fold share.

    Attributes:
        split: How the log is cut.
        features: Features of its rows and their cold twins.
        batches: The same as tensors.
        learn: Rows to train on, positions below ``R``.
        judge: Rows to be judged on, positions below ``R``.
        users: User of each judged row.
        labels: Label of each judged row.
        frequency: Training rows of each judged row's item.
        head: Which judged rows have an item of the most frequent fifth in training, bool.
        vectors: Item vectors.
        tokenizer: What made the codes.
        table: Semantic IDs of the items.
    """

    split: Split
    features: Features
    batches: Batches
    learn: Ints
    judge: Ints
    users: Ints
    labels: Ints
    frequency: Ints
    head: NDArray[np.bool_]
    vectors: ItemVectors
    tokenizer: RQKMeans
    table: SIDTable


def prepare(
    data: MovieLens, protocol: str, seed: int, recipe: VectorRecipe, *, validate: bool = False
) -> Fold:
    """Prepare a fold.

    Args:
        data: The log.
        protocol: One of ``protocols.PROTOCOLS``.
        seed: In ``cold_items`` it chooses the fold, ``seed % 5``.
        recipe: How vectors and codes are made.
        validate: Judge on the validation rows instead of training on them: for choosing
            settings. Test rows are not touched then.

    Returns:
        The fold.
    """
    split = make_split(data, protocol, fold=seed % FOLDS if protocol == "cold_items" else 0)
    learn, judge = split.train, split.validation
    if not validate:
        known = split.validation[~np.isin(data.item[split.validation], split.cold_items)]
        learn, judge = np.sort(np.concatenate([learn, known])), split.test
    features = make_features(data, split, learn)
    frequency = np.bincount(data.item_index[learn], minlength=len(data.item_ids))
    seen = np.sort(frequency[frequency > 0])
    head = frequency >= max(seen[int(0.8 * len(seen))], 1)
    vectors = make_item_vectors(data, split.vector_rows, weights=recipe.weights)
    tokenizer, table = make_table(data, vectors, recipe)
    return Fold(
        split=split,
        features=features,
        batches=Batches(features),
        learn=np.searchsorted(features.rows, learn),
        judge=np.searchsorted(features.rows, judge),
        users=data.user[judge],
        labels=data.label[judge],
        frequency=frequency[data.item_index[judge]],
        head=head[data.item_index[judge]],
        vectors=vectors,
        tokenizer=tokenizer,
        table=table,
    )


def make_table(
    data: MovieLens, vectors: ItemVectors, recipe: VectorRecipe
) -> tuple[RQKMeans, SIDTable]:
    """Quantise the item vectors.

    Args:
        data: The items.
        vectors: Their vectors.
        recipe: Codebook sizes.

    Returns:
        The tokenizer and the table of codes.
    """
    tokenizer = RQKMeans(levels=recipe.levels).fit(vectors.vectors)
    codes = np.asarray(tokenizer.encode(vectors.vectors))
    return tokenizer, SIDTable(data.item_ids, codes, spec=SIDSpec(recipe.levels))
