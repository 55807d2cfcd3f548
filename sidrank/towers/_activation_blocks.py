r"""DIN's attention on a CPU: blocks of rows that stay in its cache.

What lies between the layers of an activation unit is ten times as large as its histories, and
moving it costs more than making it. So a few rows at a time go through all layers, in memory that
the next ones use again, and the backward pass goes through each block once more instead of keeping
its hidden layers. Where much is padding, rows are sorted by length and padding is left out. None of
it changes the answer.

Shapes: ``b`` rows of a block, ``C`` candidates, ``n`` behaviours, ``D`` width, ``P`` width of what
a behaviour says of its place, ``H`` units of the first hidden layer.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["pooled"]

_BLOCK = 1 << 18  # numbers of the first hidden layer in a block: a megabyte
_WORTH_SORTING = 0.85  # share of real places below which padding is left out


def pooled(mask: Tensor, softmax: bool, *numbers: Tensor | None) -> Tensor:
    """What ``sidrank.towers._activation_unit.pooled`` says, differentiable once.

    Args:
        mask: Which behaviours count, shape ``[B, L]``, bool.
        softmax: Whether weights are made to sum to one.
        *numbers: Offset, query, history, places, key weight, product weight, the other layers.

    Returns:
        Shape ``[B, C, D]``.
    """
    return cast(Tensor, _Blocks.apply(mask, softmax, *numbers))


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask: Tensor, softmax: bool, *numbers: Tensor | None) -> Tensor:
        ctx.save_for_backward(mask, *numbers)
        ctx.softmax = softmax
        out = torch.empty_like(cast(Tensor, numbers[1]), memory_format=torch.contiguous_format)
        kept = _Kept(out)
        for part in _parts(mask, cast(Tensor, numbers[0])):
            out[part.rows] = _Pass(numbers, part, softmax, kept).answer()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        mask, *numbers = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        totals = [
            torch.zeros_like(x, memory_format=torch.contiguous_format) if wants else None
            for x, wants in zip(numbers, wanted, strict=True)
        ]
        kept = _Kept(upstream)
        for part in _parts(mask, numbers[0]):
            each = _Pass(numbers, part, ctx.softmax, kept)
            each.answer()
            each.backward(upstream[part.rows], totals)
        return None, None, *totals


class _Part(NamedTuple):
    """Rows of a block, and which places of their histories it reads."""

    rows: Tensor | slice
    places: Tensor | None  # in the flat history, [b, n]; nothing: all of them
    hidden: Tensor | None  # which of them do not count, [b, n]; nothing: all count


def _parts(mask: Tensor, offset: Tensor) -> Iterator[_Part]:
    """Blocks of rows; where much is padding, sorted by length and without most of it."""
    rows, length = mask.shape
    block = max(1, _BLOCK // max(1, length * offset.shape[1] * offset.shape[2]))
    counts = mask.sum(dim=1)
    real = int(counts.sum())
    if real >= _WORTH_SORTING * rows * length:
        for start in range(0, rows, block):
            part = slice(start, min(start + block, rows))
            yield _Part(part, None, None if real == rows * length else ~mask[part])
        return
    order = counts.argsort(descending=True)
    packed = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)
    lengths = counts[order].tolist()
    start = 0
    while start < rows:
        longest = max(1, lengths[start])
        end = min(rows, start + max(1, block * length // longest))
        chosen = order[start:end]
        places = packed[chosen, :longest] + chosen.unsqueeze(1) * length
        yield _Part(chosen, places, torch.arange(longest) >= counts[chosen].unsqueeze(1))
        start = end


class _Kept:
    """Memory by name, used again by the next block while the cache still holds it."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = prod(shape)
        if name not in self._kept or self._kept[name].numel() < size:
            self._kept[name] = self._like.new_empty(size)
        return self._kept[name][:size].view(shape)


class _Pass:
    """One block, there and back; what the way back needs is kept until the next block."""

    def __init__(
        self, numbers: Sequence[Tensor | None], part: _Part, softmax: bool, kept: _Kept
    ) -> None:
        offset, query, history, places, key, product, *layers = numbers
        self.part, self.softmax, self.kept = part, softmax, kept
        self.offset, self.query = cast(Tensor, offset)[part.rows], cast(Tensor, query)[part.rows]
        self.key, self.product = cast(Tensor, key), cast(Tensor, product)
        self.layers = [cast(Tensor, layer) for layer in layers]
        self.slopes = [float(slope) for slope in self.layers[::3]]
        self.history = self._events("history", cast(Tensor, history))
        self.keys = self.history
        if places is not None:
            both = [self.history, self._events("places", places)]
            shape = *self.history.shape[:2], self.key.shape[1]
            self.keys = torch.cat(both, dim=2, out=kept("keys", *shape))

    def _events(self, name: str, values: Tensor) -> Tensor:
        part = self.part
        if part.places is None and part.hidden is None:
            return values[part.rows]
        if part.places is None:
            found = self.kept(name, *values[part.rows].shape).copy_(values[part.rows])
        else:
            found = self.kept(name, *part.places.shape, values.shape[2])
            flat = values.flatten(0, 1)
            torch.index_select(flat, 0, part.places.flatten(), out=found.flatten(0, 1))
        if part.hidden is not None:  # few, once rows are sorted: cheaper by index than by mask
            hidden = part.hidden.flatten().nonzero().squeeze(1)
            found.flatten(0, 1).index_fill_(0, hidden, 0.0)
        return found

    def answer(self) -> Tensor:
        """Go through all layers; ``[b, C, D]``."""
        kept, rows, count = self.kept, self.history.shape[0], self.history.shape[1]
        candidates, units, dim = *self.offset.shape[1:], self.query.shape[2]
        self.matrices = kept("matrices", rows, candidates, units, self.key.shape[1])
        self.matrices[:] = self.key
        self.matrices[..., :dim].addcmul_(self.product, self.query.unsqueeze(2))
        first = self.offset.reshape(rows, 1, candidates * units)
        flat = self.matrices.flatten(1, 2).transpose(1, 2)
        x = kept("0", rows, count, candidates * units)
        torch.baddbmm(first, self.keys, flat, out=x)
        self.before: list[Tensor] = []  # the activations
        self.after: list[Tensor] = []
        x = x.view(-1, units)
        for place, slope in enumerate(self.slopes):
            self.before.append(x)
            weight, bias = self.layers[3 * place + 1 : 3 * place + 3]
            active = kept(f"active {place}", *x.shape)
            self.after.append(torch.ops.aten.leaky_relu.out(x, slope, out=active))
            x = kept(f"{place + 1}", x.shape[0], len(weight))
            torch.addmm(bias, active, weight.t(), out=x)
        weights = x.view(rows, count, candidates)
        if self.softmax:
            if self.part.hidden is not None:
                lowest = torch.finfo(weights.dtype).min
                weights = weights.masked_fill_(self.part.hidden.unsqueeze(2), lowest)
            weights = torch.softmax(weights, dim=1)
        if self.part.hidden is not None:
            weights.masked_fill_(self.part.hidden.unsqueeze(2), 0.0)
        self.weights = weights
        return weights.transpose(1, 2) @ self.history

    def backward(self, upstream: Tensor, totals: Sequence[Tensor | None]) -> None:
        """Add the gradients of this block, ``upstream`` of its answer, to those of all."""
        kept, part, dim = self.kept, self.part, self.query.shape[2]
        slope = self.history @ upstream.transpose(1, 2)  # of the loss along the weights
        if self.softmax:
            slope -= (slope * self.weights).sum(dim=1, keepdim=True)
            slope *= self.weights
        elif part.hidden is not None:
            slope.masked_fill_(part.hidden.unsqueeze(2), 0.0)
        x = slope.view(-1, 1)
        for place in reversed(range(len(self.slopes))):
            weight, at = self.layers[3 * place + 1], 6 + 3 * place
            _add_product(totals[at + 1], x, self.after[place])
            _add_sum(totals[at + 2], x)
            before = self.before[place]
            x = torch.mm(x, weight, out=kept(f"active {place}", *before.shape))
            if (total := totals[at]) is not None:
                below = torch.clamp(before, max=0.0, out=kept("below", *before.shape))
                total += torch.dot(below.flatten(), x.flatten())
            x = torch.ops.aten.leaky_relu_backward.grad_input(
                x, before, self.slopes[place], False, grad_input=x
            )
        rows, count = self.history.shape[0], self.history.shape[1]
        x = x.view(rows, count, self.offset.shape[1] * self.offset.shape[2])
        if totals[0] is not None:
            ones = x.new_ones(1, 1, count).expand(rows, 1, count)
            totals[0][part.rows] = (ones @ x).view_as(self.offset)
        if totals[2] is not None or totals[3] is not None:
            matrices = self.matrices.flatten(1, 2)
            keys = torch.bmm(x, matrices, out=kept("keys'", rows, count, matrices.shape[2]))
            _put(totals[3], keys[..., dim:], part)
            keys = keys[..., :dim]
            _put(totals[2], keys.baddbmm_(self.weights, upstream), part)
        shape = *self.offset.shape, self.keys.shape[2]
        matrices = kept("matrices'", rows, x.shape[2], shape[3])
        torch.bmm(x.transpose(1, 2), self.keys, out=matrices)
        _add_sum(totals[4], matrices.view(-1, shape[2] * shape[3]))
        matrices = matrices.view(shape)[..., :dim]
        if totals[5] is not None:
            products = torch.mul(
                matrices, self.query.unsqueeze(2), out=kept("products", *matrices.shape)
            )
            _add_sum(totals[5], products.view(-1, shape[2] * dim))
        if totals[1] is not None:
            products = torch.mul(matrices, self.product, out=kept("products", *matrices.shape))
            totals[1][part.rows] = products.sum(dim=2)


def _put(total: Tensor | None, gradient: Tensor, part: _Part) -> None:
    """Into the gradient of the events; a place is read once."""
    if total is None:
        return
    if part.places is None:
        total[part.rows] = gradient
    else:
        flat = total.view(-1, total.shape[2])
        flat.index_copy_(0, part.places.flatten(), gradient.reshape(-1, total.shape[2]))


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> None:
    if total is not None:
        total.addmm_(left.t(), right)


def _add_sum(total: Tensor | None, rows: Tensor) -> None:
    """Sum rows as a product: several times as fast as a sum over the first axis."""
    if total is not None:
        total.view(1, -1).addmm_(rows.new_ones(1, len(rows)), rows)
