"""Embedding tables with one byte a number: a quarter of the memory, and nearly the same ranking.

Each row is stored as ``uint8`` with a scale and an offset of its own (8 bytes), so a table of width
``D`` takes ``D + 8`` bytes a row in place of ``4 D``; rows are rounded by at most half of a 255th
of their range. Lookups run on torch's own CPU operators, which pool while they read; they trace,
export and compile.

Every table inside of an ``EmbeddingBagCollection`` or ``EmbeddingCollection`` is exchanged; the
collections stay what they are, and so does all that is not a table. Served models only: such
tables have no gradient.

Source: row-wise quantisation as FBGEMM and ``torchrec.quant`` do it. Differs from
``quantize_embeddings``: the program needs no FBGEMM, and looks up what is asked for, not all tables
of a collection.

Shapes: ``V`` rows, ``D`` width, ``B`` bags, ``n`` ids.
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection

__all__ = ["Int8Embedding", "Int8EmbeddingBag", "int8_tables"]


class Int8EmbeddingBag(nn.Module):
    """An ``nn.EmbeddingBag`` whose rows are bytes.

    Args:
        table: The table, with mode ``sum`` or ``mean`` and without padding.

    Raises:
        ValueError: If it is of another mode, has a padding row, or is not on the CPU.

    Example:
        >>> table = nn.EmbeddingBag(2, 4, mode="sum")
        >>> with torch.no_grad():
        ...     _ = table.weight.copy_(torch.arange(8.0).view(2, 4))
        >>> Int8EmbeddingBag(table)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 3]))
        tensor([[ 0.,  1.,  2.,  3.],
                [ 8., 10., 12., 14.]])
    """

    rows: Tensor

    def __init__(self, table: nn.EmbeddingBag) -> None:
        super().__init__()
        if table.mode not in ("sum", "mean") or table.padding_idx is not None:
            raise ValueError(
                "table must have the mode sum or mean and no padding row, got"
                f" {table.mode} and {table.padding_idx}"
            )
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.include_last_offset = True
        self.mode = table.mode
        self.register_buffer("rows", _bytes(table.weight))

    def forward(
        self, input: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Look bags up.

        Args:
            input: Ids, integer ``[n]``.
            offsets: Where each bag begins, and the end, ``[B + 1]``.
            per_sample_weights: Factor of each id, ``[n]``.

        Returns:
            Shape ``[B, D]``.
        """
        offsets = offsets.to(input.dtype)
        pooled = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            self.rows,
            input,
            offsets,
            per_sample_weights=per_sample_weights,
            include_last_offset=True,
        )
        if self.mode == "sum":
            return pooled
        return pooled / (offsets[1:] - offsets[:-1]).clamp(min=1).unsqueeze(1)


class Int8Embedding(nn.Module):
    """An ``nn.Embedding`` whose rows are bytes.

    Args:
        table: The table.

    Raises:
        ValueError: If it is not on the CPU.
    """

    rows: Tensor

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.register_buffer("rows", _bytes(table.weight))

    def forward(self, input: Tensor) -> Tensor:
        """Look ids up.

        Args:
            input: Ids, integer ``[n]``.

        Returns:
            Shape ``[n, D]``.
        """
        places = torch.arange(input.shape[0], dtype=input.dtype, device=input.device)
        return torch.ops.quantized.embedding_bag_byte_rowwise_offsets(self.rows, input, places)


def int8_tables(model: nn.Module) -> nn.Module:
    """A ranker with the tables of another as bytes; all else is shared, nothing is written.

    Args:
        model: The ranker, unsharded, on the CPU.

    Returns:
        A ranker of the same class, in evaluation mode.

    Raises:
        ValueError: If there is no table of a collection, or one cannot be exchanged.
    """
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = tensor
    made: dict[int, nn.Module] = {}
    for part in list(model.modules()):
        for table in _tables(part):
            made[id(table)] = (
                Int8EmbeddingBag(table)
                if isinstance(table, nn.EmbeddingBag)
                else Int8Embedding(cast(nn.Embedding, table))
            )
    if not made:
        raise ValueError(f"model must have tables in a collection, got {type(model).__name__}")
    return copy.deepcopy(model, memo | made).eval()


def _tables(part: nn.Module) -> list[nn.Module]:
    if isinstance(part, EmbeddingBagCollection):
        return list(part.embedding_bags.values())
    if isinstance(part, EmbeddingCollection):
        return list(part.embeddings.values())
    return []


def _bytes(weight: Tensor) -> Tensor:
    if weight.device.type != "cpu":
        raise ValueError(f"table must be on the CPU, got {weight.device}")
    return torch.ops.quantized.embedding_bag_byte_prepack(weight.detach().float())
