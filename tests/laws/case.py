"""One module and how to use it, and what inputs are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

C, L, D = 3, 7, 4  # candidates, behaviours, width
ATTENTION = "query.weight query.bias key.weight value.weight value.bias out.weight out.bias"
PROJECTIONS = "query.weight key.weight value.weight out.weight"
SWIGLU = "gate.weight up.weight out.weight"
BLOCK = " ".join(
    ["attention_norm.weight ffn_norm.weight"]
    + [f"attention.{name}" for name in PROJECTIONS.split()]
    + [f"ffn.{name}" for name in SWIGLU.split()]
)
CODEBOOK = torch.randn(6, D, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Case:
    """A module and how to use it."""

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    state: str
    masks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    rows: bool = True  # False: rows are compared with each other, as in a contrastive loss

    @property
    def __name__(self):
        return type(self.build()).__name__


def prefixed(*names):
    return " ".join(f"{name}.{part}" for name in names for part in ATTENTION.split())


def under(name, state):
    return " ".join(f"{name}.{part}" for part in state.split())


def linear(*names):
    return "".join(f"{name}.weight {name}.bias " for name in names)


def mask(*shape):
    real = torch.rand(shape) < 0.7
    real[: min(1, len(real))] = False  # the first row has no history
    return real


def history(rows, **widths):
    """A mask, times that tie, a request within them, and one vector a behaviour for each width."""
    vectors = {name: torch.randn(rows, L, width) for name, width in widths.items()}
    times, now = torch.randint(0, 9, (rows, L)), torch.randint(4, 9, (rows,))
    return {**vectors, "mask": mask(rows, L), "times": times, "now": now}


def without_times(rows, **widths):
    given = history(rows, **widths)
    return {name: given[name] for name in (*widths, "mask")}
