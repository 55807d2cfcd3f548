r"""An ``nn.Embedding`` with semantic IDs beside its rows, for models that are not on TorchRec.

A FuxiCTR, torch-rechub or plain PyTorch ranker keeps a module a feature that takes ids and gives
vectors. ``SIDEmbedding`` takes the place of one: the same ids, the same widths, and at birth the
same vectors to the bit. Behind it stand one row per code of each level, attention over the levels
and a residual gate; ``HybridEmbeddingBagCollection`` is the same for TorchRec.

The host's module lives on as the child ``host``, so ``<name>.weight`` of its checkpoint is
``<name>.host.weight`` here: load the host's checkpoint first, then put this in its place.

Source: SID-Coord, arXiv 2604.10471 (attention over resolutions, gate on the semantic side).
Differs from the source: resolutions are the levels alone; the gate is one learned number, since a
module that is given ids alone sees no counts; rows of SIDs are born zero [derived].

Shapes: ``N`` levels, ``D`` width; ids of any shape ``[...]``.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidrank.layers import ResidualGate, ResolutionAttention
from sidrank.semantic_ids.lookup import SIDLookup

__all__ = ["SIDEmbedding"]


class SIDEmbedding(nn.Module):
    """Take the place of an ``nn.Embedding``: ids in, vectors out, semantic IDs beside hash IDs.

    An id that the table does not know reads a learned row of each level. The host's
    ``padding_idx`` gains nothing: where the host gives zeros for padding, so does this.

    Args:
        host: The embedding of the item feature, trained or not. Taken over, not copied.
        lookup: From the ids that ``host`` is given to codes.

    Attributes:
        num_embeddings: Rows of the host.
        embedding_dim: Width ``D`` of the host.
        padding_idx: The host's id of padding, or None.

    Raises:
        TypeError: If ``host`` is no ``nn.Embedding`` or ``lookup`` no ``SIDLookup``.

    Example:
        >>> from sidrank.semantic_ids import SIDSpec, SIDTable
        >>> table = SIDTable([1, 2], [[0, 3], [1, 1]], spec=SIDSpec((4, 4)))
        >>> model = nn.ModuleDict({"item": nn.Embedding(5, 8), "user": nn.Embedding(9, 8)})
        >>> before = model["item"](torch.arange(5))
        >>> model["item"] = SIDEmbedding(model["item"], lookup=SIDLookup(table))
        >>> torch.equal(model["item"](torch.arange(5)), before)
        True
    """

    def __init__(self, host: nn.Embedding, *, lookup: SIDLookup) -> None:
        super().__init__()
        if not isinstance(host, nn.Embedding):
            raise TypeError(f"host must be an nn.Embedding, got {type(host).__name__}")
        if not isinstance(lookup, SIDLookup):
            raise TypeError(f"lookup must be a SIDLookup, got {type(lookup).__name__}")
        self.num_embeddings = host.num_embeddings
        self.embedding_dim = host.embedding_dim
        self.padding_idx = host.padding_idx
        sizes = [size + 1 for size in lookup.spec.codebook_sizes]  # the first row: unknown
        self._starts = [start + 1 for start in accumulate(sizes[:-1], initial=0)]
        self.host = host
        self.lookup = lookup
        like = host.weight
        self.weight = nn.Parameter(like.new_empty(sum(sizes), self.embedding_dim))
        self.fusion = (
            ResolutionAttention(dim=self.embedding_dim, num_resolutions=len(sizes)).to(like)
            if len(sizes) > 1
            else nn.Flatten()
        )
        self.gate = ResidualGate(statistics=[]).to(like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows of the codes are zero at birth; host, fusion and gate have their own."""
        nn.init.zeros_(self.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of ids.

        Args:
            ids: What the host is given, int64 or int32, shape ``[...]``.

        Returns:
            Shape ``[..., D]``.
        """
        flat = ids.reshape(-1)
        codes = self.lookup(flat).to(torch.int64)
        levels = [codes[:, level] + start for level, start in enumerate(self._starts)]
        rows = torch.stack(levels, dim=1)
        sid = self.fusion(F.embedding(rows, self.weight))
        present = torch.ones_like(flat, dtype=torch.bool)
        if self.padding_idx is not None:
            present = flat != self.padding_idx
        hid = self.host(flat)
        mixed = self.gate(hid, sid, hid.new_empty(flat.shape[0], 0), present)
        # a shape that FX traces does not unpack
        return mixed.reshape(ids.shape + (self.embedding_dim,))  # noqa: RUF005
