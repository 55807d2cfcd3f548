"""Bags of byte-pair units: what ``SIDExpander`` needs to serve a ``SIDBPE``.

Of items that a ``RawIDSource`` knows the units are spelled once, when the expander is built, and
take the place of the codes in its lookup. Codes that arrive with the batch (``CodeFeatureSource``)
are spelled in the model, by ``SIDUnitEncoder``.

How many units a batch has is known only once they are found, so this mode, unlike the others,
makes the host wait once for a count (as TorchRec does for the lengths of any batch it shards).

Source: ours.

Shapes: ``n`` ids of a feature in the whole batch, ``N`` levels, ``B`` bags, ``u`` units.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from sidrank.embeddings.sid_sources import CodeFeatureSource, RawIDSource
from sidrank.semantic_ids import SIDLookup, SIDVersionError
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder

__all__ = ["UnitVersion", "unit_bag", "unit_sources"]


class UnitVersion(nn.Module):
    """Remembers in checkpoints which merges the rows of the unit table belong to.

    Args:
        content_hash: Content hash of the merges.
    """

    def __init__(self, content_hash: str) -> None:
        super().__init__()
        self.content_hash = content_hash

    def get_extra_state(self) -> str:
        """The content hash of the merges."""
        return self.content_hash

    def set_extra_state(self, state: str) -> None:
        """Refuse a checkpoint whose rows belong to other units.

        Args:
            state: What ``get_extra_state`` returned when the checkpoint was written.

        Raises:
            SIDVersionError: If the hashes differ.
        """
        if state != self.content_hash:
            raise SIDVersionError(
                f"checkpoint must hold units of the SIDBPE {self.content_hash}, got {state}"
            )


def unit_sources(sources: Sequence[RawIDSource | CodeFeatureSource], bpe: SIDBPE) -> nn.ModuleList:
    """Make sources return units in place of codes; the given ones stay as they are.

    Args:
        sources: Where the codes come from.
        bpe: The merges.

    Returns:
        For each source one that returns units, shape ``[n, N]``, left-aligned, -1 behind the
        last and throughout for an unknown item; and the bags the ids came in.
    """
    spelled: dict[int, SIDLookup] = {}  # sources that share a lookup go on sharing one
    encoder = SIDUnitEncoder(bpe)
    found = nn.ModuleList()
    for source in sources:
        if isinstance(source, CodeFeatureSource):
            found.append(_SpelledSource(source, encoder))
            continue
        lookup = source.lookup
        if id(lookup) not in spelled:
            # all but the codes is shared with the original, nothing is copied
            other = copy.deepcopy(lookup, {id(buffer): buffer for buffer in lookup.buffers()})
            other.codes = bpe.encode(lookup.codes)
            spelled[id(lookup)] = other
        found.append(RawIDSource(source.feature, spelled[id(lookup)]))
    return found


class _SpelledSource(nn.Module):
    """A source of codes, and the encoder that makes units of them."""

    def __init__(self, source: CodeFeatureSource, encoder: SIDUnitEncoder) -> None:
        super().__init__()
        self.source = source
        self.encoder = encoder
        self.spec = source.spec

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, JaggedTensor]:
        codes, bag = self.source(features)
        return self.encoder(codes), bag

    def coverage(self) -> float:
        return self.source.coverage()

    def reset_coverage(self) -> None:
        self.source.reset_coverage()


@torch.fx.wrap
def unit_bag(units: Tensor, bag: JaggedTensor) -> JaggedTensor:
    """Put table rows of all units of a bag's items into the bag.

    Args:
        units: Units of each id, shape ``[n, N]``, -1 where there is none.
        bag: The bags the ids came in.

    Returns:
        Table rows, int64 ``[u]``: a unit's own one behind row 0, and row 0 once for an unknown
        item. Each keeps the weight of its item.
    """
    kept = units >= 0
    kept[:, 0] = True  # of an unknown item the -1 that becomes row 0
    behind = kept.sum(dim=1).cumsum(0)
    ends = torch.cat([behind.new_zeros(1), behind])[bag.offsets().long()]
    weights = bag.weights_or_none()
    if weights is not None:
        weights = weights.unsqueeze(1).expand(kept.size(0), kept.size(1))[kept]
    return JaggedTensor(
        values=units[kept].long() + 1,
        lengths=(ends[1:] - ends[:-1]).to(bag.lengths().dtype),
        weights=weights,
    )
