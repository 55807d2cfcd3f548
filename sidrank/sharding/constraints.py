"""What TorchRec's planner cannot know of a table: how many rows a sample reads, and which.

The planner takes one value a sample for every feature it is told nothing about. That is right for
a user id and wrong for a bag: byte-pair units are several an item, a history is dozens of items
times their units, and each of them is a row fetched and an id sent. A plan made of such costs
puts the busiest tables anywhere. Here the factors are counted in batches of the log, behind the
expanders that the model itself puts in front of its collections.

Nor does it know which rows come again, so it cannot tell what a cache is worth. An access trace
can: with one and a budget, the constraints also say which tables lie in HBM, which keep a cache
there, and of what size.

Source: ours; TorchRec 1.8, ``ParameterConstraints.pooling_factors`` and ``cache_params``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    EmbeddingCollectionInterface,
)

from sidrank.embeddings.sid_features import SIDFeatures
from sidrank.sharding.cached_tables import Curves, cached_tables, curves_of, table_shapes

__all__ = ["constraints_for"]


def constraints_for(
    model: nn.Module,
    batches: Iterable[KeyedJaggedTensor] | None = None,
    *,
    base: Mapping[str, ParameterConstraints] | None = None,
    trace: Curves | None = None,
    budget_bytes: int | None = None,
    prefetch: bool = False,
) -> dict[str, ParameterConstraints]:
    """Constraints that tell the planner what each table's traffic is.

    From ``batches`` come pooling factors: the mean number of values of each feature. From
    ``trace`` come cache statistics and, with ``budget_bytes``, what the table gets of it: the
    kernel ``fused`` or a load factor. Sizes are per table: shard with
    ``fused_params={"use_one_tbe_per_table": True}``, and let ``verify_plan`` see that they hold.

    A feature that an expander makes is counted behind the one that serves the table: the nearest
    ``SIDExpander``, or what stands in its place, in the modules around the collection. Tables are
    not read, so a model on the meta device will do. Coverage counters stay as they were. A feature
    that never occurs counts as one value in all rows, since at a cost of zero its table is free.

    Args:
        model: The model, before ``DistributedModelParallel``.
        batches: Some sparse batches as the model gets them; a few thousand rows say enough. None
            leaves pooling factors as they are.
        base: Constraints to keep, such as ``compute_kernels``, by table name; what is found out
            here is replaced. It may name tables that the model does not have.
        trace: An ``AccessTrace`` of the model's tables, or their curves by name.
        budget_bytes: HBM for all tables over all GPUs. None with a trace gives statistics and
            leaves sizes to a proposer such as TorchRec's ``EmbeddingOffloadScaleupProposer``.
        prefetch: Whether the pipeline will fetch rows ahead, which takes a lock for each slot.

    Returns:
        Constraints by table name: those of ``base``, and one for each table of the model, with
        one pooling factor for each feature of the table.

    Raises:
        PlanError: If tables that ``base`` keeps whole take more than the budget, or rows would be
            fetched ahead into an LFU cache.
        TypeError: If a batch is no ``KeyedJaggedTensor``.
        ValueError: If the model holds no unsharded collection, if there is no batch with rows, if
            a feature is neither in the batch nor made by an expander, if two tables of one name
            read differently, which the planner could not tell apart, if the trace is not of the
            model's tables, or if neither batches nor a trace are given.

    Example:
        >>> from torchrec import EmbeddingBagCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> model = nn.Sequential(EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=9, feature_names=["history"])]))
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["history"], values=torch.arange(8), lengths=torch.tensor([3, 5]))
        >>> constraints_for(model, [batch])["t"].pooling_factors
        [4.0]
    """
    if batches is None and trace is None:
        raise ValueError("batches must be given where trace is not, got neither")
    if trace is None and budget_bytes is not None:
        raise ValueError(f"budget_bytes must be None without a trace, got {budget_bytes}")
    if trace is not None:
        shapes = table_shapes(model)
        curves = curves_of(trace, shapes)
        base, _ = cached_tables(shapes, curves, budget_bytes, base=base, prefetch=prefetch)
    if batches is None:
        return dict(base or {})
    return _pooled(model, batches, base)


def _pooled(
    model: nn.Module,
    batches: Iterable[KeyedJaggedTensor],
    base: Mapping[str, ParameterConstraints] | None,
) -> dict[str, ParameterConstraints]:
    """Constraints with one pooling factor for each feature of each table."""
    readers = list(_readers(model))
    if not readers:
        raise ValueError(
            f"model must hold an unsharded embedding collection, got {type(model).__name__}"
            " without one"
        )
    counted: list[dict[str, list[int]]] = [{} for _ in readers]
    rows = 0
    for batch in batches:
        if not isinstance(batch, KeyedJaggedTensor):
            raise TypeError(f"batches must be KeyedJaggedTensor each, got {type(batch).__name__}")
        rows += batch.stride()
        expanded: dict[int, dict[str, int]] = {}
        for (tables, expanders), counts in zip(readers, counted, strict=True):
            for table, features in tables.items():
                found = [_values(batch, name, table, expanders, expanded) for name in features]
                sums = counts.setdefault(table, [0] * len(found))
                counts[table] = [one + more for one, more in zip(sums, found, strict=True)]
    if rows == 0:
        raise ValueError("batches must have at least one row, got none")
    kept = dict(base or {})
    factors: dict[str, list[float]] = {}
    for counts in counted:
        for table, values in counts.items():
            mean = [max(count, 1) / rows for count in values]
            if factors.setdefault(table, mean) != mean:
                raise ValueError(
                    f"model must read all tables of one name alike, got pooling factors"
                    f" {factors[table]} and {mean} for {table}"
                )
    for table, mean in factors.items():
        kept[table] = replace(kept.get(table, ParameterConstraints()), pooling_factors=mean)
    return kept


def _readers(
    model: nn.Module,
) -> Iterator[tuple[dict[str, Sequence[str]], list[SIDFeatures]]]:
    """Each collection's tables with their features, and the expanders around it, nearest first."""
    for path, part in model.named_modules():
        if isinstance(part, EmbeddingBagCollectionInterface):
            configs = part.embedding_bag_configs()
        elif isinstance(part, EmbeddingCollectionInterface):
            configs = part.embedding_configs()
        else:
            continue
        expanders: list[SIDFeatures] = []
        names = path.split(".") if path else []
        for depth in range(len(names) - 1, -1, -1):
            around = model.get_submodule(".".join(names[:depth]))
            expanders += [child for child in around.children() if isinstance(child, SIDFeatures)]
        yield {config.name: config.feature_names for config in configs}, expanders


def _values(
    batch: KeyedJaggedTensor,
    name: str,
    table: str,
    expanders: Sequence[SIDFeatures],
    expanded: dict[int, dict[str, int]],
) -> int:
    """How many values a feature has in a batch."""
    for expander in expanders:
        if any(name in expander.feature_names(key) for key in expander.keys):
            if id(expander) not in expanded:
                expanded[id(expander)] = _counts(_uncounted(expander, batch))
            return expanded[id(expander)][name]
    if name not in batch.keys():  # noqa: SIM118 (a method of the batch)
        raise ValueError(
            f"batches must contain the feature {name} of the table {table}, got {batch.keys()}"
        )
    own = expanded.setdefault(0, {})
    if not own:
        own.update(_counts(batch))
    return own[name]


def _counts(batch: KeyedJaggedTensor) -> dict[str, int]:
    return dict(zip(batch.keys(), batch.length_per_key(), strict=True))


def _uncounted(expander: SIDFeatures, batch: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Expand a batch that the coverage of the model shall not know of."""
    counters = [cast(Tensor, part.counts) for part in expander.modules() if hasattr(part, "counts")]
    before = [counter.clone() for counter in counters]
    try:
        with torch.no_grad():
            return expander(batch)
    finally:
        for counter, old in zip(counters, before, strict=True):
            counter.copy_(old)
