"""What an exported ranker must answer before it is let near a request.

The folder carries real requests and the logits that the model gave when it was exported. A
program that was read wrongly, on another processor, by another torch, or beside another table,
does not give them again.

Shapes: ``N`` candidates, ``M`` tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank.embeddings import RankingRequests

__all__ = ["FILE", "check", "expected"]

FILE = "self_test.safetensors"


def expected(model: nn.Module, requests: RankingRequests) -> Tensor:
    """Ask a model what a served one will be asked.

    Args:
        model: The ranker.
        requests: The requests.

    Returns:
        Logits, shape ``[N, M]``.

    Raises:
        ValueError: If there is no candidate, or the logits are not finite or not a row each.
    """
    number = requests.candidates.stride()
    if number == 0:
        raise ValueError("requests must have at least one candidate, got none")
    with torch.no_grad():
        logits = model.rank(requests)  # pyright: ignore[reportCallIssue]
    if logits.dim() != 2 or logits.shape[0] != number:
        raise ValueError(f"model must give logits of shape [{number}, M], got {list(logits.shape)}")
    if not bool(logits.isfinite().all()):
        wrong = int((~logits.isfinite()).sum())
        raise ValueError(f"model must give finite logits of requests, got {wrong} that are not")
    return logits


def check(found: Tensor, wanted: Tensor, tasks: Sequence[str], tolerance: float, what: str) -> None:
    """Compare what a program gave with what it must give.

    Args:
        found: Its logits.
        wanted: The expected ones, shape ``[N, M]``.
        tasks: Names of the columns.
        tolerance: Largest difference, as a share of ``1 + |wanted|``.
        what: The program, for the error.

    Raises:
        ValueError: If one differs by more, with the worst of them.
    """
    if found.shape != wanted.shape:
        raise ValueError(
            f"{what} must pass its self-test, got logits of shape {list(found.shape)} for "
            f"{list(wanted.shape)}"
        )
    share = (found.double() - wanted.double()).abs() / (1 + wanted.double().abs())
    wrong = ~(share <= tolerance)  # so that NaN is wrong
    if bool(wrong.any()):
        worst = int(torch.where(wrong, share.nan_to_num(torch.inf), -1).argmax())
        row, column = divmod(worst, wanted.shape[1])
        raise ValueError(
            f"{what} must pass its self-test: logit {row} of {tasks[column]} must be"
            f" {wanted[row, column]:.7g} within {tolerance:g} of 1 + |logit|, got"
            f" {found[row, column]:.7g} ({int(wrong.sum())} of {wrong.numel()} differ)"
        )
