"""Semantic IDs that follow a taxonomy: parallel heads trained on item vectors.

The tokenizer for those who have item vectors and categories but no item tower: a small
perceptron is the tower, :class:`~sidrank.tokenizers.ParallelSIDHead` sits on it, and both learn
``L_sid`` (same category path, level by level) and, given co-engaged pairs, ``L_emb``.

Category labels are knowledge that the vectors alone do not have, so residual k-means on the same
vectors is no fair control. Residual k-means on :meth:`UniSID.embed`, which knows the same
categories, is one, and on planted trees its first level follows the taxonomy better than that of
the heads. What the heads have over it is that each level means something without those before.

Source: UniSID, arXiv 2602.10445. Differs from the source, beyond what
``parallel_sid_head.py`` says:

- [derived] a perceptron of one hidden layer on standardised vectors is the tower;
- [derived] the source rebuilds no vectors. Here each level gets a codeword per code after
  training, the mean of what the levels before left over, and a vector is their sum.

Shapes: ``V`` items, ``D`` width of a vector, ``d`` of the tower's output, ``N`` levels, ``K_l``
codes, ``P`` pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidrank.losses import two_way_info_nce
from sidrank.tokenizers._descent import batch_size, descend
from sidrank.tokenizers._descriptions import as_json, described
from sidrank.tokenizers._drawn_weights import draw_linear_layers
from sidrank.tokenizers._epochs import Training, untouched
from sidrank.tokenizers._inputs import as_codes, as_pairs, as_vectors
from sidrank.tokenizers._mlp import exact_linear
from sidrank.tokenizers._state import taken_over
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.parallel_sid_head import (
    ParallelSIDHead,
    UniSIDWeights,
    nested_categories,
    sid_loss,
)
from sidrank.tokenizers.protocol import Progress

__all__ = ["UniSID"]

_BLOCK = 1 << 20  # float64 numbers in the widest layer of one block: 8 MiB


class UniSID:
    """Parallel-head tokenizer for item vectors with nested categories.

    The same vectors, categories, arguments and seed give the same weights, and a vector gives
    the same codes in a batch of any size, with any number of threads.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``; level ``l`` learns the categories of depth
            ``l``, so a few codes per category are enough.
        width: Width ``d`` of the tower's output, and of its hidden layer.
        weights: Weights of ``L_sid`` and ``L_emb``; there is no ``L_rec`` here.
        temperature: What cosines are divided by.
        training: How long and how fast to train; None takes batches of 512.
        seed: Seed of weights and of the order of items.

    Raises:
        ValueError: If there is no level, a number is too small, or a weight is given to a
            reconstruction.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> tokenizer = UniSID(levels=(2,), width=8).fit(x, categories=[[0], [0], [1], [1]])
        >>> codes = tokenizer.encode(x)[:, 0].tolist()
        >>> codes[0] == codes[1], codes[2] == codes[3]
        (True, True)
    """

    def __init__(
        self,
        *,
        levels: Sequence[int] = (256, 256, 256),
        width: int = 128,
        weights: UniSIDWeights | Mapping[str, Any] | None = None,
        temperature: float = 0.1,
        training: Training | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.levels = tuple(levels)
        self.width = width
        self.weights = described(
            UniSIDWeights, UniSIDWeights(reconstruction=0.0) if weights is None else weights
        )
        if self.weights.reconstruction > 0 or self.weights.sid == 0:
            raise ValueError(
                f"weights must have sid above 0 and reconstruction 0 for UniSID, got {self.weights}"
            )
        self.temperature = temperature
        self.training = described(Training, training or Training(batch_size=512))
        self.seed = seed
        self._state: dict[str, Tensor] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
            "width": self.width,
            "weights": as_json(self.weights),
            "temperature": self.temperature,
            "training": as_json(self.training),
            "seed": self.seed,
        }

    def fit(
        self,
        x: Tensor | NDArray[Any],
        *,
        weights: Tensor | NDArray[Any] | None = None,
        pairs: Tensor | NDArray[Any] | None = None,
        progress: Progress | None = None,
        categories: Tensor | NDArray[Any] | Sequence[Sequence[int]] | None = None,
    ) -> Self:
        """Learn the tower and the heads.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32.
            weights: Must be None: every item counts the same.
            pairs: Rows of co-engaged items, shape ``[P, 2]``, for ``L_emb``; None leaves
                ``L_emb`` out.
            progress: Told after every epoch.
            categories: Category ids, coarse to fine, shape ``[V, N]``, -1 where unknown; must
                be given. An id of level ``l`` is below one id of level ``l - 1``.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37; if
                categories are missing, not nested, of another shape, or no two items share
                one; if ``weights`` are given, or pairs that have no weight; or if the loss
                does not stay finite.
            TypeError: If categories or pairs are not integers.
        """
        x = as_vectors(x)
        if x.numel() == 0:
            raise ValueError(f"x must hold at least one number, got {list(x.shape)}")
        if weights is not None:
            raise ValueError("weights must be None for UniSID, got some")
        if categories is None:
            raise ValueError("categories must be given for UniSID, got None")
        paths = nested_categories(categories).to(x.device)
        if list(paths.shape) != [len(x), len(self.levels)]:
            raise ValueError(
                f"categories must have shape {[len(x), len(self.levels)]}, got {list(paths.shape)}"
            )
        known = paths[:, 0][paths[:, 0] >= 0]
        if len(known.unique()) == len(known):
            raise ValueError("categories must join two items or more, got none that share one")
        joined = as_pairs(pairs, len(x))
        if joined is not None and self.weights.embedding == 0:
            raise ValueError("pairs must be None if weights.embedding is 0, got some")
        with untouched(x.device):
            self._state = self._learn(x, paths, joined, progress)
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Take the code with the largest logit at each level.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``.

        Raises:
            NotFittedError: If it has not learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        state = self._fitted()
        x = as_vectors(x, width=len(state["shift"]))
        here = {name: tensor.to(x.device) for name, tensor in state.items()}
        return _codes(x, here, len(self.levels))

    def embed(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Compute what the tower makes of vectors: they are close if their categories are.

        It is what the heads read, and the vector for a control: residual k-means on it knows
        the same categories.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Unit vectors, shape ``[n, d]``, float32, on the device of ``x``.

        Raises:
            NotFittedError: If it has not learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        state = self._fitted()
        x = as_vectors(x, width=len(state["shift"]))
        here = {name: tensor.to(x.device) for name, tensor in state.items()}
        unit = torch.empty(len(x), self.width, dtype=torch.float32, device=x.device)
        for rows, h in _states(x, here):
            square = exact_linear(h * h, h.new_ones(1, h.shape[1]), h.new_zeros(1))
            unit[rows] = (h / square.sqrt().clamp(min=1e-150)).float()
        return unit

    def decode(self, codes: Tensor | NDArray[Any]) -> Tensor:
        """Rebuild vectors as sums of codewords, which were fitted after training.

        Args:
            codes: Codes, shape ``[n, N]``, any integer dtype.

        Returns:
            Vectors, shape ``[n, D]``, float32, on the device of ``codes``.

        Raises:
            NotFittedError: If it has not learned yet.
            TypeError: If ``codes`` are not integers.
            ValueError: If ``codes`` has another number of levels or leaves a codebook.
        """
        state = self._fitted()
        codes = as_codes(codes, self.levels).long()
        total = state["shift"].to(codes.device).expand(len(codes), -1)
        for level in range(len(self.levels)):
            total = total + state[f"codebooks.{level}"].to(codes.device)[codes[:, level]]
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learned.

        Returns:
            ``shift`` and ``scale`` of the vectors, ``tower.*``, ``heads.*`` and ``codebooks.0``
            to ``codebooks.{N-1}``, float32.

        Raises:
            NotFittedError: If it has not learned yet.
        """
        return {name: tensor.clone() for name, tensor in self._fitted().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take what another tokenizer with the same arguments has learned.

        Args:
            state: What :meth:`state_dict` returned.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a tensor is missing, unknown, not float32, not finite, or of
                another shape.
        """
        shift = state.get("shift")
        inputs = max(1, shift.numel() if shift is not None else 1)
        shapes: dict[str, Sequence[int]] = {"shift": [inputs], "scale": [1]}
        for name, tensor in self._network(inputs).state_dict().items():
            shapes[name] = list(tensor.shape)
        for level, size in enumerate(self.levels):
            shapes[f"codebooks.{level}"] = [size, inputs]
        self._state = taken_over(state, shapes)
        return self

    def _network(self, inputs: int) -> "_Network":
        with torch.device("meta"):  # neither memory nor the global generator
            return _Network(inputs, self.width, self.levels)

    def _learn(
        self, x: Tensor, paths: Tensor, pairs: Tensor | None, progress: Progress | None
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        shift = x.double().mean(dim=0).float()
        scale = (x - shift).double().square().mean().sqrt().float().reshape(1)
        scale = torch.where(scale > 0, scale, 1.0)
        standard = (x - shift) / scale
        network = self._network(x.shape[1]).to_empty(device=x.device)
        draw_linear_layers(network, generator)
        size = batch_size(self.training, len(x))
        partners = None if pairs is None else _without_end(pairs, size, generator)

        def loss_of(rows: Tensor) -> Tensor:
            logits = network.head(network.tower(standard[rows]))
            loss = self.weights.sid * sid_loss(logits, paths[rows], temperature=self.temperature)
            if partners is not None:
                both = next(partners)
                left, right = (network.tower(standard[side]) for side in both.T)
                pulled = two_way_info_nce(left, right, temperature=self.temperature, pairs=both)
                loss = loss + self.weights.embedding * pulled
            return loss

        descend(
            network.parameters(),
            len(x),
            loss_of,
            training=self.training,
            generator=generator,
            progress=progress,
        )
        learned = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        state = {"shift": shift, "scale": scale} | learned
        state |= _codebooks(x, _codes(x, state, len(self.levels)), shift, self.levels)
        return {name: tensor.cpu().contiguous() for name, tensor in state.items()}

    def _fitted(self) -> dict[str, Tensor]:
        if not self._state:
            raise NotFittedError("UniSID must be fitted or loaded first, got no weights")
        return self._state


class _Network(nn.Module):
    """The tower and the heads on it."""

    def __init__(self, inputs: int, width: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
        self.head = ParallelSIDHead(dim=width, levels=levels)


def _states(x: Tensor, state: Mapping[str, Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """What the tower puts out, block by block, by exact sums: no batch changes a bit."""
    first, last = _layer(state, "tower.0"), _layer(state, "tower.2")
    widest = max(tensor.shape[0] for name, tensor in state.items() if name.endswith("bias"))
    step = max(1, _BLOCK // max(x.shape[1], widest))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        standard = (x[rows].double() - state["shift"].double()) / state["scale"].double()
        yield rows, exact_linear(exact_linear(standard, *first).relu(), *last)


def _codes(x: Tensor, state: Mapping[str, Tensor], levels: int) -> Tensor:
    """Code with the largest logit at each level."""
    codes = torch.empty(len(x), levels, dtype=torch.int32, device=x.device)
    for rows, h in _states(x, state):
        for level in range(levels):
            logits = exact_linear(h, *_layer(state, f"head.heads.{level}"))
            codes[rows, level] = logits.argmax(dim=1).int()
    return codes


def _layer(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _codebooks(x: Tensor, codes: Tensor, shift: Tensor, levels: Sequence[int]) -> dict[str, Tensor]:
    """Mean of what the levels before left over, per code; 0 for a code without items."""
    books: dict[str, Tensor] = {}
    left = x.double() - shift.double()
    for level, size in enumerate(levels):
        own = codes[:, level].long()
        sums = left.new_zeros(size, x.shape[1]).index_add_(0, own, left)
        book = sums / own.bincount(minlength=size).clamp(min=1).unsqueeze(1)
        left = left - book[own]
        books[f"codebooks.{level}"] = book.float()
    return books


def _without_end(pairs: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from pairs[torch.randperm(len(pairs), generator=generator).to(pairs.device)].split(
            size
        )
