"""What ``MultimodalFusion`` computes, the same bits for any batch and any number of threads.

Item vectors are the input of a tokenizer, so they must not move with the batch they were
computed in. Matrix products and sums go through ``exact_linear``, whose additions can be done in
any order; the rest is one operation of IEEE arithmetic a number, which rounds in one way. The
exponential is built from such operations too: a vectorised one may differ from its scalar form.

Shapes: ``B`` items, ``T`` tokens, ``M`` queries, ``H`` heads, ``D`` width.
"""

import math

import torch
from torch import Tensor, nn

from sidrank.tokenizers._mlp import exact_linear
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion

__all__ = ["exact_fusion", "exp"]

_LN2 = math.log(2)
_TERMS = 16  # of the power series of exp within ±log(2)/2: beyond 1e-17


def exact_fusion(fusion: MultimodalFusion, views: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Fuse the views of items and scale the outcome to length one.

    Args:
        fusion: The module, on the device of the views.
        views: Tokens of each view in the order of ``fusion.widths``, shape ``[B, T_v, D_v]``.
        masks: Whether they are there, shape ``[B, T_v]``, bool; of each item one token is.

    Returns:
        Unit vectors, shape ``[B, D]``, float64.
    """
    attention = fusion.attention
    heads, width = attention.num_heads, attention.head_dim
    query = _linear(attention.query, _norm(fusion.query_norm, fusion.queries.double()))
    count = len(query)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for name, view, mask in zip(fusion.widths, views, masks, strict=True):
        flat = torch.where(mask.unsqueeze(2), view.double(), 0.0).flatten(0, 1)
        projected = _linear(fusion.projections[f"view_{name}"], flat)
        tokens = _norm(fusion.norms[f"view_{name}"], projected)
        keys.append(_linear(attention.key, tokens).unflatten(0, mask.shape))
        values.append(_linear(attention.value, tokens).unflatten(0, mask.shape))
    key, value, there = torch.cat(keys, dim=1), torch.cat(values, dim=1), torch.cat(masks, dim=1)
    read = value.new_zeros(len(value), count, heads, width)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        none = query.new_zeros(count)
        # [B, T, M]
        scores = exact_linear(key[..., part].flatten(0, 1), query[:, part], none)
        scores = scores.unflatten(0, there.shape) * width**-0.5
        scores = scores.masked_fill(~there.unsqueeze(2), -torch.inf)
        # what is masked weighs exp(-700), which is lost beside the exp(0) of the largest
        mass = exp((scores - scores.amax(dim=1, keepdim=True)).clamp(min=-700))
        total, sums = torch.zeros_like(mass[:, 0]), torch.zeros_like(read[:, :, head])
        for token in range(there.shape[1]):  # one after the other, in an order of our own
            total = total + mass[:, token]
            sums = sums + mass[:, token].unsqueeze(2) * value[:, token, part].unsqueeze(1)
        read[:, :, head] = sums / total.unsqueeze(2)
    states = fusion.queries.double() + _linear(
        attention.out, read.flatten(0, 1).flatten(1)
    ).unflatten(0, (len(value), count))
    flat = states.flatten(0, 1)
    inside = _linear(fusion.hidden_in, _norm(fusion.hidden_norm, flat)).relu()
    states = states + _linear(fusion.hidden_out, inside).unflatten(0, states.shape[:2])
    mean = torch.zeros_like(states[:, 0])
    for one in range(count):
        mean = mean + states[:, one]
    return mean / _sum(mean * mean).sqrt().clamp(min=1e-150)


def exp(x: Tensor) -> Tensor:
    """Exponential of numbers within ±700, by additions and products alone.

    Args:
        x: Numbers, float64.

    Returns:
        Their exponentials, to about 1e-13 of each.
    """
    twos = (x / _LN2).round()
    rest = x - twos * _LN2
    power = torch.ones_like(rest)
    for term in range(_TERMS, 0, -1):
        power = power * rest / term + 1.0
    # two to an integer, written into the exponent of a float64
    return power * ((twos.long() + 1023) << 52).view(torch.float64)


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    found = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    weight = found["weight"]
    return exact_linear(x, weight, found.get("bias", weight.new_zeros(1)))


def _norm(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    centred = x - _sum(x) / x.shape[1]
    variance = _sum(centred * centred) / x.shape[1]
    scaled = centred / (variance + 1e-5).sqrt()
    return scaled * weight.detach().double() + bias.detach().double()


def _sum(x: Tensor) -> Tensor:
    """Sum of each row, shape ``[n, 1]``."""
    return exact_linear(x, x.new_ones(1, x.shape[1]), x.new_zeros(1))
