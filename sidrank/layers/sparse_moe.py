r"""A sparse mixture of experts that is balanced without a loss.

Each token is read by the ``k`` of ``E`` experts that its router likes best. Left alone, a router
sends everything to a few experts; a loss against that pulls the weights away from the task. Here a
bias is added to the scores when experts are *chosen*, and only then: after each step it falls by a
fixed amount for experts with too many tokens and rises for those with too few. What an expert
contributes is weighted by its raw score, so the gradient of the task is all there is.

Source: OneMall, arXiv 2601.21770, sparse experts with loss-free balancing:
``b_e <- b_e + step * sign(mean load - load_e)``, bias for selection only. Differs from the source:
sigmoid scores, two-layer GELU experts without biases [derived]; ``num_tokens`` gives each token
position a router and experts of its own, as the sparse form of RankMixer (arXiv 2507.15551) has.

Tokens are sorted by expert and multiplied by groups: the work is ``k`` experts a token, however
many there are. The product is an operator of its own, ``sidrank::grouped_products``, since torch's
``grouped_mm`` compiles for bfloat16 alone; on a GPU it waits once for the sizes of the groups.
Routing is done in float64, so that whom a token goes to depends neither on its neighbours in the
batch nor on the precision of the model.

Shapes: ``B`` rows, ``T`` tokens, ``E`` experts, ``D`` width, ``G`` groups of experts: 1, or ``T``.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank.layers import _padding

__all__ = ["SparseMoE", "balance_experts"]


class SparseMoE(nn.Module):
    r"""The ``k`` chosen of ``E`` experts, weighted by their scores.

    .. math::  s = \sigma(x W_r), \qquad C = \mathrm{top}_k (s + b), \qquad
        y = \sum_{e \in C} s_e\, \mathrm{FFN}_e(x)

    In training mode ``forward`` counts the tokens of each expert in the buffer ``load``; call
    :func:`balance_experts` after each step of the optimiser. No token is ever dropped.

    Args:
        dim: Width ``D``.
        hidden: Width inside an expert.
        num_experts: Number ``E`` of experts; of each token position, if there are several.
        k: How many read a token.
        step: How far the bias moves at a time, on the scale of the scores, [0, 1].
        num_tokens: None routes every token by one router to one set of experts. A number ``T``
            takes ``[..., T, D]`` and gives each of the positions its own.

    Raises:
        ValueError: If a size is less than one, ``k`` is more than ``num_experts`` or ``step`` is
            negative.

    Example:
        >>> moe = SparseMoE(dim=8, hidden=16, num_experts=4, k=2)
        >>> moe(torch.randn(5, 3, 8)).shape
        torch.Size([5, 3, 8])
        >>> int(moe.load.sum())  # 15 tokens, 2 experts each
        30
        >>> balance_experts(moe)
        1
        >>> int(moe.load.sum())
        0
    """

    bias: Tensor
    load: Tensor

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        num_experts: int,
        k: int = 2,
        step: float = 1e-3,
        num_tokens: int | None = None,
    ) -> None:
        super().__init__()
        groups = 1 if num_tokens is None else num_tokens
        sizes = {"dim": dim, "hidden": hidden, "num_experts": num_experts, "k": k}
        for name, size in {**sizes, "num_tokens": groups}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if k > num_experts:
            raise ValueError(f"k must be at most num_experts {num_experts}, got {k}")
        if not step >= 0.0:
            raise ValueError(f"step must be at least 0, got {step}")
        self.dim = dim
        self.num_tokens = num_tokens
        self.k = k
        self.step = step
        self.router = nn.Parameter(torch.empty(groups, num_experts, dim))
        self.hidden = nn.Parameter(torch.empty(groups * num_experts, dim, hidden))
        self.out = nn.Parameter(torch.empty(groups * num_experts, hidden, dim))
        self.register_buffer("bias", torch.zeros(groups, num_experts))
        # in the checkpoint too: a buffer that is not comes back from `to_empty` as garbage
        self.register_buffer("load", torch.zeros(groups, num_experts, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw router and experts as ``nn.Linear`` does and forget all about the load."""
        nn.init.uniform_(self.router, -1.0 / math.sqrt(self.dim), 1.0 / math.sqrt(self.dim))
        for weight in (self.hidden, self.out):
            bound = 1.0 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
        self.bias.zero_()
        self.load.zero_()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Send each token to its experts.

        Args:
            x: Tokens, shape ``[..., D]``, or ``[..., T, D]`` with ``num_tokens``.
            mask: Which are real, shape ``[...]`` or ``[..., T]``, bool; padding goes to no expert
                and is not counted. None: all are.

        Returns:
            What the experts say, zero at padding, shape as ``x``.

        Raises:
            ValueError: If the shapes do not fit or ``mask`` is not bool.
        """
        ending = [self.dim] if self.num_tokens is None else [self.num_tokens, self.dim]
        x = _real_tokens(x, mask, ending)
        load = self.load if self.training else None
        scores, chosen = _routed(x, mask, self.router, self.bias, self.k)
        return _answers(x, scores, chosen, self.hidden, self.out, load)


def balance_experts(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> int:
    r"""Move the biases of all mixtures inside ``module`` towards an even load; count anew.

    .. math::  b_e \leftarrow b_e + step \cdot \mathrm{sign}(\overline{load} - load_e)

    Call it once after each step of the optimiser, on every rank: where ``torch.distributed`` runs,
    the tokens of all ranks of the group are counted together, in one transfer, so that the biases
    stay the same on all of them and as with all rows on one.

    Args:
        module: A model.
        process_group: Whose tokens to count; None is the default group, or this process alone
            where there is none.

    Returns:
        How many mixtures were balanced.

    Raises:
        ValueError: If there is no mixture inside, or none of them has counted a token on any
            rank: only calls in training mode count.
    """
    mixtures = [part for part in module.modules() if isinstance(part, SparseMoE)]
    if not mixtures:
        raise ValueError(f"module must contain a SparseMoE, got {type(module).__name__}")
    with torch.no_grad():
        loads = torch.cat([part.load.flatten() for part in mixtures])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(loads, group=process_group)
        if not bool(loads.any()):
            raise ValueError(
                "module must have run in training mode since it was last balanced, got no token"
            )
        sizes = [part.load.numel() for part in mixtures]
        for part, counted in zip(mixtures, loads.split(sizes), strict=True):
            load = counted.view_as(part.load)
            # in whole numbers, so that an even load is exactly even
            surplus = load * load.shape[1] - load.sum(dim=1, keepdim=True)
            part.bias -= part.step * surplus.sign()
            part.load.zero_()
    return len(mixtures)


@torch.fx.wrap
def _real_tokens(x: Tensor, mask: Tensor | None, ending: list[int]) -> Tensor:
    if list(x.shape[-len(ending) :]) != ending:
        wanted = ", ".join([str(size) for size in ending])
        raise ValueError(f"x must have shape [..., {wanted}], got {list(x.shape)}")
    if mask is None:
        return x
    return _padding.zeroed(x, _padding.boolean(mask, "mask", list(x.shape[:-1])))


@torch.fx.wrap
def _routed(
    x: Tensor, mask: Tensor | None, router: Tensor, bias: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Scores ``[n, k]`` and numbers ``[n, k]`` of the chosen experts; ``G * E`` is nobody."""
    groups, experts, dim = router.shape
    rows = x.numel() // (groups * dim)
    tokens = x.reshape(rows, groups, dim).double()
    scores = torch.sigmoid(torch.einsum("ngd,ged->nge", tokens, router.double()))
    chosen = torch.topk(scores.detach() + bias.double(), k, dim=2).indices
    weights = scores.gather(2, chosen).to(x.dtype)
    first = torch.arange(groups, device=x.device) * experts
    numbers = chosen + first.view(1, groups, 1)
    if mask is not None:
        numbers = torch.where(mask.reshape(rows, groups, 1), numbers, groups * experts)
    return weights.reshape(rows * groups, k), numbers.reshape(rows * groups, k)


@torch.fx.wrap
def _answers(
    x: Tensor, scores: Tensor, chosen: Tensor, hidden: Tensor, out: Tensor, load: Tensor | None
) -> Tensor:
    """Sort by expert, multiply by groups, and put the answers back; count, if there is a load."""
    count, k = chosen.shape
    ordered, order = chosen.flatten().sort(stable=True)
    experts = torch.arange(hidden.shape[0], device=x.device)
    ends = torch.searchsorted(ordered, experts, right=True)
    if load is not None:
        load += ends.diff(prepend=ends.new_zeros(1)).view_as(load)
    tokens = x.reshape(count, x.shape[-1])[order // k]
    inner = F.gelu(_grouped_products(tokens, hidden.to(x.dtype), ends))
    answers = _grouped_products(inner, out.to(x.dtype), ends)
    answers = answers * scores.flatten()[order].unsqueeze(1)
    back = torch.zeros_like(order).scatter_(0, order, torch.arange(count * k, device=x.device))
    return answers[back].view(count, k, x.shape[-1]).sum(dim=1).view(x.shape)


@torch.library.custom_op("sidrank::grouped_products", mutates_args=())
def _grouped_products(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows of group ``e``, those up to ``ends[e]``, times ``weights[e]``; zero for rows behind."""
    answers = rows.new_zeros(rows.shape[0], weights.shape[2])
    start = 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        if end > start:
            torch.mm(rows[start:end], weight, out=answers[start:end])
        start = end
    return answers


@torch.library.custom_op("sidrank::grouped_outer_products", mutates_args=())
def _grouped_outer_products(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    """For each group the product of its rows, transposed, and its others."""
    answers = rows.new_zeros(ends.shape[0], rows.shape[1], others.shape[1])
    start = 0
    for answer, end in zip(answers, ends.tolist(), strict=True):
        if end > start:
            torch.mm(rows[start:end].t(), others[start:end], out=answer)
        start = end
    return answers


@_grouped_products.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[2])


@_grouped_outer_products.register_fake
def _(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(ends.shape[0], rows.shape[1], others.shape[1])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weights, ends = ctx.saved_tensors
    of_rows = of_weights = None
    if ctx.needs_input_grad[0]:
        of_rows = _grouped_products(gradient, weights.transpose(1, 2), ends)
    if ctx.needs_input_grad[1]:
        of_weights = _grouped_outer_products(rows, gradient, ends)
    return of_rows, of_weights, None


_grouped_products.register_autograd(_gradients, setup_context=_remember)
