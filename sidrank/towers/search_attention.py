r"""Search a long history for each candidate, then attend to what was found.

A history of ten thousand behaviours is too long for target attention. A general search unit (GSU)
takes the ``k`` behaviours whose frozen dense vector has the largest inner product with the
candidate's; an exact search unit (ESU) attends to those few with embeddings that learn. Semantic
IDs enter there: a behaviour is read as ``[id; sid_1; ...; sid_N]``, so a candidate nobody has seen
yet still finds itself in the codes it shares.

Sources: SIM, arXiv 2006.05639 (two units); QARM V2, arXiv 2602.08559 (dense vectors in the GSU,
semantic IDs as trainable embeddings in the ESU). Differs from the sources: ties go to the newer
behaviour [derived]; what was found is in the order of time [derived]. Vectors reduced by a PCA,
as in the source, are the caller's: any vectors will do.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``T`` found ones, ``D`` width.
"""

from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import CrossAttention, _padding
from sidrank.sequences import selection
from sidrank.towers.eta import LSHSearch

__all__ = ["ESUTargetAttention", "GSUSearch", "SearchAttention"]


class GSUSearch(nn.Module):
    r"""The ``k`` behaviours with the largest inner product with each candidate.

    .. math::  \mathrm{top}_k\; \langle x_{target}, x_l \rangle

    Without parameters and without a gradient. Products are made in float64, also under autocast,
    so that what is found depends neither on the batch nor on the precision of the model.

    Args:
        k: The most behaviours to find.

    Raises:
        ValueError: If ``k`` is less than one.

    Example:
        >>> import torch
        >>> target = torch.tensor([[[1.0, 0.0]]])
        >>> history = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]])
        >>> times, now = torch.tensor([[1, 2, 3]]), torch.tensor([3])
        >>> index, mask = GSUSearch(k=2)(target, history, torch.ones(1, 3).bool(), times, now)
        >>> index.tolist()  # the third is of this very moment
        [[[0, 1]]]
    """

    def __init__(self, *, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def forward(
        self, target: Tensor, history: Tensor, mask: Tensor, times: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find behaviours.

        Args:
            target: Dense vectors of the candidates, shape ``[B, C, D]``.
            history: Dense vectors of the behaviours, shape ``[B, L, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                found.

        Returns:
            Places in the history, oldest first, shape ``[B, C, T]`` with ``T = min(k, L)``, and
            which of them are real.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, -1])
        history = _check.shape(history, "history", [target.shape[0], -1, target.shape[2]])
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [history.shape[0], history.shape[1]])
        # padding, whatever it holds, spoils its own scores only, and those are not read
        scores = target.detach().double() @ history.detach().double().transpose(1, 2)
        chosen = known.unsqueeze(1).expand_as(scores)
        return selection.best_by_time(scores, chosen, times, self.k)


class ESUTargetAttention(nn.Module):
    r"""Each candidate attends to the behaviours that were found for it.

    .. math::  \mathrm{MultiHead}(e_{target};\, \{e_l\}), \qquad
        e = [e_{id}; e_{sid_1}; \dots; e_{sid_N}]

    Args:
        behaviour_dim: Width of ``e``, the same for candidates and behaviours.
        dim: Width ``D`` of the answer.
        num_heads: Attention heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> import torch
        >>> attend = ESUTargetAttention(behaviour_dim=12, dim=8, num_heads=2)
        >>> some = torch.ones(2, 3, 5).bool()
        >>> attend(torch.randn(2, 3, 12), torch.randn(2, 3, 5, 12), some).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, *, behaviour_dim: int, dim: int, num_heads: int = 1) -> None:
        super().__init__()
        self.attention = CrossAttention(
            dim=dim, query_dim=behaviour_dim, key_dim=behaviour_dim, num_heads=num_heads
        )
        self.behaviour_dim = behaviour_dim
        self.dim = dim

    def forward(self, target: Tensor, behaviours: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            target: Embeddings of the candidates, shape ``[B, C, behaviour_dim]``.
            behaviours: Embeddings of what was found for each, shape ``[B, C, T, behaviour_dim]``.
            mask: Which of them are real, shape ``[B, C, T]``, bool.

        Returns:
            Answers, shape ``[B, C, D]``; a learned vector where nothing was found.

        Raises:
            ValueError: If the shapes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.behaviour_dim])
        rows, candidates = target.shape[0], target.shape[1]
        found = _check.shape(behaviours, "behaviours", [rows, candidates, -1, self.behaviour_dim])
        real = _padding.boolean(mask, "mask", [rows, candidates, found.shape[2]])
        answers = self.attention(
            target.flatten(0, 1).unsqueeze(1), found.flatten(0, 1), real.flatten(0, 1)
        )
        return answers.reshape(rows, candidates, self.dim)


class SearchAttention(nn.Module):
    """Both units: search with frozen vectors, attend with embeddings that learn.

    Args:
        search: Finds behaviours.
        attention: Reads them.

    Example:
        >>> import torch
        >>> tower = SearchAttention(
        ...     search=GSUSearch(k=4), attention=ESUTargetAttention(behaviour_dim=12, dim=8))
        >>> target, history = torch.randn(2, 3, 12), torch.randn(2, 9, 12)
        >>> dense_target, dense_history = torch.randn(2, 3, 5), torch.randn(2, 9, 5)
        >>> times, now = torch.arange(9).expand(2, 9), torch.tensor([9, 5])
        >>> tower(target, history, dense_target, dense_history,
        ...       torch.ones(2, 9).bool(), times, now).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, *, search: GSUSearch | LSHSearch, attention: ESUTargetAttention) -> None:
        super().__init__()
        self.search = search
        self.attention = attention

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        target_vectors: Tensor,
        history_vectors: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
    ) -> Tensor:
        """Search and attend.

        Args:
            target: Embeddings ``[id; sid_1; ...; sid_N]`` of the candidates, side by side,
                shape ``[B, C, behaviour_dim]``.
            history: The same of the behaviours, shape ``[B, L, behaviour_dim]``.
            target_vectors: Dense vectors of the candidates, shape ``[B, C, D]``.
            history_vectors: Dense vectors of the behaviours, shape ``[B, L, D]``. Neither gets
                a gradient.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                found.

        Returns:
            Answers, shape ``[B, C, dim]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target_vectors = _check.shape(
            target_vectors, "target_vectors", [target.shape[0], target.shape[1], -1]
        )
        history_vectors = _check.shape(
            history_vectors, "history_vectors", [history.shape[0], history.shape[1], -1]
        )
        index, real = self.search(target_vectors, history_vectors, mask, times, now)
        return self.attention(target, selection.take(history, index, real), real)
