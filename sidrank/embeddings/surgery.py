"""Swap an embedding collection inside a model whose constructor is not ours to call.

Source: ours.
"""

from collections.abc import Callable

from torch import nn
from torchrec import EmbeddingBagCollection

__all__ = ["replace_embeddings"]


def replace_embeddings(
    model: nn.Module,
    path: str,
    wrap: Callable[[EmbeddingBagCollection], nn.Module],
) -> nn.Module:
    """Replace the collection at ``path`` by what ``wrap`` makes of it, in place.

    Do it before ``DistributedModelParallel``: a sharded collection can no longer be wrapped.
    Every name under which the model holds the same collection is replaced.

    Args:
        model: Any model.
        path: Dotted name of the collection, as in ``model.named_modules()``, such as
            ``sparse_arch.embedding_bag_collection``.
        wrap: Takes the collection and returns its replacement, such as
            ``lambda host: HybridEmbeddingBagCollection(host, tables, expander=..., gates=...)``.

    Returns:
        The replacement that is now part of the model.

    Raises:
        ValueError: If there is no module at ``path``, or no collection in the model.
        TypeError: If the module is not exactly an ``EmbeddingBagCollection``.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> model = nn.ModuleDict({"ebc": EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=2, feature_names=["f"])])})
        >>> type(replace_embeddings(model, "ebc", lambda host: nn.Sequential(host))).__name__
        'Sequential'
    """
    places = dict(model.named_modules(remove_duplicate=False))
    host = places.get(path)
    if not path or host is None:
        collections = [n for n, m in places.items() if type(m) is EmbeddingBagCollection]
        if not collections:
            raise ValueError(
                "model must hold an EmbeddingBagCollection, got none (sharded already?)"
            )
        raise ValueError(f"path must be one of {collections}, got {path!r}")
    if type(host) is not EmbeddingBagCollection:
        raise TypeError(
            f"path must lead to exactly an EmbeddingBagCollection, got {type(host).__qualname__}"
            f" at {path}"
        )
    replacement = wrap(host)
    for name in [name for name, module in places.items() if module is host]:
        model.set_submodule(name, replacement)
    return replacement
