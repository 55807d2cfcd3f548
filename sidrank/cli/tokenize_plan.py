"""What `sidrank tokenize` was asked to do, checked before anything is read.

Shapes: ``N`` levels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sidrank.cli.tokenize_items import ItemColumns
from sidrank.cli.tokenize_table import POLICIES
from sidrank.cli.tokenizer_names import TOKENIZERS, WEIGHED, tokenizer_of
from sidrank.semantic_ids import SIDBundle, load_bundle
from sidrank.tokenizers.protocol import Tokenizer

__all__ = ["OldBundle", "Plan", "as_levels", "check_plan", "open_old"]


class Plan(NamedTuple):
    """How the codes are to be made; None where the user said nothing."""

    tokenizer: str | None = None
    """One of ``TOKENIZERS``."""
    levels: Sequence[int] | None = None
    """Codebook sizes."""
    sample: int | None = None
    """Items to learn from."""
    seed: int | None = None
    collisions: str | None = None
    """One of ``POLICIES``."""
    append_to: Path | None = None
    """A bundle whose tokenizer and table are taken."""


class OldBundle(NamedTuple):
    """The bundle that is added to."""

    bundle: SIDBundle
    tokenizer: Tokenizer
    suffix: bool
    """Whether its table has a level that the tokenizer lacks, which numbers items of one SID."""


def as_levels(text: str) -> tuple[int, ...]:
    """Read codebook sizes.

    Args:
        text: Whole numbers joined by commas.

    Returns:
        The sizes.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> as_levels("256,256,64")
        (256, 256, 64)
    """
    sizes = [size.strip() for size in text.split(",")]
    if not all(size.isascii() and size.isdigit() and 0 < int(size) < 2**31 for size in sizes):
        raise ValueError(
            f"levels must be whole numbers of at least 1, joined by commas, got {text!r}"
        )
    return tuple(int(size) for size in sizes)


def check_plan(plan: Plan, columns: ItemColumns) -> None:
    """Refuse what is unknown, missing or of no use.

    Args:
        plan: What the user wants.
        columns: The columns that are named.

    Raises:
        ValueError: If something is.
    """
    if plan.tokenizer is not None and plan.tokenizer not in TOKENIZERS:
        names = ", ".join(TOKENIZERS)
        raise ValueError(f"tokenizer must be one of {names}, got {plan.tokenizer!r}")
    if plan.collisions is not None and plan.collisions not in POLICIES:
        names = ", ".join(POLICIES)
        raise ValueError(f"collisions must be one of {names}, got {plan.collisions!r}")
    if plan.append_to is None:
        for name in ("tokenizer", "levels"):
            if getattr(plan, name) is None:
                raise ValueError(f"{name} must be given unless append-to is, got none")
        if columns.weight is not None and plan.tokenizer not in WEIGHED:
            raise ValueError(
                f"weight must come with {' or '.join(WEIGHED)}, got it with {plan.tokenizer}"
            )
        return
    unused = {"sample": plan.sample, "seed": plan.seed, "weight": columns.weight}
    for name, value in unused.items():
        if value is not None:
            raise ValueError(
                f"{name} must not be given with append-to, where nothing is learned, got {value}"
            )
    if columns.text:
        raise ValueError(
            "text must not be given with append-to, because its vectors mean something beside "
            f"each other only, got {','.join(columns.text)}: give an embedding"
        )


def open_old(path: Path, plan: Plan) -> OldBundle:
    """Load the bundle that is added to; the plan must not want anything else than it has.

    Args:
        path: Where it lies.
        plan: What the user wants.

    Returns:
        The bundle, with its tokenizer.

    Raises:
        ValueError: If it is not whole, or its tokenizer, levels or policy are other ones.
    """
    bundle = load_bundle(path)
    name, tokenizer = tokenizer_of(bundle, path)
    if plan.tokenizer not in (None, name):
        raise ValueError(f"tokenizer must be {name} as in {path}, got {plan.tokenizer}")
    levels, sizes = tuple(tokenizer.levels), bundle.table.spec.codebook_sizes
    if plan.levels is not None and tuple(plan.levels) != levels:
        wanted, got = _joined(levels), _joined(plan.levels)
        raise ValueError(f"levels must be {wanted} as in {path}, got {got}")
    suffix = sizes != levels
    if suffix and sizes[:-1] != levels:
        raise ValueError(
            f"{path} must have the levels {_joined(levels)} of its tokenizer, got {_joined(sizes)}"
        )
    if suffix and plan.collisions not in (None, "suffix"):
        raise ValueError(f"collisions must be suffix as in {path}, got {plan.collisions}")
    if not suffix and plan.collisions == "suffix":
        raise ValueError(f"collisions must not be suffix: {path} has no such level")
    return OldBundle(bundle, tokenizer, suffix)


def _joined(levels: Sequence[int]) -> str:
    return ",".join(str(size) for size in levels)
