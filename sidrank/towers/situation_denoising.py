r"""Which behaviours a candidate should read at all.

A history holds accidents: a wrong tap, a gift for somebody else. What is noise depends on who asks,
so each candidate chooses for itself, from the behaviour, itself, and the situation.

Source: DSAIN, arXiv 2604.12298, behaviour denoising. ``[derived]``: the keep logit
:math:`a_i = \mathrm{MLP}[e_i;\, e_{tgt};\, e_i \odot e_{tgt};\, s_i]`, its hidden layer of SiLU,
and that it is 4 at birth, before it has learned anything: 98 of 100 are kept. A tower that cannot
read yet gains from reading less, and one that has dropped most learns to read late or never.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``E`` width of an item, ``S`` width of a
situation, ``M`` hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.gumbel_keep import GumbelKeep

__all__ = ["SituationDenoising"]

_KEPT_AT_BIRTH = 4.0


class SituationDenoising(nn.Module):
    r"""Keep weights of behaviours, for each candidate.

    .. math::  a_i = w^\top \mathrm{SiLU}\big(W [e_i; e_{tgt}; e_i \odot e_{tgt}; s_i] + b\big) + c

    The hidden layer is never made of concatenated inputs: what depends on the behaviour alone or
    on the candidate alone is computed once, and the memory is ``C * L * M`` numbers a row.

    Args:
        item_dim: Width ``E`` of behaviours and candidates.
        situation_dim: Width ``S`` of a situation, all fields side by side.
        hidden: Width ``M`` of the hidden layer.
        keep: Turns logits into weights; None is ``GumbelKeep()``.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> denoise = SituationDenoising(item_dim=8, situation_dim=6).eval()
        >>> kept = denoise(torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 6),
        ...                torch.ones(2, 5).bool())
        >>> kept.shape
        torch.Size([2, 3, 5])
    """

    def __init__(
        self,
        *,
        item_dim: int,
        situation_dim: int,
        hidden: int = 16,
        keep: GumbelKeep | None = None,
    ) -> None:
        super().__init__()
        sizes = {"item_dim": item_dim, "situation_dim": situation_dim, "hidden": hidden}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.item_dim = item_dim
        self.situation_dim = situation_dim
        self.hidden = nn.Linear(3 * item_dim + situation_dim, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        self.bias = nn.Parameter(torch.empty(()))
        self.keep = GumbelKeep() if keep is None else keep
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Most are kept; the linear layers have their own."""
        nn.init.constant_(self.bias, _KEPT_AT_BIRTH)

    def logits(self, target: Tensor, history: Tensor, situation: Tensor) -> Tensor:
        """Keep logits ``a``, with whatever padding makes of them.

        Args:
            target: Candidates, shape ``[B, C, E]``.
            history: Behaviours, shape ``[B, L, E]``.
            situation: Of the behaviours, shape ``[B, L, S]``.

        Returns:
            Shape ``[B, C, L]``.
        """
        width, weight = self.item_dim, self.hidden.weight
        own, other, both, where = weight.split([width, width, width, self.situation_dim], dim=1)
        behaviours = functional.linear(history, own, self.hidden.bias)
        behaviours = behaviours + functional.linear(situation, where)
        candidates = functional.linear(target, other)
        # a hidden layer a candidate, [B, C, M, E], instead of a product a pair, [B, C, L, E]
        layers = target.unsqueeze(2) * both
        pairs = layers.flatten(1, 2) @ history.transpose(1, 2)
        shape = (target.shape[0], target.shape[1], weight.shape[0], history.shape[1])
        inside = pairs.view(shape) + behaviours.transpose(1, 2).unsqueeze(1)
        inside = functional.silu(inside + candidates.unsqueeze(3))
        return (self.out.weight @ inside).squeeze(2) + self.bias

    def forward(self, target: Tensor, history: Tensor, situation: Tensor, mask: Tensor) -> Tensor:
        """Choose.

        Args:
            target: Candidates, shape ``[B, C, E]``.
            history: Behaviours, shape ``[B, L, E]``; padding may hold anything.
            situation: Of the behaviours, shape ``[B, L, S]``; padding may hold anything.
            mask: Which behaviours are real, shape ``[B, L]``, bool.

        Returns:
            Keep weights from 0 to 1, zero at padding, shape ``[B, C, L]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.item_dim])
        history = _check.shape(history, "history", [target.shape[0], -1, self.item_dim])
        dims = [history.shape[0], history.shape[1], self.situation_dim]
        situation = _check.shape(situation, "situation", dims)
        real = _padding.boolean(mask, "mask", [history.shape[0], history.shape[1]])
        history, situation = _padding.zeroed(history, real), _padding.zeroed(situation, real)
        return self.keep(self.logits(target, history, situation), real)
