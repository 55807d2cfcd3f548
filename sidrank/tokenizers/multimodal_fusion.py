r"""One item vector from several views of the item: its text, its images, its graph neighbours.

Learned queries read the tokens of all views, and what they have read is averaged:

.. math::  t = \mathrm{LN}(W_v x_v), \qquad
    Q' = Q + \mathrm{MHA}(\mathrm{LN}\,Q, t, t), \qquad
    e = \mathrm{mean}_m \big(Q' + \mathrm{FFN}(\mathrm{LN}\,Q')\big)

A view is a vector or a set of tokens, and any view of an item may be missing. Trained on
co-engaged pairs (``fused_vectors.py``), the queries take from each view what makes items be
used together and leave the rest, before a tokenizer spends codes on it.
``concatenated_views`` is what it has to beat: every view at length one, side by side.

Source: OxygenREC, arXiv 2512.22386, which says "Q-Former fusion and contrastive alignment" and
no more. Differs from the source: all of the layer [derived] from BLIP-2 (arXiv 2301.12597) and
Perceiver (arXiv 2103.03206): one layer, no attention among queries, the norm after the
projection of a view, ReLU inside.

Shapes: ``B`` items, ``T_v`` tokens of a view, ``D_v`` their width, ``T`` tokens of all views,
``M`` queries, ``H`` heads, ``D`` width of the item vector.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers.cross_attention import CrossAttention
from sidrank.tokenizers._drawn_weights import draw_linear_layers, drawn

__all__ = ["MultimodalFusion", "concatenated_views"]


class MultimodalFusion(nn.Module):
    """Learned queries that read all views of an item.

    An output depends on the tokens of its own item that are there, and on nothing else: not on
    their order within a view, on other rows, or on what stands in masked places.

    Args:
        widths: Width ``D_v`` of each view, by name.
        dim: Width ``D`` of the item vector.
        num_queries: Number of queries ``M``.
        num_heads: Heads ``H`` of the attention.
        hidden: Width of the hidden layer behind the attention; None takes ``2 D``.

    Raises:
        ValueError: If there is no view, a name is no identifier, a size is less than 1, or
            ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> fusion = MultimodalFusion(widths={"text": 8, "image": 6}, dim=16)
        >>> text, patches = torch.randn(2, 8), torch.randn(2, 5, 6)
        >>> there = {"image": torch.tensor([[True] * 5, [False] * 5])}  # one has no image
        >>> fusion({"text": text, "image": patches}, there).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        dim: int = 64,
        num_queries: int = 4,
        num_heads: int = 4,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = 2 * dim if hidden is None else hidden
        if not widths or not all(name.isidentifier() for name in widths):
            raise ValueError(f"widths must name one view or more, got {list(widths)}")
        sizes = {f"widths[{name!r}]": width for name, width in widths.items()}
        sizes |= {"dim": dim, "num_queries": num_queries}
        sizes |= {"num_heads": num_heads, "hidden": hidden}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads {num_heads}, got {dim}")
        self.widths = dict(widths)
        self.dim = dim
        # the prefix keeps names such as "type" clear of the attributes of a module dictionary
        self.projections = nn.ModuleDict(
            {f"view_{name}": nn.Linear(width, dim) for name, width in widths.items()}
        )
        self.norms = nn.ModuleDict({f"view_{name}": nn.LayerNorm(dim) for name in widths})
        self.queries = nn.Parameter(torch.empty(num_queries, dim))
        self.query_norm = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim=dim, query_dim=dim, key_dim=dim, num_heads=num_heads)
        self.hidden_norm = nn.LayerNorm(dim)
        self.hidden_in = nn.Linear(dim, hidden)
        self.hidden_out = nn.Linear(hidden, dim)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew.

        Args:
            generator: Where they come from, on the CPU; None is the global one.
        """
        draw_linear_layers(self, generator)
        drawn(self.queries, self.dim**-0.5, generator)

    def forward(self, views: dict[str, Tensor], masks: dict[str, Tensor] | None = None) -> Tensor:
        """Fuse the views of each item.

        Args:
            views: Every view by name, shape ``[B, D_v]`` or ``[B, T_v, D_v]``.
            masks: What is there, by name of the view, shape ``[B]`` or ``[B, T_v]``, bool; a
                view that has none is there for every item.

        Returns:
            Item vectors, shape ``[B, D]``; only their direction is trained. An item of which
            nothing is there gets the same constant as any other such item.

        Raises:
            ValueError: If a view is missing or unknown, or a shape or a dtype does not fit.
        """
        projected: list[Tensor] = []
        present: list[Tensor] = []
        for name in self.widths:
            tokens, there = self.view(name, views, masks)
            projected.append(tokens)
            present.append(there)
        return self.read(torch.cat(projected, dim=1), torch.cat(present, dim=1))

    def view(
        self, name: str, views: dict[str, Tensor], masks: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Project one view to the width that all share.

        Args:
            name: Which.
            views: As in :meth:`forward`.
            masks: As in :meth:`forward`.

        Returns:
            Tokens, shape ``[B, T_v, D]``, and whether each is there, shape ``[B, T_v]``.

        Raises:
            ValueError: If a view is missing or unknown, or a shape or a dtype does not fit.
        """
        tokens = _tokens(views, name, self.widths)
        there = _present(tokens, masks, name, self.widths)
        # where, not a product: what is masked may be nan
        tokens = torch.where(there.unsqueeze(2), tokens, 0)
        key = f"view_{name}"
        return self.norms[key](self.projections[key](tokens)), there

    def checked(
        self, views: dict[str, Tensor], masks: dict[str, Tensor] | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Check views and masks, and bring them to one form.

        Args:
            views: As in :meth:`forward`.
            masks: As in :meth:`forward`.

        Returns:
            Of each view its tokens, shape ``[B, T_v, D_v]``, and whether each is there, shape
            ``[B, T_v]``.

        Raises:
            ValueError: If a view is missing or unknown, or a shape or a dtype does not fit.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.widths:
            tokens = _tokens(views, name, self.widths)
            found[name] = tokens, _present(tokens, masks, name, self.widths)
        return found

    def read(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Let the queries read tokens, and average them.

        Args:
            tokens: Projected tokens of all views, shape ``[B, T, D]``.
            there: Whether each is there, shape ``[B, T]``, bool.

        Returns:
            Item vectors, shape ``[B, D]``.
        """
        queries = self.query_norm(self.queries).expand(tokens.shape[0], -1, -1)
        states = self.queries + self.attention(queries, tokens, there)
        states = states + self.hidden_out(F.relu(self.hidden_in(self.hidden_norm(states))))
        return states.mean(dim=1)


def concatenated_views(
    views: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Put the views side by side, each at length one: the control that fusion has to beat.

    Args:
        views: Every view by name, shape ``[V, D_v]`` or ``[V, T_v, D_v]``; of tokens the mean
            is taken.
        masks: What is there, by name of the view, shape ``[V]`` or ``[V, T_v]``, bool; a view
            that has none is there for every item.

    Returns:
        Vectors, shape ``[V, sum D_v]``, float32, in the order of ``views``; zeros for a view
        that is missing.

    Raises:
        ValueError: If there is no view, or a shape or a dtype does not fit.

    Example:
        >>> text, image = torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0], [5.0]]])
        >>> concatenated_views({"text": text, "image": image})
        tensor([[0.6000, 0.8000, 1.0000]])
    """
    if not views:
        raise ValueError("views must hold one view or more, got none")
    given, known = dict(views), None if masks is None else dict(masks)
    widths = {name: view.shape[-1] for name, view in given.items()}
    parts: list[Tensor] = []
    for name in given:
        tokens = _tokens(given, name, widths).float()
        there = _present(tokens, known, name, widths).unsqueeze(2)
        # each token divided first: sums of large numbers would overflow
        count = there.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (torch.where(there, tokens, 0) / count).sum(dim=1)
        parts.append(F.normalize(mean, dim=1))
    return torch.cat(parts, dim=1)


@torch.fx.wrap
def _tokens(views: dict[str, Tensor], name: str, widths: dict[str, int]) -> Tensor:
    """One view as tokens ``[B, T_v, D_v]``."""
    if sorted(views) != sorted(widths):
        raise ValueError(f"views must be {sorted(widths)}, got {sorted(views)}")
    rows = views[next(iter(widths))].shape[0]
    tokens = views[name]
    dims = [rows, widths[name]] if tokens.dim() == 2 else [rows, -1, widths[name]]
    tokens = _check.shape(tokens, f"views[{name!r}]", dims)
    if not tokens.is_floating_point():
        raise ValueError(f"views[{name!r}] must be floating point, got {tokens.dtype}")
    return tokens.unsqueeze(1) if tokens.dim() == 2 else tokens


@torch.fx.wrap
def _present(
    tokens: Tensor, masks: dict[str, Tensor] | None, name: str, widths: dict[str, int]
) -> Tensor:
    """Which tokens of a view are there, ``[B, T_v]``."""
    if masks is not None:
        unknown = sorted(set(masks) - set(widths))
        if unknown:
            raise ValueError(f"masks must be of {sorted(widths)}, got {unknown}")
        if name in masks:
            mask = masks[name]
            if mask.dtype != torch.bool:
                raise ValueError(f"masks[{name!r}] must be bool, got {mask.dtype}")
            dims = [tokens.shape[0]] if mask.dim() == 1 else [tokens.shape[0], tokens.shape[1]]
            mask = _check.shape(mask, f"masks[{name!r}]", dims)
            return (mask.unsqueeze(1) if mask.dim() == 1 else mask).expand(tokens.shape[:2])
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
