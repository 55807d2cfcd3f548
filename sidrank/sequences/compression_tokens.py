r"""Learned tokens that compress old behaviours, so that a request need not read them.

At the end of each segment of the history stand ``k`` learned tokens. Behaviours read those of
their own segment and the learned tokens of all earlier ones, so whatever the recent behaviours
know of the old ones went through the tokens. Their keys and values are computed once, off the
request path (:meth:`CompressionTokens.compress`), and an online call costs the same after 500 past
behaviours as after 50,000 (:meth:`CompressionTokens.recent`).

Source: PerSRec, arXiv 2601.03479, and its official code: the mask, the positions that continue
(``number of old behaviours + number of learned tokens``), the outputs at behaviours alone.
Differs from the source: segments are run one after another over a memory of the learned tokens,
which costs the sum of their squared lengths and equals the masked pass (``masked``); histories are
ragged, and an offset counts real behaviours, from the oldest or from the newest [derived]; the
tokens of a segment without behaviours are absent, so that a user without a past is read as one
[derived].

Shapes: ``B`` rows, ``L`` behaviours, ``M`` learned tokens, ``N`` layers, ``H`` heads, ``d`` width
of a head, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding, segment_masks
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.self_attention import Memory
from sidrank.sequences import _segment_pass
from sidrank.sequences.token_kv_cache import TokenStates

__all__ = ["CompressionTokens"]


class CompressionTokens(nn.Module):
    r"""A stack of blocks over a history whose old segments are read through learned tokens.

    .. math::  M_{ij} = [\,j \le i\,] \wedge \neg\,(s_j < s_i \wedge j \text{ is a behaviour})

    Args:
        blocks: The stack, of one width, without windows; two at least, since keys at the first
            layer know nothing of what their token will read.
        insert: Where learned tokens stand and how many: pairs ``(offset, k)``, offsets ascending.
            A positive offset counts real behaviours from the oldest: ``(400, 8)`` is after the
            400th, and earlier segments never move as a history grows. A negative one counts from
            the newest: ``(-100, 8)`` leaves the last 100 uncompressed however long a history is.
            ``k`` may be 0: nothing passes.

    Raises:
        ValueError: If there are fewer than two blocks, they differ in width or have windows,
            offsets are not ascending or of both signs, or a ``k`` is less than zero.

    Example:
        >>> from sidrank.layers.self_attention import SelfAttention
        >>> blocks = [DecoderBlock(attention=SelfAttention(dim=8), hidden=16) for _ in range(2)]
        >>> encode = CompressionTokens(blocks=blocks, insert=[(-2, 3)])
        >>> old, new = torch.randn(1, 5, 8), torch.randn(1, 2, 8)
        >>> states = encode.compress(old, torch.ones(1, 5).bool())  # once a day
        >>> online = encode.recent(new, torch.ones(1, 2).bool(), states)  # at each request
        >>> whole = encode(torch.cat([old, new], dim=1), torch.ones(1, 7).bool())  # in training
        >>> torch.allclose(online, whole[:, 5:], atol=1e-5)
        True
    """

    def __init__(
        self, *, blocks: Sequence[DecoderBlock], insert: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.insert = _pairs(insert)
        self.blocks = _segment_pass.checked(blocks, 2)
        attention = blocks[0].attention
        self.dim = attention.dim
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.tokens = nn.Parameter(torch.empty(sum(k for _, k in self.insert), self.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learned tokens anew; the blocks have their own."""
        nn.init.normal_(self.tokens, std=self.dim**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode whole histories, segment by segment.

        Args:
            x: Behaviours, oldest first, shape ``[B, L, D]``; padding may stand anywhere and hold
                anything.
            mask: Which are real, shape ``[B, L]``, bool.

        Returns:
            States of the behaviours, shape ``[B, L, D]``, zero at padding.

        Raises:
            ValueError: If the shapes do not fit.
        """
        pieces, back = self._pieces(x, mask, [offset for offset, _ in self.insert])
        states, memory, before = self._compressed(pieces[:-1])
        last, real = pieces[-1]
        states.append(self._recent(last, real, memory, before))
        return _segment_pass.taken(torch.cat(states, dim=1), back)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same in one pass with a mask of all pairs: the definition, of quadratic cost.

        Args:
            x: As in :meth:`forward`.
            mask: As in :meth:`forward`.

        Returns:
            What :meth:`forward` returns.

        Raises:
            ValueError: If the shapes do not fit.
        """
        pieces, back = self._pieces(x, mask, [offset for offset, _ in self.insert])
        tokens: list[Tensor] = []
        real: list[Tensor] = []
        segments: list[Tensor] = []
        learned: list[Tensor] = []
        for number, (items, items_real) in enumerate(pieces):
            parts = [(items, items_real)]
            if number < len(self.insert):
                parts.append(self._learned(number, items, items_real))
            for is_learned, (part, part_real) in enumerate(parts):
                tokens.append(part)
                real.append(part_real)
                segments.append(torch.full_like(part_real, number, dtype=torch.int64))
                learned.append(torch.full_like(part_real, bool(is_learned)))
        y, all_real, is_learned = (torch.cat(parts, dim=1) for parts in (tokens, real, learned))
        visible = segment_masks.segment_mask(torch.cat(segments, dim=1), is_learned)
        places = _segment_pass.following(all_real.sum(dim=1) * 0, all_real)
        for block in _segment_pass.listed(self.blocks):
            y = block(y, all_real, places, visible)
        # behaviours alone, without what was put between them
        sizes = [part.shape[1] for part in tokens]
        states = torch.split(y, sizes, dim=1)
        kept = [states[2 * number] for number in range(len(pieces))]
        return _segment_pass.taken(torch.cat(kept, dim=1), back)

    def compress(self, x: Tensor, mask: Tensor) -> TokenStates:
        """Compress old behaviours, all of them: the last segment ends at the newest given.

        With :meth:`recent` this equals :meth:`forward` over both whenever its last offset falls
        between them. Negative offsets are shifted accordingly: with ``[(-300, 4), (-100, 4)]``
        the second segment holds the newest 200 of what is given here.

        Args:
            x: Old behaviours, oldest first, shape ``[B, L, D]``.
            mask: Which are real, shape ``[B, L]``, bool.

        Returns:
            Keys and values of the learned tokens at each layer.

        Raises:
            ValueError: If the shapes do not fit.
        """
        offsets = [offset for offset, _ in self.insert]
        shift = offsets[-1] if offsets[-1] < 0 else 0
        pieces, _ = self._pieces(x, mask, [offset - shift for offset in offsets[:-1]])
        _, memory, before = self._compressed(pieces)
        return TokenStates(
            keys=torch.stack([key for key, _, _ in memory]),
            values=torch.stack([value for _, value, _ in memory]),
            mask=memory[0][2],
            length=before,
        )

    def recent(self, x: Tensor, mask: Tensor, states: TokenStates) -> Tensor:
        """Encode recent behaviours over compressed old ones.

        Args:
            x: Behaviours after those compressed, oldest first, shape ``[B, L, D]``.
            mask: Which are real, shape ``[B, L]``, bool.
            states: What :meth:`compress` returned, row by row, perhaps read from a cache.

        Returns:
            States of the behaviours, shape ``[B, L, D]``, zero at padding.

        Raises:
            ValueError: If the shapes do not fit, among them the number of layers or heads.
        """
        x = _check.shape(x, "x", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [x.shape[0], x.shape[1]])
        like = [len(self.blocks), x.shape[0], self.num_heads, -1, self.head_dim]
        keys = _check.shape(states.keys, "states.keys", like)
        like = [len(self.blocks), x.shape[0], self.num_heads, keys.shape[3], self.head_dim]
        values = _check.shape(states.values, "states.values", like)
        seen = _padding.boolean(states.mask, "states.mask", [x.shape[0], keys.shape[3]])
        before = _check.shape(states.length, "states.length", [x.shape[0]])
        before = _check.integer(before, "states.length")
        memory = [(keys[layer], values[layer], seen) for layer in range(len(self.blocks))]
        return self._recent(x, real, memory, before)

    def _recent(self, items: Tensor, real: Tensor, memory: list[Memory], before: Tensor) -> Tensor:
        blocks = _segment_pass.listed(self.blocks)
        places = _segment_pass.following(before, real)
        return _segment_pass.run(blocks, items, real, places, memory, items.shape[1])[0]

    def _compressed(
        self, pieces: list[tuple[Tensor, Tensor]]
    ) -> tuple[list[Tensor], list[Memory], Tensor]:
        """States of the behaviours of each segment, memory of the tokens, how many came before."""
        blocks = _segment_pass.listed(self.blocks)
        states: list[Tensor] = []
        memory: list[Memory] | None = None
        before = pieces[0][1].sum(dim=1) * 0
        for number, (items, items_real) in enumerate(pieces):
            tokens, tokens_real = self._learned(number, items, items_real)
            real = torch.cat([items_real, tokens_real], dim=1)
            places = _segment_pass.following(before, real)
            both = torch.cat([items, tokens], dim=1)
            y, kept = _segment_pass.run(blocks, both, real, places, memory, items.shape[1])
            states.append(y[:, : items.shape[1]])
            memory = _segment_pass.joined(memory, kept)
            before = before + real.sum(dim=1)
        return states, memory or [], before

    def _learned(self, number: int, items: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        first = sum(k for _, k in self.insert[:number])
        tokens = self.tokens[first : first + self.insert[number][1]].to(items.dtype)
        tokens = tokens.unsqueeze(0).expand(items.shape[0], -1, -1)
        return tokens, real.any(dim=1, keepdim=True).expand(-1, self.insert[number][1])

    def _pieces(
        self, x: Tensor, mask: Tensor, offsets: list[int]
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The behaviours of each segment, without padding inside, and where each of them went."""
        x = _check.shape(x, "x", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [x.shape[0], x.shape[1]])
        from_newest = self.insert[0][0] < 0
        x, real, back = _segment_pass.in_order(
            _padding.zeroed(x, real), real, real_last=from_newest
        )
        starts, ends = [None, *offsets], [*offsets, None]
        cuts = zip(starts, ends, strict=True)
        return [(x[:, start:end], real[:, start:end]) for start, end in cuts], back


def _pairs(insert: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    pairs = tuple((int(offset), int(k)) for offset, k in insert)
    offsets = [offset for offset, _ in pairs]
    one_sign = all(o > 0 for o in offsets) or all(o < 0 for o in offsets)
    if not offsets or not one_sign or sorted(set(offsets)) != offsets:
        raise ValueError(f"insert must have ascending offsets of one sign, got {list(insert)}")
    if min(k for _, k in pairs) < 0:
        raise ValueError(f"insert must not have a negative k, got {list(insert)}")
    return pairs
