"""Jagged embeddings as padded tensors: candidates of a row, and the newest of its behaviours.

Called through this module, see ``sidrank._check``.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``E`` widths of all features together.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torchrec import JaggedTensor

__all__ = ["first", "newest"]


@torch.fx.wrap
def first(features: list[JaggedTensor], length: int) -> Tensor:
    """Put candidates side by side.

    Args:
        features: What describes them, one vector a candidate in each.
        length: Candidates of a row, ``C``.

    Returns:
        Shape ``[B, C, E]``, zeros behind a row's last.

    Raises:
        ValueError: If there are more than rows have room for.
    """
    if not torch.compiler.is_compiling():  # where these numbers are not known
        room = features[0].lengths().shape[0] * length
        most = max(feature.values().shape[0] for feature in features)
        if most > room:
            raise ValueError(f"target must have at most {length} ids a row, got {most} for {room}")
    return torch.cat([feature.to_padded_dense(length) for feature in features], dim=2)


@torch.fx.wrap
def newest(features: list[JaggedTensor], length: int) -> tuple[Tensor, Tensor]:
    """Put the last behaviours of each row side by side.

    Args:
        features: What describes them, oldest first, one vector a behaviour in each.
        length: Behaviours of a row that are kept, ``L``.

    Returns:
        Shape ``[B, L, E]``, zeros behind a row's last, and which are real, ``[B, L]``, bool.

    Raises:
        ValueError: If one feature has more vectors than another.
    """
    if not torch.compiler.is_compiling():  # where these numbers are not known
        numbers = [feature.values().shape[0] for feature in features]
        if min(numbers) != max(numbers):
            raise ValueError(f"history must have as many ids in each feature, got {numbers}")
    parts = [_newest(feature, length) for feature in features]
    return torch.cat([part for part, _ in parts], dim=2), parts[0][1]


def _newest(feature: JaggedTensor, length: int) -> tuple[Tensor, Tensor]:
    values, lengths = feature.values(), feature.lengths().long()
    kept = lengths.clamp(max=length).unsqueeze(1)
    places = torch.arange(length, device=lengths.device)
    real = places < kept
    index = lengths.cumsum(0).unsqueeze(1) - kept + places
    # what is not real reads the row of zeros behind all others
    rows = functional.pad(values, (0, 0, 0, 1))
    chosen = torch.where(real, index, values.shape[0]).flatten()
    return rows.index_select(0, chosen).view(-1, length, values.shape[1]), real
