r"""Do static features flatten what a unified model knows of a sequence?

A ranker that puts fields and behaviours into one stream may let the few static tokens, which every
behaviour attends to, pull all behaviours into the same few directions: sequential collapse
propagation (SCP). The diagnosis runs a model twice, as it is and with its static tokens masked,
and compares the effective rank of the behaviours' states, layer by layer. Hooks read the states,
so the model may be anybody's.

Source: TokenFormer, arXiv 2604.13737: effective rank of one role's tokens over at least 4096 rows,
score = rank with static tokens / rank without, below 1 and falling with depth where a model
collapses. Differs from the source: the ratio is given for every role that both runs have.

Diagnose **trained** models only. At birth static tokens cost about 1% of the rank and sliding
windows 3%, by mere mixing: the order of architectures says nothing then, and may be the opposite
of that of the trained ones.

Shapes: ``B`` rows, ``T`` tokens, ``D`` width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sidrank.metrics.effective_rank import StreamingEffectiveRank

__all__ = ["SequentialCollapse", "sequential_collapse"]

Run = Callable[[Any, Any], object]
Roles = Tensor | NDArray[Any] | Callable[[str, Tensor, Any], Tensor | NDArray[Any]]


@dataclass(frozen=True)
class SequentialCollapse:
    """What :func:`sequential_collapse` found; print it for a table.

    Attributes:
        layers: Names of the modules, in the order asked for.
        roles: Names of the roles.
        present: Effective rank of each layer and role, static tokens present, shape
            ``[layers, roles]``; NaN where there is no such token.
        masked: The same with static tokens masked.
        rows: Tokens counted in each layer and role with static tokens present, int64.
        masked_rows: The same with static tokens masked.
    """

    layers: tuple[str, ...]
    roles: tuple[str, ...]
    present: NDArray[np.float64]
    masked: NDArray[np.float64]
    rows: NDArray[np.int64]
    masked_rows: NDArray[np.int64]

    @property
    def score(self) -> NDArray[np.float64]:
        """``present / masked``, shape ``[layers, roles]``: below 1 static tokens cost rank."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.present / self.masked

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON.

        Returns:
            One entry a layer, of one a role, with ``present``, ``masked``, ``score`` (None where
            there is none) and ``rows``.
        """
        score = self.score
        return {
            layer: {
                role: {
                    "present": _number(self.present[i, j]),
                    "masked": _number(self.masked[i, j]),
                    "score": _number(score[i, j]),
                    "rows": int(self.rows[i, j]),
                }
                for j, role in enumerate(self.roles)
            }
            for i, layer in enumerate(self.layers)
        }

    def __str__(self) -> str:
        score = self.score
        lines = [("layer", "role", "rows", "present", "masked", "score")]
        for i, layer in enumerate(self.layers):
            for j, role in enumerate(self.roles):
                present, masked = f"{self.present[i, j]:.2f}", f"{self.masked[i, j]:.2f}"
                rows = str(self.rows[i, j])
                lines.append((layer, role, rows, present, masked, f"{score[i, j]:.4f}"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                word.ljust(width) if place < 2 else word.rjust(width)
                for place, (word, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def sequential_collapse(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str],
    roles: Roles,
    role_names: Sequence[str],
    present: Run,
    masked: Run,
    min_rows: int = 4096,
) -> SequentialCollapse:
    """Compare the rank of token states with static tokens present and masked.

    Give it a trained model and held-out batches. Each batch is run twice in evaluation mode,
    without gradients; afterwards the model is as it was: mode, gradients and hooks, also if a run
    fails.

    Args:
        model: Any module.
        batches: Batches in whatever form the two runs take; read once. ``[batch]`` for one.
        layers: Names of modules inside ``model``, as in ``named_modules``, that answer token
            states ``[B, T, D]`` (or a tuple that starts with them) once a run.
        roles: Role of each token, an index of ``role_names``, or negative for padding and what
            is not to be counted: integers of shape ``[T]`` or ``[B, T]``; or a function of the
            layer's name, its states and the batch that returns them, for layers that drop
            tokens and batches of different shapes.
        role_names: Name of each role.
        present: Runs the model on a batch as it is: ``lambda model, batch: model(*batch)``.
        masked: Runs it with static tokens hidden from all others, by an attention mask or by
            leaving them out (then ``roles`` must be a function).
        min_rows: Fewest tokens of a role in a layer. With less the rank is low for want of rows;
            below a few times ``D`` it says nothing.

    Returns:
        The report.

    Raises:
        ValueError: If a layer is unknown, named twice, or does not run exactly once a batch; its
            states are not finite or of another shape; a role does not fit; a role has fewer than
            ``min_rows`` tokens, or not the same number in both runs (unless one has none); or
            no role has any.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        >>> hidden = torch.zeros(6, 6, dtype=torch.bool)
        >>> hidden[2:, :2] = True  # the last four tokens do not see the first two
        >>> report = sequential_collapse(
        ...     model,
        ...     [torch.randn(500, 6, 8)],
        ...     layers=["layers.0", "layers.1"],
        ...     roles=torch.tensor([0, 0, 1, 1, 1, 1]),
        ...     role_names=["static", "behaviour"],
        ...     present=lambda model, x: model(x),
        ...     masked=lambda model, x: model(x, mask=hidden),
        ...     min_rows=1000,
        ... )
        >>> report.rows.tolist(), report.score.shape
        ([[1000, 2000], [1000, 2000]], (2, 2))
    """
    names, parts = tuple(role_names), dict(model.named_modules())
    _check_names(layers, "layers")
    _check_names(names, "role_names")
    for layer in layers:
        if layer not in parts:
            raise ValueError(f"layers must be names of modules in model, got {layer!r}")
    if min_rows < 2:
        raise ValueError(f"min_rows must be at least 2, got {min_rows}")
    modes = [(part, part.training) for part in model.modules()]
    # torch's fused encoder packs real tokens into a nested tensor, whose rows no role fits
    fused = torch.backends.mha.get_fastpath_enabled()
    ranks: list[dict[tuple[str, int], StreamingEffectiveRank]] = [{}, {}]
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            for batch in batches:
                for run, found in zip((present, masked), ranks, strict=True):
                    reader = _Reader(batch, roles, len(names), found)
                    with ExitStack() as hooks:
                        for layer in layers:
                            hooks.callback(reader.follow(layer, parts[layer]).remove)
                        run(model, batch)
                    reader.check_runs()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, training in modes:
            part.training = training
    return _report(tuple(layers), names, ranks, min_rows)


class _Reader:
    """Reads the states of one run as they appear: a model may overwrite them afterwards."""

    def __init__(
        self,
        batch: Any,
        roles: Roles,
        num_roles: int,
        found: dict[tuple[str, int], StreamingEffectiveRank],
    ) -> None:
        self.batch = batch
        self.roles = roles
        self.num_roles = num_roles
        self.found = found
        self.runs: dict[str, int] = {}

    def follow(self, layer: str, part: nn.Module) -> RemovableHandle:
        self.runs[layer] = 0

        def read(_part: nn.Module, _inputs: Any, output: Any) -> None:
            self.runs[layer] += 1
            self.read(layer, output[0] if isinstance(output, tuple) else output)

        return part.register_forward_hook(read)

    def read(self, layer: str, x: object) -> None:
        if not isinstance(x, Tensor):
            raise ValueError(f"layers must answer a tensor, got {type(x).__name__} from {layer!r}")
        if x.is_nested or x.dim() != 3:
            got = "a nested tensor" if x.is_nested else f"shape {list(x.shape)}"
            raise ValueError(f"layers must answer states [B, T, D], got {got} from {layer!r}")
        given = self.roles(layer, x, self.batch) if callable(self.roles) else self.roles
        roles = _role_matrix(given, x, layer, self.num_roles)
        for role in roles[roles >= 0].unique().tolist():
            chosen = x[roles == role]
            if not bool(chosen.isfinite().all()):
                raise ValueError(f"layers must answer finite states, got others from {layer!r}")
            self.found.setdefault((layer, role), StreamingEffectiveRank()).update(chosen)

    def check_runs(self) -> None:
        for layer, runs in self.runs.items():
            if runs != 1:
                raise ValueError(f"layers must run once a batch, got {runs} times {layer!r}")


def _role_matrix(roles: object, states: Tensor, layer: str, number: int) -> Tensor:
    matrix = torch.as_tensor(roles, device=states.device)
    if matrix.is_floating_point() or matrix.is_complex() or matrix.dtype == torch.bool:
        raise ValueError(f"roles must be integers, got {matrix.dtype}")
    rows, tokens = states.shape[:2]
    if list(matrix.shape) not in ([tokens], [rows, tokens]):
        raise ValueError(
            f"roles must have shape [{tokens}] or [{rows}, {tokens}] for {layer!r},"
            f" got {list(matrix.shape)}"
        )
    if matrix.numel() and int(matrix.max()) >= number:
        raise ValueError(f"roles must be below {number}, got {int(matrix.max())}")
    return matrix.expand(rows, tokens)


def _report(
    layers: tuple[str, ...],
    names: tuple[str, ...],
    ranks: list[dict[tuple[str, int], StreamingEffectiveRank]],
    min_rows: int,
) -> SequentialCollapse:
    shape = (2, len(layers), len(names))
    values, rows = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for side, found in enumerate(ranks):
        for (layer, role), rank in found.items():
            place = side, layers.index(layer), role
            if rank.rows < min_rows:
                raise ValueError(
                    f"batches must have at least {min_rows} tokens of role {names[role]!r}"
                    f" in {layer!r}, got {rank.rows}"
                )
            values[place], rows[place] = rank.compute(), rank.rows
    if not rows.any():
        raise ValueError("batches must have at least one token that has a role, got none")
    for i, layer in enumerate(layers):
        for j, name in enumerate(names):
            one, other = int(rows[0, i, j]), int(rows[1, i, j])
            if one and other and one != other:
                raise ValueError(
                    f"roles must give as many tokens in both runs, got {one} and {other}"
                    f" of role {name!r} in {layer!r}"
                )
    return SequentialCollapse(layers, names, values[0], values[1], rows[0], rows[1])


def _check_names(names: Sequence[str], argument: str) -> None:
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a sequence of names, got the string {names!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{argument} must be different names, at least one, got {list(names)}")


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
