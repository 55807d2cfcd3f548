r"""The inside of DIN's attention, without its concatenation and in blocks that stay in the cache.

The first layer reads :math:`[q; k; q - k; q \odot k]`, and a product with a sum is a sum of
products:

.. math::  W_q q + W_k k + W_d (q - k) + W_m (q \odot k)
    = (W_q + W_d)\, q + \big(W_k - W_d + W_m\, \mathrm{diag}(q)\big)\, k

The first term is one vector a candidate; the second one matrix a candidate, and all candidates of
a request read its history in one product. The concatenation, four times as wide as the history,
and its product, four times as long, never happen.

On a CPU the rows go through in blocks, see ``sidrank.towers._activation_blocks``; compiled, under
autocast and elsewhere all at once.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``D`` width, ``P`` width of what a
behaviour says of its place, ``H`` units of the first hidden layer.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank.layers import _padding
from sidrank.towers import _activation_blocks

__all__ = ["hidden_layers", "pooled", "unit"]


def unit(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """An activation unit as its definition has it: ``width`` numbers in, one out.

    Args:
        width: Of the concatenation that it reads.
        hidden: Units of each hidden layer.

    Returns:
        Linear layers with a PReLU between two.

    Raises:
        ValueError: If there is no hidden layer, or one without units.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold sizes of at least 1, got {list(hidden)}")
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.PReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, 1))


def hidden_layers(mlp: nn.Sequential) -> list[Tensor]:
    """Parameters of a unit from its first PReLU on: slope, weight, bias, slope, ..., bias."""
    parameters: list[Tensor] = []
    for layer in list(mlp)[1:]:
        if isinstance(layer, nn.Linear):
            parameters += [layer.weight, layer.bias]
        else:
            parameters.append(cast(nn.PReLU, layer).weight)
    return parameters


@torch.fx.wrap
def pooled(
    offset: Tensor,
    query: Tensor,
    history: Tensor,
    places: Tensor | None,
    mask: Tensor,
    key_weight: Tensor,
    product_weight: Tensor,
    layers: list[Tensor],
    softmax: bool,
) -> Tensor:
    """Behaviours, each times what the unit says of it, summed.

    Called through its module, see ``sidrank._check``.

    Args:
        offset: What the first layer makes of the candidate alone, shape ``[B, C, H]``.
        query: Candidates, shape ``[B, C, D]``.
        history: Behaviours, shape ``[B, L, D]``; padding may hold anything.
        places: What they say of their places, shape ``[B, L, P]``, finite; or nothing.
        mask: Which behaviours count, shape ``[B, L]``, bool.
        key_weight: What the first layer makes of a behaviour alone, shape ``[H, D + P]``.
        product_weight: And of the products, shape ``[H, D]``.
        layers: The other layers, see :func:`hidden_layers`.
        softmax: Whether weights are made to sum to one.

    Returns:
        Shape ``[B, C, D]``; zero where nothing counts.
    """
    device = history.device.type
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(device) or device != "cpu":
        numbers = (offset, query, history, places, key_weight, product_weight)
        return _plain(*numbers, layers, mask, softmax)
    history = history.contiguous()  # once, not in every block
    numbers = (offset, query, history, places, key_weight, product_weight, *layers)
    return _activation_blocks.pooled(mask, softmax, *numbers)


def _plain(
    offset: Tensor,
    query: Tensor,
    history: Tensor,
    places: Tensor | None,
    key_weight: Tensor,
    product_weight: Tensor,
    layers: list[Tensor],
    mask: Tensor,
    softmax: bool,
) -> Tensor:
    """All rows at once, with what PyTorch makes of the gradient."""
    dim = query.shape[2]
    history = _padding.zeroed(history, mask)
    # [B, C, H, D]: one matrix a candidate, those of a row side by side
    matrices = key_weight[:, :dim] + product_weight * query.unsqueeze(2)
    keys = history
    if places is not None:
        own = key_weight[:, dim:].expand(*matrices.shape[:3], -1)
        matrices, keys = torch.cat([matrices, own], dim=3), torch.cat([history, places], dim=2)
    first = offset.flatten(1).unsqueeze(1)
    x = torch.baddbmm(first, keys, matrices.flatten(1, 2).transpose(1, 2))
    x = x.unflatten(2, (query.shape[1], offset.shape[2]))
    for place in range(0, len(layers), 3):
        slope, weight, bias = layers[place : place + 3]
        x = functional.linear(functional.prelu(x, slope.to(x.dtype)), weight, bias)
    weights = x.squeeze(3)
    if softmax:
        lowest = torch.finfo(torch.float32).min  # not -inf: a softmax over it alone is NaN
        weights = torch.softmax(weights.float().masked_fill(~mask.unsqueeze(2), lowest), dim=1)
    # whatever padding weighs, it adds zeros
    return weights.to(history.dtype).transpose(1, 2) @ history
