"""The layers of a DLRM above its fields, where most of the fields belong to the request.

``InteractionArch`` gives the dense vector and the product of each two vectors; a linear layer reads
them. Products of two vectors of the request, the dense vector, and the part of the layer that reads
both are the same for all candidates of a request: the layer's columns are split, and that part is
computed once. A candidate pays for its products and for the columns that read them.

``[derived]``: the sum of a linear layer taken in two parts, equal but for rounding.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``F_R`` and ``F_N`` fields of requests and
of candidates, ``D`` width, ``P`` products of two.
"""

import functools
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec.models.dlrm import DLRM, InteractionArch, OverArch
from torchrec.modules.mlp import MLP, Perceptron

from sidrank.models._candidate_fields import Sides

__all__ = ["interacted"]


def interacted(dlrm: DLRM, dense: Tensor, sides: Sides, owner: Tensor) -> Tensor:
    """Logits of candidates.

    The split is made under an ``InteractionArch`` and an over-arch whose first layer is an
    ``nn.Linear``; any other host is given a row a candidate.

    Args:
        dlrm: Its ``inter_arch`` and ``over_arch`` are run.
        dense: What its ``dense_arch`` made of the requests, shape ``[R, D]``.
        sides: Fields of both sides.
        owner: The request of each candidate, int64 ``[N]``.

    Returns:
        Shape ``[N, 1]``.
    """
    first, *rest = _layers(cast(nn.Module, dlrm.over_arch))
    splits = type(first) is nn.Linear and type(dlrm.inter_arch) is InteractionArch
    if not isinstance(first, nn.Linear) or not splits:
        return dlrm.over_arch(dlrm.inter_arch(dense[owner], sides.rows(owner)))
    places = _places(tuple(sides.own), dense.shape[1])
    request, candidate, among, upper = (
        torch.tensor(each, dtype=torch.int64, device=owner.device) for each in places
    )
    known = torch.cat([dense.unsqueeze(1), sides.once], dim=1)
    once = torch.bmm(known, known.transpose(1, 2)).flatten(1).index_select(1, among)
    shared = functional.linear(
        torch.cat([dense, once], dim=1), first.weight.index_select(1, request), first.bias
    )
    products = _products(sides.each, known, owner)
    if len(upper):
        own = torch.bmm(sides.each, sides.each.transpose(1, 2)).flatten(1)
        products = torch.cat([products, own.index_select(1, upper)], dim=1)
    weight = first.weight.index_select(1, candidate)
    shared = shared if len(shared) == 1 else shared[owner]
    state = torch.addmm(shared, products, weight.t())
    for layer in rest:
        state = layer(state)
    return state


def _products(each: Tensor, known: Tensor, owner: Tensor) -> Tensor:
    """Products of a candidate's vectors with those of its request, ``[N, F_N (1 + F_R)]``."""
    if len(known) == 1:
        found = each.flatten(0, 1) @ known[0].t()
        return found.reshape(len(owner), each.shape[1] * known.shape[1])
    return torch.bmm(each, known[owner].transpose(1, 2)).flatten(1)


@functools.lru_cache(maxsize=64)
def _places(own: tuple[bool, ...], width: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Which columns of the layer read what.

    Args:
        own: Which fields are the candidates'.
        width: ``D``.

    Returns:
        Columns of the dense vector and of products of two vectors of the request; columns of the
        products of a candidate's vector and one of its request, and then of two of a candidate's;
        and where the products of two are in the flat table of all products of a side: of the
        requests (whose first vector is the dense one), of the candidates.
    """
    of_candidates = [False, *own]  # the dense vector comes first
    count = len(of_candidates)
    pairs = [(left, right) for left in range(count) for right in range(left + 1, count)]
    column = {pair: width + place for place, pair in enumerate(pairs)}
    once = [place for place in range(count) if not of_candidates[place]]
    each = [place for place in range(count) if of_candidates[place]]
    request = list(range(width))
    among: list[int] = []
    for at, left in enumerate(once):
        for other, right in enumerate(once[at + 1 :], at + 1):
            request.append(column[left, right])
            among.append(at * len(once) + other)
    candidate = [column[min(left, right), max(left, right)] for left in each for right in once]
    upper: list[int] = []
    for at, left in enumerate(each):
        for other, right in enumerate(each[at + 1 :], at + 1):
            candidate.append(column[left, right])
            upper.append(at * len(each) + other)
    return request, candidate, among, upper


def _layers(module: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """What a stack calls, one after the other."""
    kind = type(module)
    if kind is OverArch:
        yield from _layers(module.model)  # pyright: ignore[reportArgumentType]
    elif kind is nn.Sequential:
        for part in module.children():
            yield from _layers(part)
    elif kind is MLP:
        yield from _layers(module._mlp)  # pyright: ignore[reportArgumentType]
    elif kind is Perceptron:
        yield module._linear  # pyright: ignore[reportReturnType]
        yield module._activation_fn  # pyright: ignore[reportReturnType]
    else:
        yield module
