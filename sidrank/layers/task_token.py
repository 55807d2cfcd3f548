r"""What the request is for, as a token and as a gate.

One ranker serves several objectives (click, order) in several scenes (search, home page). A token
for each pair tells a sequence model which; a gate lets the same token scale the lanes of a host's
vector, each by a factor between 0 and 2 that is exactly 1 at birth.

Sources: UniRec, arXiv 2604.12234, the task-conditioned BOS (objective x scene) and the content
summary beside it; PEPNet, arXiv 2302.01115, the gate ``2 * sigmoid``.
Differs from the sources: the summary is projected and added to the token, not fed beside it; the
gate's last layer is zero at birth, so that it is the identity, not near it [derived].

Shapes: ``B`` rows, ``D`` width of the token, ``S`` width of the content summary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check

__all__ = ["TaskConditionedBOS", "TaskGate"]


class TaskConditionedBOS(nn.Module):
    r"""One token a request, first in its sequence.

    .. math::  h = T_{objective,\, scene} + P\, c

    Args:
        num_objectives: Number of objectives.
        num_scenes: Number of scenes.
        dim: Width ``D`` of the token.
        summary_dim: Width ``S`` of the content summary; 0 is for none.

    Raises:
        ValueError: If a size is less than one, or ``summary_dim`` less than zero.

    Example:
        >>> bos = TaskConditionedBOS(num_objectives=2, num_scenes=3, dim=4)
        >>> token = bos(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.zeros(2, 0))
        >>> torch.cat([token, torch.zeros(2, 5, 4)], dim=1).shape
        torch.Size([2, 6, 4])
    """

    def __init__(
        self, *, num_objectives: int, num_scenes: int, dim: int, summary_dim: int = 0
    ) -> None:
        super().__init__()
        sizes = {"num_objectives": num_objectives, "num_scenes": num_scenes, "dim": dim}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if summary_dim < 0:
            raise ValueError(f"summary_dim must be at least 0, got {summary_dim}")
        self.num_objectives = num_objectives
        self.num_scenes = num_scenes
        self.summary_dim = summary_dim
        self.tokens = nn.Parameter(torch.empty(num_objectives * num_scenes, dim))
        self.summary = nn.Linear(summary_dim, dim, bias=False) if summary_dim else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the tokens anew; the projection has its own."""
        nn.init.normal_(self.tokens, std=self.tokens.shape[1] ** -0.5)

    def forward(self, objective: Tensor, scene: Tensor, summary: Tensor) -> Tensor:
        """Make the token of each request.

        Args:
            objective: Number of the objective, shape ``[B]``, int64 or int32.
            scene: Number of the scene, shape ``[B]``, int64 or int32.
            summary: Content summary, shape ``[B, S]``.

        Returns:
            Tokens, shape ``[B, 1, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
            IndexError: On a CPU, if a number is outside its range; a GPU stops with its own
                error.
        """
        objective = _check.integer(_check.shape(objective, "objective", [-1]), "objective")
        rows = objective.shape[0]
        scene = _check.integer(_check.shape(scene, "scene", [rows]), "scene")
        content = _check.shape(summary, "summary", [rows, self.summary_dim])
        inside = (objective >= 0) & (objective < self.num_objectives)
        inside = inside & (scene >= 0) & (scene < self.num_scenes)
        # the last scene plus one is no scene of the next objective: -1 is refused by the lookup
        pair = torch.where(inside, objective * self.num_scenes + scene, -1)
        token = F.embedding(pair, self.tokens)
        if self.summary is not None:
            token = token + self.summary(content)
        return token.unsqueeze(1)


class TaskGate(nn.Module):
    r"""Scale each lane of a vector by what the request is for.

    .. math::  y = x \odot 2\,\sigma\big(V\, \mathrm{ReLU}(U [t; \mathrm{sg}(x)] + b) + c\big),
        \qquad V = 0,\ c = 0 \text{ at birth}

    At birth ``y`` is ``x``, bit for bit, also under autocast. ``sg`` stops the gradient.

    Args:
        dim: Width of the vector ``x``.
        token_dim: Width ``D`` of the token ``t``.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> gate, x = TaskGate(dim=4, token_dim=8), torch.randn(2, 4)
        >>> torch.equal(gate(x, torch.randn(2, 1, 8)), x)
        True
    """

    def __init__(self, *, dim: int, token_dim: int, hidden: int = 32) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("token_dim", token_dim), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.token_dim = token_dim
        self.hidden = nn.Linear(token_dim + dim, hidden)
        self.gate = _Zero(hidden, dim)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Scale the vectors.

        Args:
            x: The host's vectors, shape ``[B, dim]``.
            token: Tokens of :class:`TaskConditionedBOS`, shape ``[B, 1, D]``.

        Returns:
            Vectors, shape ``[B, dim]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, self.dim])
        token = _check.shape(token, "token", [x.shape[0], 1, self.token_dim])
        hidden = F.relu(self.hidden(torch.cat([token.squeeze(1), x.detach()], dim=1)))
        return x * (2.0 * torch.sigmoid(self.gate(hidden)))


class _Zero(nn.Linear):
    """A linear layer that is born zero; whoever resets it, in whatever order."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
