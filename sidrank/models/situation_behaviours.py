"""Candidates, histories and situations as vectors, out of a batch.

Items and the situation fields that behaviours and requests share (hour, place, ...) come from two
stock ``EmbeddingCollection``: large tables that shard as any other. What only a behaviour has, its
type and how long ago it was, and further numbers of it, is embedded here, by small layers.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``E`` width of an item, ``F`` fields of a
behaviour, ``R`` of the request, ``D`` width of a field.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.towers import situation_fields
from sidrank.towers.situation_fields import SituationFields

__all__ = ["SituationBehaviours"]


class SituationBehaviours(nn.Module):
    """What a ``SituationTower`` reads, from one batch.

    Types, times and numbers are features of integers, one a behaviour; the time of the request is
    one a row. Where a row has no request time, or a behaviour's time is the smallest int64
    (``NaT``), nobody can say what came first, and the tower does not see it. A number below 0 is
    not known. Ids of the shared tables must be rows of them, as in any collection: give values
    that your vocabulary does not hold a row of their own.

    Args:
        items: Candidates and histories.
        situations: Shared fields, those of the request in the place of one candidate, all of width
            ``D``; of the same ``max_length``.
        own: Embeds the type (its one category), the time passed and then each of ``numbers``.
        types: Feature with the types of behaviours; 0 is not known.
        times: Features with the times of behaviours and of the request, in one unit.
        numbers: Features with further numbers of behaviours, read as ``log(1 + n)``.

    Raises:
        ValueError: If the parts do not fit each other.

    Example:
        >>> from torchrec import EmbeddingCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> def tables(name, width):
        ...     return EmbeddingCollection(tables=[EmbeddingConfig(name=name, num_embeddings=9,
        ...         embedding_dim=width, feature_names=[name, f"seen_{name}"])])
        >>> behaviours = SituationBehaviours(
        ...     ItemBehaviours(
        ...         tables("item", 8), target=["item"], history=["seen_item"], max_length=5),
        ...     ItemBehaviours(
        ...         tables("hour", 4), target=["hour"], history=["seen_hour"], max_length=5),
        ...     own=SituationFields(dim=4, categories=[3], numbers=1))
        >>> behaviours.dim, behaviours.num_fields, behaviours.num_request_fields
        (8, 3, 1)
    """

    def __init__(
        self,
        items: ItemBehaviours,
        situations: ItemBehaviours,
        *,
        own: SituationFields,
        types: str = "seen_type",
        times: tuple[str, str] = ("seen_time", "time"),
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if situations.max_length != items.max_length:
            raise ValueError(
                f"situations must have the max_length {items.max_length}, "
                f"got {situations.max_length}"
            )
        if situations.num_candidates != 1:
            raise ValueError(
                f"situations must have one request a row, got {situations.num_candidates}"
            )
        wanted = 2 + len(numbers)
        if len(own.sizes) != 1 or own.num_fields != wanted:
            raise ValueError(
                f"own must have 1 category and {wanted - 1} numbers, got {len(own.sizes)} "
                f"and {own.num_fields - len(own.sizes)}"
            )
        if situations.dim % own.dim:
            raise ValueError(
                f"situations must have fields of width {own.dim}, got {situations.dim} together"
            )
        self.items = items
        self.situations = situations
        self.own = own
        self.dim = items.dim
        self.num_types = own.sizes[0]
        self.num_request_fields = situations.dim // own.dim
        self.num_fields = self.num_request_fields + own.num_fields
        self._ids = [*items._history, *situations._history]  # pyright: ignore[reportPrivateUsage]
        self._seen = [types, times[0], *numbers]
        self._now = times[1]

    def forward(
        self, features: KeyedJaggedTensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Look everything up.

        Args:
            features: The batch.

        Returns:
            What ``SituationTower`` takes, in its order: candidates ``[B, C, E]``, histories
            ``[B, L, E]``, their fields ``[B, L, F, D]``, those of the request ``[B, R, D]``,
            types ``[B, L]``, which behaviours are real ``[B, L]``, their times ``[B, L]`` and
            that of the request ``[B]``.

        Raises:
            ValueError: If the features of a behaviour are not as many.
        """
        return self.read(features, self.items.num_candidates)

    def read(
        self, features: KeyedJaggedTensor, candidates: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The same with room for another number of candidates.

        Args:
            features: The batch.
            candidates: Candidates of a row, ``C``.

        Returns:
            As ``forward``.
        """
        target, history, mask = self.items.read(features, candidates)
        asked, shared, _ = self.situations(features)
        columns, now = _numbers(features, self._ids, self._seen, self._now, mask)
        types, times = columns[:, :, 0], columns[:, :, 1]
        gap = situation_fields.elapsed(times, now).unsqueeze(2)
        passed = torch.cat([gap, _logarithm(columns[:, :, 2:])], dim=2)
        own = self.own(types.unsqueeze(2), passed)
        width = (-1, self.own.dim)
        situation = torch.cat([shared.unflatten(2, width), own], dim=2)
        request = asked.squeeze(1).unflatten(1, width)
        return target, history, situation, request, types, mask, times, now


@torch.fx.wrap
def _numbers(
    features: KeyedJaggedTensor, ids: list[str], seen: list[str], now: str, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Integers of the newest behaviours ``[B, L, n]``, as long as the mask is, and of requests."""
    rows, length = mask.shape
    if not torch.compiler.is_compiling():  # where these numbers are not known
        counts = {name: features[name].values().shape[0] for name in (*ids, *seen)}
        if len(set(counts.values())) > 1:
            raise ValueError(f"a behaviour must be one number in each feature, got {counts}")
    columns: list[Tensor] = []
    for name in seen:
        feature = features[name]
        values, lengths = feature.values(), feature.lengths().long()
        kept = lengths.clamp(max=length).unsqueeze(1)
        places = torch.arange(length, device=values.device)
        index = lengths.cumsum(0).unsqueeze(1) - kept + places
        padded = nn.functional.pad(values, (0, 1))
        index = torch.where(places < kept, index, values.shape[0])
        columns.append(padded.index_select(0, index.flatten()).view(rows, length))
    feature = features[now]
    values, lengths = feature.values(), feature.lengths().long()
    never = torch.iinfo(values.dtype).min
    padded = nn.functional.pad(values, (0, 1), value=never)
    last = torch.where(lengths > 0, lengths.cumsum(0) - 1, values.shape[0])
    return torch.stack(columns, dim=2), padded.index_select(0, last)


@torch.fx.wrap
def _logarithm(numbers: Tensor) -> Tensor:
    known = numbers >= 0
    return torch.where(known, torch.log1p(torch.where(known, numbers, 0).float()), torch.nan)
