"""Tokenizers by the name that `sidrank tokenize` knows them by, made anew or out of a bundle.

Shapes: ``N`` levels.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sidrank.cli.tokenize_items import Items
from sidrank.semantic_ids import SIDBundle
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ
from sidrank.tokenizers.protocol import Progress, Tokenizer
from sidrank.tokenizers.r3_vae import R3VAE
from sidrank.tokenizers.res_kmeans_fsq import ResKMeansFSQ
from sidrank.tokenizers.rq_kmeans import RQKMeans
from sidrank.tokenizers.rq_vae import RQVAE

__all__ = ["TOKENIZERS", "WEIGHED", "fit_tokenizer", "tokenizer_name", "tokenizer_of"]

TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {
    "rq-kmeans": RQKMeans,
    "rq-kmeans-fsq": ResKMeansFSQ,
    "rq-vae": RQVAE,
    "r3-vae": R3VAE,
    "capacity-rq": CapacityConstrainedRQ,
}
WEIGHED = ("rq-kmeans", "capacity-rq")
_SAMPLING = ("rq-kmeans", "rq-kmeans-fsq")  # draw their sample themselves
_UNSAMPLED = ("capacity-rq",)  # must see every item


def fit_tokenizer(
    name: str,
    items: Items,
    *,
    levels: Sequence[int],
    sample: int | None,
    seed: int,
    progress: Progress,
) -> Tokenizer:
    """Make a tokenizer and let it learn.

    Args:
        name: One of ``TOKENIZERS``.
        items: What to learn from.
        levels: Codebook sizes.
        sample: Items to learn from, drawn by the seed; None for all.
        seed: Seed of all sampling.
        progress: Told of every step.

    Returns:
        The fitted tokenizer.

    Raises:
        ValueError: If the tokenizer has no use for what it is given.
    """
    arguments: dict[str, Any] = {"levels": tuple(levels), "seed": seed}
    vectors, weights = items.vectors, items.weights
    if sample is not None:
        if name in _UNSAMPLED:
            raise ValueError(f"sample must not be given with {name}, which places every item")
        if name in _SAMPLING:
            arguments["sample"] = sample
        elif sample < len(vectors):
            drawn = np.random.default_rng(seed).choice(len(vectors), sample, replace=False)
            vectors = vectors[np.sort(drawn)]
    return TOKENIZERS[name](**arguments).fit(vectors, weights=weights, progress=progress)


def tokenizer_of(bundle: SIDBundle, path: os.PathLike[str]) -> tuple[str, Tokenizer]:
    """Bring the tokenizer of a bundle back to life.

    Args:
        bundle: The bundle.
        path: Where it lies, for the message.

    Returns:
        The name of the tokenizer, and the tokenizer.

    Raises:
        ValueError: If there is none in it, or not one of ours.
    """
    made_by = bundle.manifest["tokenizer"]
    if made_by is None or bundle.tokenizer_state is None:
        raise ValueError(f"{path} must hold the tokenizer that made it, got none")
    name = tokenizer_name(made_by["name"])
    if name not in TOKENIZERS:
        raise ValueError(
            f"{path} must hold a tokenizer of {', '.join(TOKENIZERS)}, got {made_by['name']}"
        )
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in made_by["arguments"].items()
    }
    try:
        return name, TOKENIZERS[name](**arguments).load_state_dict(bundle.tokenizer_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold a tokenizer that this version can read: {error}"
        ) from None


def tokenizer_name(kind: str) -> str:
    """Find the name of a class of tokenizers.

    Args:
        kind: Name of the class, as a manifest has it.

    Returns:
        The name; ``kind`` itself if it is not one of ours.
    """
    for name, made in TOKENIZERS.items():
        if getattr(made, "__name__", "") == kind:
            return name
    return kind
