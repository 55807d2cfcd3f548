r"""Search and attention by one score, so that what is found is what attention would have read.

A search with frozen vectors finds other behaviours than those that the attention behind it weighs
most. TWIN searches with the attention's own queries and keys: the ``k`` behaviours found are the
``k`` that target attention over the whole history would give the largest weights.

Source: TWIN, Chang et al., KDD 2023, arXiv 2302.02352. Differs from the source: the split of a
behaviour into inherent features, whose keys can be kept, and crosses with the user, which add one
number to the score, is the caller's: all features are in the behaviour's vector [derived]; each
head finds its own behaviours [derived].

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``T`` found ones, ``H`` heads, ``D`` width.
"""

from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import CrossAttention, _padding
from sidrank.layers.attention import attend
from sidrank.sequences import selection

__all__ = ["TWIN"]


class TWIN(nn.Module):
    r"""Target attention over the ``k`` behaviours that weigh most in it.

    .. math::  \alpha_l = \frac{(W_q e_{target})^\top W_k e_l}{\sqrt{D / H}}, \qquad
        S = \mathrm{top}_k\, \alpha, \qquad
        W_o \sum_{l \in S} \mathrm{softmax}_S(\alpha)_l\, W_v e_l

    With ``k`` at least ``L`` it *is* the attention over the whole history. The choice has no
    gradient; the weights of the chosen behaviours do. The choice is made in float64, so that what
    is found depends neither on the batch nor on the precision of the model.

    Args:
        attention: The score that both share, and what is made of the behaviours found.
        k: The most behaviours that a head finds.

    Raises:
        ValueError: If ``k`` is less than one.

    Example:
        >>> import torch
        >>> tower = TWIN(attention=CrossAttention(dim=8, query_dim=6, key_dim=6, num_heads=2), k=3)
        >>> times, now = torch.arange(9).expand(2, 9), torch.tensor([9, 5])
        >>> target, history = torch.randn(2, 4, 6), torch.randn(2, 9, 6)
        >>> tower(target, history, torch.ones(2, 9).bool(), times, now).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, *, attention: CrossAttention, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.attention = attention
        self.k = k

    def search(
        self, target: Tensor, history: Tensor, mask: Tensor, times: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find behaviours, for each head its own.

        Args:
            target: Candidates, shape ``[B, C, query_dim]``.
            history: Behaviours, shape ``[B, L, key_dim]``; padding may hold anything.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                found.

        Returns:
            Places in the history, oldest first, shape ``[B, H * C, T]``, heads outside, with
            ``T = min(k, L)``, and which of them are real.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        one = self.attention
        target = _check.shape(target, "target", [-1, -1, one.query_dim])
        history = _check.shape(history, "history", [target.shape[0], -1, one.key_dim])
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [history.shape[0], history.shape[1]])
        query = self._heads(_exact_linear(target, one.query.weight, one.query.bias))
        key = self._heads(_exact_linear(history, one.key.weight))
        scores = (query @ key.transpose(2, 3)).flatten(1, 2)
        return selection.best_by_time(scores, known.unsqueeze(1).expand_as(scores), times, self.k)

    def forward(
        self, target: Tensor, history: Tensor, mask: Tensor, times: Tensor, now: Tensor
    ) -> Tensor:
        """Search and attend.

        Args:
            target: As in :meth:`search`.
            history: As in :meth:`search`.
            mask: As in :meth:`search`.
            times: As in :meth:`search`.
            now: As in :meth:`search`.

        Returns:
            Answers, shape ``[B, C, D]``; the bias of the last layer where nothing was found.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        one = self.attention
        index, real = self.search(target, history, mask, times, now)
        rows, candidates = target.shape[0], target.shape[1]
        history = _padding.zeroed(history, mask)
        query = self._heads(one.query(target))
        # [B, H * C, 1, d] queries, [B, H * C, T, d] keys and values: a head reads its own
        key = self._found(one.key(history), index)
        value = self._found(one.value(history), index)
        context = attend(query.flatten(1, 2).unsqueeze(2), key, value, visible=real.unsqueeze(2))
        context = context.reshape(rows, one.num_heads, candidates, one.head_dim)
        return one.out(context.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        one = self.attention
        return x.unflatten(2, (one.num_heads, one.head_dim)).transpose(1, 2)

    def _found(self, x: Tensor, index: Tensor) -> Tensor:
        heads = self._heads(x)
        places = index.unflatten(1, (self.attention.num_heads, -1)).flatten(2)
        shape = (index.shape[0], index.shape[1], index.shape[2], heads.shape[3])
        where = places.unsqueeze(3).expand(-1, -1, -1, heads.shape[3])
        return heads.gather(2, where).reshape(shape)


def _exact_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    offset = None if bias is None else bias.detach().double()
    return functional.linear(x.detach().double(), weight.detach().double(), offset)
