"""TorchRec's operators in torch's own words, so that a program needs torch alone.

A batch that TorchRec takes apart leaves operators of FBGEMM in the trace: offsets of bags, and bags
as padded rows. Both are a few lines of torch, and as fast beside what they feed. A program with
other operators of FBGEMM (models that permute features inside) keeps them, and its manifest says
that it ``needs`` the module.

Source: ours.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.nn import functional

__all__ = ["in_plain_operators", "operators_of"]


def in_plain_operators(program: ExportedProgram) -> ExportedProgram:
    """Put torch's operators in the place of FBGEMM's, where there are any.

    Args:
        program: The program.

    Returns:
        One that gives the same.
    """
    known: dict[OpOverload, Callable[..., Any]] = {
        torch.ops.fbgemm.asynchronous_complete_cumsum.default: _offsets,
        torch.ops.fbgemm.jagged_to_padded_dense.default: _padded,
    }
    if not operators_of(program) & known.keys():
        return program
    return program.run_decompositions(cast(Any, known))


def operators_of(program: ExportedProgram) -> set[OpOverload]:
    """All operators that a program calls.

    Args:
        program: The program.

    Returns:
        Each once.
    """
    return {
        node.target
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, OpOverload)
    }


def _offsets(lengths: Tensor) -> Tensor:
    return functional.pad(lengths.cumsum(-1, dtype=lengths.dtype), (1, 0))


def _padded(
    values: Tensor, offsets: list[Tensor], max_lengths: list[int], padding_value: float = 0.0
) -> Tensor:
    return torch.ops.aten._jagged_to_padded_dense_forward(
        values, offsets, max_lengths, padding_value
    )
