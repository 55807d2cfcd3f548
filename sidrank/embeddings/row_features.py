"""Rows of a file as TorchRec features: no copy, the arrays change their name only.

Shapes: ``B`` rows, ``F`` sparse features, ``T`` their ids.
"""

from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sidrank.data import TrainingRows

__all__ = ["features_of"]


def features_of(rows: TrainingRows) -> KeyedJaggedTensor:
    """The sparse features of a batch of a :class:`~sidrank.data.RowStream`.

    Args:
        rows: The batch.

    Returns:
        Its ``F`` features; values and lengths share their memory with the batch.

    Example:
        >>> import torch
        >>> lengths, ids = torch.tensor([1, 2], dtype=torch.int32), torch.tensor([7, 8, 9])
        >>> rows = TrainingRows(torch.zeros(2, 1), torch.zeros(2, 0), ("item",), lengths, ids)
        >>> features_of(rows)["item"].to_dense()
        [tensor([7]), tensor([8, 9])]
    """
    return KeyedJaggedTensor(keys=list(rows.keys), values=rows.values, lengths=rows.lengths)
