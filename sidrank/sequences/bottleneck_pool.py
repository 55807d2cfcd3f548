r"""A history as one vector that must say what comes next.

``K`` learned tokens follow the history and are pooled. In training the user's next behaviours
follow them and are predicted one from another, but under the condensation mask they see only the
tokens: what predicts them must have gone through the tokens. At inference there are no targets.

Source: Bottleneck Tokens, arXiv 2604.11095: tokens, pooling and condensation mask. Differs from
the source: the target is the next behaviours of the same user, not a text [derived]; a learned
start, not the last token, predicts the first target, so that every target depends on the history
through keys and values of the tokens alone [derived]; the targets are run over a memory of the
tokens, which equals the masked pass.

Shapes: ``B`` rows, ``L`` behaviours, ``K`` tokens, ``T`` targets, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.self_attention import Memory
from sidrank.sequences import _segment_pass

__all__ = ["BottleneckPool", "CondensedPrediction"]


class BottleneckPool(nn.Module):
    """Learned tokens after a history, pooled to a vector.

    A row without behaviours yields a vector too, always the same one.

    Args:
        blocks: The stack, of one width, without windows.
        num_tokens: Number ``K`` of tokens.
        projection: Maps the tokens side by side, ``K * D`` wide, to the vector; ``None`` is
            their mean.

    Raises:
        ValueError: If ``num_tokens`` is less than one, the blocks are no stack or the projection
            has another width.

    Example:
        >>> from sidrank.layers.self_attention import SelfAttention
        >>> block = DecoderBlock(attention=SelfAttention(dim=8, num_heads=2), hidden=16)
        >>> pool = BottleneckPool(blocks=[block], num_tokens=4)
        >>> pool(torch.randn(2, 5, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        blocks: Sequence[DecoderBlock],
        num_tokens: int,
        projection: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.blocks = _segment_pass.checked(blocks, 1)
        self.dim = blocks[0].attention.dim
        self.num_tokens = num_tokens
        wide = num_tokens * self.dim
        if projection is not None and projection.in_features != wide:
            raise ValueError(
                f"projection must have {wide} input features, got {projection.in_features}"
            )
        self.projection = projection
        self.tokens = nn.Parameter(torch.empty(num_tokens, self.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the tokens anew; blocks and projection have their own."""
        nn.init.normal_(self.tokens, std=self.dim**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool histories.

        Args:
            x: Behaviours, oldest first, shape ``[B, L, D]``; padding may stand anywhere and hold
                anything.
            mask: Which are real, shape ``[B, L]``, bool.

        Returns:
            Vectors, shape ``[B, D]``, or as wide as the projection's.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self.pooled(self.states(x, mask)[0])

    def states(self, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Memory], Tensor]:
        """The tokens before pooling, and as what follows may read them.

        Args:
            x: As in :meth:`forward`.
            mask: As in :meth:`forward`.

        Returns:
            States, shape ``[B, K, D]``; the tokens' keys, values and mask at each layer; the
            position of what comes next, shape ``[B]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [x.shape[0], x.shape[1]])
        tokens = self.tokens.to(x.dtype).unsqueeze(0).expand(x.shape[0], -1, -1)
        there = torch.ones_like(tokens[:, :, 0], dtype=torch.bool)
        both = torch.cat([_padding.zeroed(x, real), tokens], dim=1)
        all_real = torch.cat([real, there], dim=1)
        places = _segment_pass.following(all_real.sum(dim=1) * 0, all_real)
        blocks, length = _segment_pass.listed(self.blocks), x.shape[1]
        y, memory = _segment_pass.run(blocks, both, all_real, places, None, length)
        return y[:, length:], memory, all_real.sum(dim=1)

    def pooled(self, states: Tensor) -> Tensor:
        """Pool the tokens.

        Args:
            states: Shape ``[B, K, D]``.

        Returns:
            Vectors, shape ``[B, D]``, or as wide as the projection's.
        """
        return states.mean(dim=1) if self.projection is None else self.projection(states.flatten(1))


class CondensedPrediction(nn.Module):
    """Train a pool by predicting what the user does next from its tokens alone.

    Score the states against embeddings of items or codes and take the cross-entropy of the
    targets; the pooled vector is there for a contrastive loss beside it. The same blocks read
    history and targets. Not needed at inference.

    Args:
        pool: The pool to train, of two blocks at least: a token's keys at the first know nothing
            of what it will read, and there would be nothing to predict from.

    Raises:
        ValueError: If the pool has one block.

    Example:
        >>> from sidrank.layers.self_attention import SelfAttention
        >>> blocks = [DecoderBlock(attention=SelfAttention(dim=8), hidden=16) for _ in range(2)]
        >>> predict = CondensedPrediction(pool=BottleneckPool(blocks=blocks, num_tokens=4))
        >>> history, next_items = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
        >>> vectors, states = predict(
        ...     history, torch.ones(2, 5).bool(), next_items, torch.ones(2, 3).bool())
        >>> vectors.shape, states.shape  # states[:, i] predicts next_items[:, i]
        (torch.Size([2, 8]), torch.Size([2, 3, 8]))
    """

    def __init__(self, *, pool: BottleneckPool) -> None:
        super().__init__()
        if len(pool.blocks) < 2:
            raise ValueError(f"pool must have at least 2 blocks, got {len(pool.blocks)}")
        self.pool = pool
        self.start = nn.Parameter(torch.empty(pool.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start anew; the pool has its own."""
        nn.init.normal_(self.start, std=self.pool.dim**-0.5)

    def forward(
        self, x: Tensor, mask: Tensor, targets: Tensor, target_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pool histories and predict what comes next, each target from those before it.

        Args:
            x: Behaviours, oldest first, shape ``[B, L, D]``; padding may stand anywhere and hold
                anything.
            mask: Which are real, shape ``[B, L]``, bool.
            targets: The next behaviours, in order, shape ``[B, T, D]``.
            target_mask: Which are real, shape ``[B, T]``, bool.

        Returns:
            Vectors as of the pool, and states, shape ``[B, T, D]``: the one at a target has seen
            the tokens and earlier targets, not the target; zero at padding.

        Raises:
            ValueError: If the shapes do not fit.
        """
        states, memory, before = self.pool.states(x, mask)
        return self.pool.pooled(states), self.predicted(targets, target_mask, memory, before)

    def predicted(
        self, targets: Tensor, target_mask: Tensor, memory: list[Memory], before: Tensor
    ) -> Tensor:
        """Predict from the tokens' keys and values.

        Args:
            targets: As in :meth:`forward`.
            target_mask: As in :meth:`forward`.
            memory: What :meth:`BottleneckPool.states` returned.
            before: The position it returned.

        Returns:
            States, shape ``[B, T, D]``, zero at padding.

        Raises:
            ValueError: If the shapes do not fit.
        """
        targets = _check.shape(targets, "targets", [before.shape[0], -1, self.pool.dim])
        dims = [targets.shape[0], targets.shape[1]]
        real = _padding.boolean(target_mask, "target_mask", dims)
        targets, real, back = _segment_pass.in_order(
            _padding.zeroed(targets, real), real, real_last=False
        )
        start = self.start.to(targets.dtype).expand(targets.shape[0], 1, -1)
        shifted = torch.cat([start, targets], dim=1)[:, : targets.shape[1]]
        places = _segment_pass.following(before, real)
        blocks = _segment_pass.listed(self.pool.blocks)
        y = _segment_pass.run(blocks, shifted, real, places, memory, targets.shape[1])[0]
        return _segment_pass.taken(y, back)
