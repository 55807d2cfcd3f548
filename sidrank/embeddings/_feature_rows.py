"""New features of a batch: from numbers to table rows, and into the ``KeyedJaggedTensor``.

``append`` is called through this module (``_feature_rows.append(...)``), see ``sidrank._check``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

__all__ = ["INT32_MAX", "append", "check_tables", "group_number", "hashed_row", "mix"]

INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


def mix(x: Tensor) -> Tensor:
    """Bijective mix of 64 bits (the finaliser of SplitMix64, in two's complement).

    Args:
        x: Any int64.

    Returns:
        Numbers of the same shape; 0 stays 0.
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def hashed_row(x: Tensor, rows: int) -> Tensor:
    """Row of a number in a table that is smaller than the numbers are many.

    Args:
        x: Any int64.
        rows: Rows of the table.

    Returns:
        Rows in ``[0, rows)``, of the same shape.
    """
    return (mix(x) & _INT64_MAX) % rows


def group_number(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """One number for the codes of a group of levels, by mixed radix in 64 bits.

    Args:
        codes: Codes of each level of the group, int64 ``[n]``.
        sizes: Codebook size of each.

    Returns:
        Numbers, int64 ``[n]``: one to one where they fit, hashed on the way where they do not.
    """
    number, space = codes[0], sizes[0]
    for code, size in zip(codes[1:], sizes[1:], strict=True):
        if space * size > _INT64_MAX:  # digits no longer fit: hash what there is, go on
            number = mix(number)
        number = torch.add(code, number, alpha=size)
        space = min(space * size, _INT64_MAX)
    return number


def check_tables(
    needed: Sequence[EmbeddingBagConfig], tables: Sequence[EmbeddingBagConfig]
) -> None:
    """Check that each new feature is read once, by a table with enough rows.

    Args:
        needed: Configs that would do.
        tables: Configs that are to be used.

    Raises:
        ValueError: If a feature is read by no table, by two, or by one that is too small, or
            if a table reads another feature.
    """
    rows = {name: config.num_embeddings for config in needed for name in config.feature_names}
    read = [name for config in tables for name in config.feature_names]
    if sorted(read) != sorted(rows):
        raise ValueError(
            f"tables must read each feature of the expander once, {sorted(rows)},"
            f" got {sorted(read)}"
        )
    for config in tables:
        for name in config.feature_names:
            if config.num_embeddings < rows[name]:
                raise ValueError(
                    f"tables must have {rows[name]} rows for {name},"
                    f" got {config.num_embeddings} in {config.name}"
                )


@torch.fx.wrap
def append(
    features: KeyedJaggedTensor,
    names: list[str],
    ids: list[Tensor],
    bags: list[JaggedTensor],
) -> KeyedJaggedTensor:
    """Put features behind those of a batch.

    Args:
        features: The batch.
        names: The new features, all of the first bags, then all of the second, ...
        ids: Table rows for each entry of ``bags``, shape ``[R, n]``: ``R`` features.
        bags: Whose lengths and weights the rows have.

    Returns:
        The batch with the new features; ids have the batch's dtype.

    Raises:
        ValueError: If the batch already holds one of the names.
    """
    values = [features.values()]
    lengths = [features.lengths()]
    length_per_key = features.length_per_key()
    own = features.keys()
    for name in names:
        if name in own:
            raise ValueError(f"features must not hold the key {name}, got {own}")
    weights_or_none = features.weights_or_none()
    weights = [] if weights_or_none is None else [weights_or_none]
    for rows, bag in zip(ids, bags):  # noqa: B905 (TorchScript has no strict)
        values.append(rows.flatten().to(features.values().dtype))
        for _ in range(rows.size(0)):
            lengths.append(bag.lengths())
            if weights_or_none is not None:
                weights.append(bag.weights())
        length_per_key = length_per_key + [rows.size(1)] * rows.size(0)
    return KeyedJaggedTensor(
        keys=features.keys() + names,
        values=torch.cat(values),
        weights=None if weights_or_none is None else torch.cat(weights),
        lengths=torch.cat(lengths),
        stride=features.stride(),
        length_per_key=length_per_key,
    )
